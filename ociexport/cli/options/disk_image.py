"""The options of `unpack` about disk images: the root filesystem as one file instead of a directory."""

from __future__ import annotations

import argparse
import os
import re
import sys

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.options.counts import parse_size
from ociexport.errors import UsageError, quoted
from ociexport.rootfs.outputs.formats import APPEND, BESIDE, NAMES, TREE, DiskImageOptions, format_of
from ociexport.spec.numerals import number_up_to

_COMPRESSION = re.compile(r"([a-z0-9]+)(?::([0-9]{1,2}))?")
# Such as that of `uname -r`.
_KERNEL = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?:[.+~-].*)?")
_MAX_THREADS = 8
# Options about a tree, which have no meaning for one file.
_OF_A_TREE = ("bundle", "run_files", "owners", "userns", "rootless", "sparse")


def add_disk_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to ``parser``."""
    parser.add_argument(
        "--format",
        choices=NAMES,
        metavar="FORMAT",
        help="format of ROOTFS: tree is a directory; erofs, squashfs, ext4, cpio, cpio.gz, cpio.zst, tar, tar.gz, "
        "tar.zst, incus and wsl are one file (default: by the ending of ROOTFS, unless a directory has that name)",
    )
    group = parser.add_argument_group("disk images")
    group.add_argument(
        "--compression",
        metavar="NAME[:LEVEL]",
        type=_parse_compression,
        help="of a disk image: gzip, zstd, xz, deflate or none, as far as its format has it; for example zstd:19",
    )
    group.add_argument(
        "--free", metavar="SIZE", type=parse_size, help="free space in an ext4 image, such as 512M (default: a little)"
    )
    group.add_argument(
        "--no-journal", dest="journal", action="store_false", help="leave out the journal of an ext4 image"
    )
    group.add_argument(
        "--kernel",
        metavar="VERSION",
        type=_parse_kernel,
        help="version of the kernel that mounts an erofs image, such as 6.6 (default: any in long-term support)",
    )
    group.add_argument(
        "--verity",
        action="store_true",
        help="write a dm-verity hash tree after the file system, and print its root hash",
    )
    group.add_argument(
        "--verity-beside",
        action="store_true",
        help="write the hash tree to ROOTFS.verity and the root hash to ROOTFS.roothash, where systemd finds them",
    )


def _parse_compression(text: str) -> tuple[str, int | None]:
    found = _COMPRESSION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a name, and a level after a colon, got {quoted(text)}")
    return found[1], None if found[2] is None else number_up_to(found[2], 99)


def _parse_kernel(text: str) -> tuple[int, int]:
    found = _KERNEL.fullmatch(text)
    numbers = [number_up_to(part, 9999) for part in found.groups()] if found else [None]
    if None in numbers:
        raise argparse.ArgumentTypeError(f"expected a version such as 6.6, got {quoted(text)}")
    return numbers[0] or 0, numbers[1] or 0


def settle_format(options: argparse.Namespace) -> None:
    """Set ``options.format`` to the format of ``options.rootfs``, and ``options.disk_image`` to how it is written.

    ``options.target`` becomes the path to write to, which is another one for standard output.

    Raises:
        UsageError: an option does not fit the format, or standard output is a terminal.
    """
    options.target = options.rootfs
    if options.to_tar is not None:
        leave_out_configured(options, "format")
        if options.format is not None:
            raise UsageError("--format: expected ROOTFS beside it, got --to-tar")
    if options.format is None:
        is_tree = options.rootfs is None or os.path.isdir(options.rootfs)
        options.format = TREE if is_tree else format_of(options.rootfs)
    if options.format == TREE:
        leave_out_configured(options, "compression", "free", "journal", "kernel", "verity", "verity_beside")
        given = {
            "--compression": options.compression,
            "--free": options.free,
            "--no-journal": not options.journal,
            "--kernel": options.kernel,
            "--verity": options.verity,
            "--verity-beside": options.verity_beside,
        }
        for flag in (flag for flag, value in given.items() if value):
            got = "--to-tar" if options.to_tar is not None else "a directory"
            raise UsageError(
                f"{flag}: expected a disk image to write, got {got}", hint="--format says which, such as ext4"
            )
        options.disk_image = DiskImageOptions()
        return
    leave_out_configured(options, *_OF_A_TREE, "devices")
    for name in _OF_A_TREE:
        if getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')}: expected a directory to unpack into, got the format {options.format}",
                hint=f"--format {TREE} makes a directory of any name",
            )
    if options.rootfs == "-":
        if sys.stdout.isatty():
            raise UsageError(
                "ROOTFS -: expected a file or a pipe on standard output, got a terminal",
                hint="for example --format cpio - | cpio -itv",
            )
        options.target = "/dev/stdout"
    compression, level = options.compression or (None, None)
    options.disk_image = DiskImageOptions(
        compression=compression,
        level=level,
        free_bytes=options.free,
        journal=options.journal,
        kernel=options.kernel,
        verity=BESIDE if options.verity_beside else APPEND if options.verity else None,
        threads=min(len(os.sched_getaffinity(0)), _MAX_THREADS),
    )
