"""`ociexport pull`: fetch images into an OCI layout."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from contextlib import closing

from ociexport.cli.exit_codes import OK
from ociexport.cli.platform_option import add_platform_argument, platform_from
from ociexport.cli.progress_option import progress_from
from ociexport.cli.registry_options import add_registry_arguments, registry_options_from
from ociexport.cli.reporting import report_error
from ociexport.documents import Platform
from ociexport.errors import OciexportError, UsageError, locating, quoted
from ociexport.layout import ImageLayout
from ociexport.progress import Progress, format_bytes
from ociexport.source_names import LayoutName, SourceName, SourceOpener, parse_source_name
from ociexport.transfer import DEFAULT_JOBS, MAX_JOBS, copy_image


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

    All names are parsed before anything is sent. An image that fails is told and the others are pulled nevertheless;
    the code is that of the first failure.
    """
    if not 1 <= options.jobs <= MAX_JOBS:
        raise UsageError(f"--jobs: expected 1 to {MAX_JOBS}, got {options.jobs}")
    names = [parse_source_name(image) for image in options.images]
    layout = ImageLayout(options.out)
    layout.verify_is_usable()
    for name in names:
        _verify_is_another(name, layout)
    platform, progress = platform_from(options), progress_from(options)
    with closing(SourceOpener(options=registry_options_from(options), progress=progress)) as sources:
        pull_one = functools.partial(
            _pull, sources=sources, layout=layout, platform=platform, jobs=options.jobs, progress=progress
        )
        if len(names) == 1:
            pull_one(names[0])
            return OK
        codes = [_try_to(pull_one, name, shown) for name, shown in zip(names, options.images, strict=True)]
        return next(filter(None, codes), OK)


def _verify_is_another(name: SourceName, layout: ImageLayout) -> None:
    """Return if ``name`` is not of the very layout that is to be written: ``pull alpine -o alpine`` means the registry.

    Raises:
        UsageError: it is.
    """
    if isinstance(name, LayoutName) and os.path.isdir(layout.path) and os.path.samefile(name.path, layout.path):
        raise UsageError(
            f"{quoted(name.path)}: expected an image from elsewhere, got the layout that --out names",
            hint="docker:// before a reference tells that it is one",
        )


def _try_to(pull_one: Callable[[SourceName], None], name: SourceName, shown: str) -> int:
    try:
        with locating(f"image {quoted(shown)}"):
            pull_one(name)
    except OciexportError as error:
        return report_error(error)
    return OK


def _pull(
    name: SourceName,
    *,
    sources: SourceOpener,
    layout: ImageLayout,
    platform: Platform,
    jobs: int,
    progress: Progress,
) -> None:
    with closing(sources.open(name)) as source:
        result = copy_image(source, layout, platform=platform, jobs=jobs, progress=progress)
    if result.fetched_blobs:
        blobs = f"{result.fetched_blobs} blobs ({format_bytes(result.fetched_bytes)}) fetched"
        came = f"{blobs}, {result.reused_blobs} already there"
    else:
        came = "already there, nothing was downloaded"
    what = f"image {result.config_digest}" if result.is_image else f"artifact {result.manifest_digest}"
    progress.say(f"{result.name}: {what}: {came}")
    sys.stdout.write(f"{result.reference}\n")
    sys.stdout.flush()
