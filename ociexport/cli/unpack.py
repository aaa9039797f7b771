"""`ociexport unpack`: apply an image's layers to a new root filesystem."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from ociexport.cli.platform_option import add_platform_argument, platform_from
from ociexport.cli.progress_option import progress_from
from ociexport.cli.registry_options import add_registry_arguments, registry_options_from
from ociexport.source_names import open_source
from ociexport.tree.layers import UnpackOptions, unpack
from ociexport.tree.metadata import XattrMode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    parser.add_argument("source", metavar="SRC", help="a layout (./layout, ./layout:tag, oci:…) or an image reference")
    parser.add_argument("rootfs", metavar="ROOTFS", help="directory to make; absent or empty")
    add_platform_argument(parser)
    parser.add_argument(
        "--keep-dirlinks",
        action="store_true",
        help="keep a symlink to a directory where a later layer has a directory",
    )
    parser.add_argument("--sparse", action="store_true", help="make holes of blocks of zeros")
    parser.add_argument(
        "--xattrs",
        choices=[mode.value for mode in XattrMode],
        default=XattrMode.WARN.value,
        help="extended attributes that the file system refuses: an error, a warning (default), or none are set at all",
    )
    parser.add_argument(
        "--devices",
        choices=["skip", "placeholder"],
        default="skip",
        help="devices that can't be made: left out (default), or empty files",
    )
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Unpack, and print the manifest's digest as ``name@digest``."""
    unpack_options = UnpackOptions(
        keep_dirlinks=options.keep_dirlinks,
        holes=options.sparse,
        xattrs=XattrMode(options.xattrs),
        placeholder_devices=options.devices == "placeholder",
    )
    progress = progress_from(options)
    with closing(open_source(options.source, options=registry_options_from(options), progress=progress)) as source:
        result = unpack(
            source, options.rootfs, platform=platform_from(options), options=unpack_options, progress=progress
        )
    progress.say(f"{options.rootfs}: {source.display_name}, image {result.config_digest}, {result.entries} entries")
    sys.stdout.write(f"{result.manifest_digest}\n")
    return 0
