"""The options about where images are written, and in which format: ``--out`` and ``--format``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ociexport.cli.configuration import leave_out_configured
from ociexport.errors import UsageError, printable, quoted
from ociexport.storage.archive.names import compression_of, is_archive_name
from ociexport.system.files import is_stream, open_stream
from ociexport.transfer.sources.names import is_s3_url, is_url, parse_remote_layout

_LAYOUT = "oci"
_FORMATS = (_LAYOUT, "oci-archive", "docker-archive")
_OTHER_SUFFIXES = (".tar.xz", ".tar.bz2")


def add_out_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to ``parser``; `verify_is_given` checks that the first is there."""
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        help="OCI layout (a new or empty directory, or a layout), or archive (a file *.tar, *.tar.gz or *.tar.zst; "
        "- is standard output)",
    )
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        help="format of PATH, if its name does not tell; both archives are the same: a layout in a tar, as docker load "
        "accepts it",
    )
    parser.add_argument(
        "--decompress",
        action="store_true",
        help="store layers as plain tars; the manifest's digest changes, the image ID in docker does not",
    )
    parser.add_argument(
        "--legacy",
        action="store_true",
        help="write an archive for docker before 1.10: plain layers in directories, no layout",
    )


def verify_is_given(options: argparse.Namespace, *, has_images: bool) -> None:
    """Return if the command line says what to copy and where to.

    argparse can't check it, since a list of images takes the place of IMAGE.

    Raises:
        UsageError: names what is missing.
    """
    missing = [*(["IMAGE"] if not has_images else []), *(["-o/--out"] if options.out is None else [])]
    if missing:
        raise UsageError(
            f"{options.command}: expected {' and '.join(missing)}, got none",
            hint=f"for example ociexport {options.command} debian:12 --out ./layout",
        )


def is_archive(options: argparse.Namespace) -> bool:
    """Whether the images are written into one archive; otherwise into a layout.

    Raises:
        UsageError: the name is that of a compressed archive, or options contradict each other.
    """
    archive = _is_archive(options)
    if not archive:
        leave_out_configured(options, "legacy")
    if options.legacy and (not archive or options.format == "oci-archive"):
        raise UsageError(
            "--legacy: expected a docker archive to write, got an OCI layout", hint="--format docker-archive, or *.tar"
        )
    return archive


def _is_archive(options: argparse.Namespace) -> bool:
    if options.format == _LAYOUT and is_pipe(options.out):
        raise UsageError(
            f"--out {quoted(options.out)}: expected the directory of a layout, got a stream",
            hint="--format oci-archive is a layout in one file",
        )
    if is_url(options.out):
        _verify_is_layout_in_s3(options)
        return False
    if options.format is not None:
        return bool(options.format != _LAYOUT)
    if options.out.endswith(_OTHER_SUFFIXES):
        suffix = next(suffix for suffix in _OTHER_SUFFIXES if options.out.endswith(suffix))
        raise UsageError(
            f"--out {quoted(options.out)}: expected a layout, *.tar, *.tar.gz or *.tar.zst, got {suffix}",
            hint=f"did you mean --out {printable(options.out.removesuffix(suffix))}.tar.zst?",
        )
    return is_archive_name(options.out) or is_pipe(options.out)


def _verify_is_layout_in_s3(options: argparse.Namespace) -> None:
    """Return if the URL of ``--out`` is that of a whole layout in an object store.

    Raises:
        UsageError: it is another place, or an option beside it is for places on this machine.
    """
    expected = f"--out {quoted(options.out)}: expected"
    if not is_s3_url(options.out):
        raise UsageError(f"{expected} a place that can be written to: a path or s3://BUCKET/PATH, got a web server")
    layout = parse_remote_layout(options.out)
    if layout.image is not None:
        raise UsageError(
            f"{expected} a layout without a name, got {quoted(layout.image)} after it",
            hint=f"to name one copy: ociexport copy IMAGE {printable(options.out)}",
        )
    if is_archive_name(layout.path) or options.format not in (None, _LAYOUT):
        raise UsageError(f"{expected} a layout, got an archive, which can't be written to S3")
    for option in ("cache", "dry_run"):
        leave_out_configured(options, option)
        if getattr(options, option, None):
            raise UsageError(
                f"--{option.replace('_', '-')}: expected a place on this machine, got {quoted(options.out)}"
            )
    options.out = layout.path


@contextmanager
def opened_out(options: argparse.Namespace) -> Iterator[str | BinaryIO]:
    """Yield the path of the archive, or the stream to write it to.

    Raises:
        UsageError: standard output is a terminal.
    """
    if options.out == "-":
        if sys.stdout.isatty():
            raise UsageError(
                "--out -: expected a file or a pipe on standard output, got a terminal",
                hint="for example --out - | docker load",
            )
        yield sys.stdout.buffer
    elif is_pipe(options.out):
        with open_stream(options.out) as pipe:
            if pipe.isatty():
                raise UsageError(f"--out {quoted(options.out)}: expected a file or a pipe, got a terminal")
            from ociexport.storage.archive.writer import compressing  # noqa: PLC0415 - start-up: as in `pull`

            with compressing(pipe, compression_of(options.out)) as stream:
                yield stream
    else:
        yield options.out


def is_pipe(out: str) -> bool:
    """Whether ``out`` is a stream, which can only be written from start to end."""
    return out == "-" or is_stream(out)
