"""The option of archives in several volumes: ``--volume-size``."""

from __future__ import annotations

import argparse
import re

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.options.out import is_pipe
from ociexport.errors import UsageError, quoted
from ociexport.spec.numerals import MAX_SIZE, number_up_to

# Media are sold by decimal units, `4.7GB`; `4G` is 1024 times 1024 times 1024 times four, as for other sizes.
_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]{1,9}))?(?:([KMGT])(iB|B)?)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def add_volume_argument(parser: argparse._ArgumentGroup) -> None:
    """Add the option to ``parser``."""
    parser.add_argument(
        "--volume-size",
        metavar="SIZE",
        type=parse_volume_size,
        help="write the archive as volumes of at most this size: 700M, 4G (of 1024), 4.7GB (of 1000); for FILE.tar "
        "they are called FILE.1-of-3.tar and so on, with SHA256SUMS beside them",
    )


def parse_volume_size(text: str) -> int:
    """Return a size in bytes, which is above 0.

    >>> parse_volume_size("4G"), parse_volume_size("4GiB"), parse_volume_size("4.7GB")
    (4294967296, 4294967296, 4700000000)
    """
    found = _SIZE.fullmatch(text)
    if found is not None:
        fraction = found[2] or ""
        size = number_up_to(found[1] + fraction, MAX_SIZE) or 0
        for _ in range(_POWERS[(found[3] or "").upper()]):
            size *= 1000 if (found[4] or "").upper() == "B" else 1024
        for _ in fraction:
            size //= 10
        if size:
            return min(size, MAX_SIZE)
    raise argparse.ArgumentTypeError(f"expected a size above 0, such as 700M, 4G or 4.7GB, got {quoted(text)}")


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
