"""`ociexport pull`: fetch images into an OCI layout or an archive."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TextIO

from ociexport.blob_cache import BlobCache
from ociexport.cli.exit_codes import OK
from ociexport.cli.out_option import add_out_arguments, is_archive, opened_out
from ociexport.cli.platform_option import add_platforms_arguments, choice_from
from ociexport.cli.progress_option import progress_from
from ociexport.cli.registry_options import add_registry_arguments, registry_options_from
from ociexport.cli.reporting import report_error
from ociexport.errors import OciexportError, UsageError, locating, quoted
from ociexport.layout import ImageLayout
from ociexport.progress import Progress, format_bytes
from ociexport.source_names import LayoutName, SourceName, SourceOpener, parse_source_name
from ociexport.sourcedate import source_date_epoch
from ociexport.transfer import DEFAULT_JOBS, MAX_JOBS, PullResult, copy_image, copy_to_archive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image reference, or another source of an image")
    add_out_arguments(parser)
    add_platforms_arguments(parser)
    parser.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=int,
        default=DEFAULT_JOBS,
        help=f"blobs to fetch side by side (default: {DEFAULT_JOBS})",
    )
    parser.add_argument("--cache", metavar="DIR", help="share blobs with other layouts through this directory")
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Pull the images, and print the digest of each as ``name@digest``; all names are parsed before anything is sent.

    Into a layout each is pulled for itself: one that fails is told and the others come nevertheless; the code is that
    of the first failure. An archive holds all of them or does not appear.
    """
    if not 1 <= options.jobs <= MAX_JOBS:
        raise UsageError(f"--jobs: expected 1 to {MAX_JOBS}, got {options.jobs}")
    names = [parse_source_name(image) for image in options.images]
    pull = _pull_into_archive if is_archive(options) else _pull_into_layout
    progress = progress_from(options)
    with closing(SourceOpener(options=registry_options_from(options), progress=progress)) as sources:
        return pull(options, names, sources, progress)


def _pull_into_archive(
    options: argparse.Namespace, names: list[SourceName], sources: SourceOpener, progress: Progress
) -> int:
    if options.cache:
        raise UsageError("pull: --cache goes with a layout, not with an archive")
    seconds = source_date_epoch() or 0
    with opened_out(options) as out, ExitStack() as stack:
        opened = [stack.enter_context(closing(sources.open(name))) for name in names]
        results = copy_to_archive(
            opened, out, platform=choice_from(options), jobs=options.jobs, progress=progress, seconds=seconds
        )
    for result in results:
        # Standard output may be the archive.
        _tell(result, progress, sys.stdout if isinstance(out, str) else sys.stderr)
    return OK


def _pull_into_layout(
    options: argparse.Namespace, names: list[SourceName], sources: SourceOpener, progress: Progress
) -> int:
    layout = ImageLayout(options.out, cache=BlobCache(options.cache) if options.cache else None)
    layout.verify_is_usable()
    for name in names:
        _verify_is_another(name, layout)
    platform = choice_from(options)

    def pull_one(name: SourceName) -> None:
        with closing(sources.open(name)) as source:
            result = copy_image(source, layout, platform=platform, jobs=options.jobs, progress=progress)
        _tell(result, progress, sys.stdout)

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


def _tell(result: PullResult, progress: Progress, out: TextIO) -> None:
    if result.fetched_blobs:
        blobs = f"{result.fetched_blobs} blobs ({format_bytes(result.fetched_bytes)}) fetched"
        came = f"{blobs}, {result.reused_blobs} already there"
    else:
        came = "already there, nothing was downloaded"
    if result.digest != result.manifest_digest:
        what = f"index {result.digest} of {len(result.manifests)} manifests"
    elif result.is_image:
        what = f"image {result.config_digest}"
    else:
        what = f"artifact {result.digest}"
    progress.say(f"{result.name}: {what}: {came}")
    out.write(f"{result.reference}\n")
    out.flush()
