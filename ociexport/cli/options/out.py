"""The options about where images are written, and in which format: ``--out`` and ``--format``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ociexport.cli.configuration import leave_out_configured
from ociexport.errors import UsageError, quoted
from ociexport.system.files import is_stream, open_stream

_LAYOUT = "oci"
_FORMATS = (_LAYOUT, "oci-archive", "docker-archive")
_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


def add_out_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to ``parser``."""
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        required=True,
        help="OCI layout (a new or empty directory, or a layout), or archive (a file *.tar; - is standard output)",
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
    if options.format is not None:
        return bool(options.format != _LAYOUT)
    if options.out.endswith(_COMPRESSED_SUFFIXES):
        raise UsageError(
            f"--out {quoted(options.out)}: expected a layout or *.tar, got a compressed archive",
            hint=f"did you mean --out {_without_compression(options.out)}? its layers are already compressed",
        )
    return options.out.endswith(".tar") or is_pipe(options.out)


def _without_compression(out: str) -> str:
    suffix = next(suffix for suffix in _COMPRESSED_SUFFIXES if out.endswith(suffix))
    return f"{out.removesuffix(suffix)}.tar"


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
            yield pipe
    else:
        yield options.out


def is_pipe(out: str) -> bool:
    """Whether ``out`` is a stream, which can only be written from start to end."""
    return out == "-" or is_stream(out)
