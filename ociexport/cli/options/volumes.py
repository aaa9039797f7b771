"""The option of archives in several volumes: ``--volume-size``."""

from __future__ import annotations

import argparse

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.options.counts import parse_size
from ociexport.cli.options.out import is_pipe
from ociexport.errors import UsageError


def add_volume_argument(parser: argparse._ArgumentGroup) -> None:
    """Add the option to ``parser``."""
    parser.add_argument(
        "--volume-size",
        metavar="SIZE",
        type=parse_size,
        help="write the archive as volumes of at most this size: 700M, 4G (of 1024), 4.7GB (of 1000); for FILE.tar "
        "they are called FILE.1-of-3.tar and so on, with SHA256SUMS beside them",
    )


def volume_bytes_from(options: argparse.Namespace, *, is_archive: bool) -> int | None:
    """Return the most that a volume may have; None for an archive in one file.

    Raises:
        UsageError: the destination can't be written in volumes.
    """
    if not is_archive or options.decompress or options.legacy:
        leave_out_configured(options, "volume_size")
    if options.volume_size is None:
        return None
    if not is_archive or is_pipe(options.out):
        got = "a stream" if is_archive else "a layout"
        raise UsageError(
            f"--volume-size: expected the name of an archive for --out, got {got}", hint="for example --out update.tar"
        )
    if options.decompress or options.legacy:
        raise UsageError(f"--volume-size: expected no --{'legacy' if options.legacy else 'decompress'}, got it")
    from ociexport.transfer.bundle.volumes import verify_fits_volumes  # noqa: PLC0415 - start-up: few pulls write volumes

    verify_fits_volumes(options.out)
    size: int = options.volume_size
    return size
