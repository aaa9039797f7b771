"""The options of `unpack` that make a layer a directory or a file of its own."""

from __future__ import annotations

import argparse

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.options.disk_image import settle_format
from ociexport.errors import UsageError
from ociexport.rootfs.outputs.formats import TREE


def add_layers_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the options."""
    parser.add_argument(
        "--layers-dir",
        metavar="DIR",
        help="make each layer a directory of its own in DIR, for overlayfs, instead of a ROOTFS directory; "
        "a layer that is there is not read again",
    )
    parser.add_argument(
        "--erofs-layers",
        metavar="DIR",
        help="the same with an erofs file for each layer, as containerd's layer cache has them",
    )


def wants_layers(options: argparse.Namespace) -> bool:
    """Whether the layers are unpacked by themselves.

    Raises:
        UsageError: another output is asked for too.
    """
    names = [name for name in ("layers_dir", "erofs_layers") if getattr(options, name) is not None]
    if not names:
        return False
    option = f"--{names[0].replace('_', '-')}"
    if len(names) > 1:
        raise UsageError("--layers-dir: expected no --erofs-layers beside it, got both")
    if options.rootfs is not None or options.to_tar is not None:
        other = "ROOTFS" if options.rootfs is not None else "--to-tar"
        raise UsageError(
            f"{option}: expected no {other} beside it, got both",
            hint=f"for example ociexport unpack debian:12 {option} ./layers",
        )
    if options.receipt:
        raise UsageError(f"--receipt: expected ROOTFS beside it, got {option}")
    return True


def settle_layers_format(options: argparse.Namespace) -> None:
    """Do what `settle_format` does, for layers, which are no disk image.

    Raises:
        UsageError: a format is asked for.
    """
    leave_out_configured(options, "format")
    if options.format not in (None, TREE):
        raise UsageError(f"--format: expected ROOTFS beside it, got a directory of layers and {options.format}")
    options.format = TREE
    settle_format(options)
