"""`ociexport pull`: fetch images into an OCI layout."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from ociexport.cli.exit_codes import OK
from ociexport.cli.platform_option import add_platform_argument, platform_from
from ociexport.cli.progress_option import progress_from
from ociexport.cli.registry_options import add_registry_arguments, registry_options_from
from ociexport.errors import UsageError
from ociexport.layout import ImageLayout
from ociexport.source_names import SourceOpener, parse_source_name
from ociexport.transfer import DEFAULT_JOBS, copy_image

_MAX_JOBS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image reference, or another source of an image")
    parser.add_argument("-o", "--out", metavar="PATH", required=True, help="OCI layout; absent, empty or a layout")
    add_platform_argument(parser)
    parser.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=int,
        default=DEFAULT_JOBS,
        help=f"blobs to fetch side by side (default: {DEFAULT_JOBS})",
    )
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Pull each image, and print its digest as ``name@digest``.

    All names are parsed before anything is sent. The first image that fails ends the command; those before it are
    complete and keep their names.
    """
    if not 1 <= options.jobs <= _MAX_JOBS:
        raise UsageError(f"--jobs: expected 1 to {_MAX_JOBS}, got {options.jobs}")
    names = [parse_source_name(image) for image in options.images]
    platform, progress = platform_from(options), progress_from(options)
    registry_options = registry_options_from(options)
    layout = ImageLayout(options.out)
    layout.verify_is_usable()
    try:
        with closing(SourceOpener(options=registry_options, progress=progress)) as sources:
            for name in names:
                with closing(sources.open(name)) as source:
                    result = copy_image(source, layout, platform=platform, jobs=options.jobs, progress=progress)
                progress.say(
                    f"{result.name}: image {result.config_digest}, "
                    f"{result.fetched_blobs} blobs fetched, {result.reused_blobs} already there"
                )
                sys.stdout.write(f"{result.name.partition('@')[0]}@{result.manifest_digest}\n")
    finally:
        layout.remove_if_unused()
    return OK
