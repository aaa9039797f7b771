"""`ociexport pull`: fetch images into an OCI layout or an archive."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.exit_codes import OK
from ociexport.cli.options.counts import add_memory_argument
from ociexport.cli.options.executor import add_executor_argument
from ociexport.cli.options.jobs import add_jobs_argument
from ociexport.cli.options.json import add_json_argument
from ociexport.cli.options.kept_blobs import add_cache_argument, add_recheck_argument
from ociexport.cli.options.lists import add_list_arguments, add_locked_argument
from ociexport.cli.options.out import add_out_arguments, is_archive, is_pipe, opened_out, verify_is_given
from ociexport.cli.options.platform import add_platforms_arguments, choice_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.cli.options.signatures import add_signature_arguments, signature_policy_from
from ociexport.cli.options.thin import add_thin_arguments, required_from, thin_options_from
from ociexport.cli.options.volumes import volume_bytes_from
from ociexport.cli.output.pull import PullReport, tell_plan
from ociexport.errors import OciexportError, UsageError, locating, quoted
from ociexport.images.fetch import MAX_JOBS
from ociexport.images.source import ASKS, ASKS_AND_FETCHES, FirstRequest, ImageName, ImageSource
from ociexport.spec.lazy_dataclass import replace
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.environment import source_date_epoch
from ociexport.system.files import new_file
from ociexport.system.progress.protocol import SILENT
from ociexport.transfer.copy import copy_image
from ociexport.transfer.layouts import open_layout
from ociexport.transfer.options import PullOptions
from ociexport.transfer.sources.names import ArchiveName, LayoutName, RemoteLayoutName, SourceName, parse_source_name
from ociexport.transfer.sources.open import SourceOpener, first_request_into

if TYPE_CHECKING:
    from ociexport.cli.listed import ListRun
    from ociexport.images.choose import PlatformChoice
    from ociexport.images.diff_id_checks import VerifiedDiffIds
    from ociexport.registry.options import RegistryOptions
    from ociexport.storage.s3.layout import S3Layout
    from ociexport.system.progress.protocol import Progress
    from ociexport.transfer.result import PullResult

# An image to pull, and its name in messages.
_Wanted: TypeAlias = tuple[SourceName, str]
# Names are written one by one as long as that takes no longer than this, and else for a twentieth of the time.
_QUICK_SECONDS = 0.02
_NAMING_SHARE = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="image reference, or another source of an image")
    add_out_arguments(parser)
    add_platforms_arguments(parser)
    parser.add_argument(
        "--referrers",
        action="store_true",
        help="also copy artifacts that refer to the image: signatures, SBOMs, attestations",
    )
    parser.add_argument(
        "--deep",
        action=argparse.BooleanOptionalAction,
        help="compare each layer's tar with its diff_id (default: registry to archive)",
    )
    add_jobs_argument(parser, "fetch")
    add_cache_argument(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would be fetched and written, and check the free space"
    )
    parser.add_argument("--digestfile", metavar="FILE", help="write the digest of each image to FILE, one per line")
    add_json_argument(parser)
    add_signature_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)
    add_memory_argument(parser)
    add_recheck_argument(parser)
    add_thin_arguments(parser)
    lists = add_list_arguments(parser)
    add_locked_argument(lists)
    add_executor_argument(lists)


def run(options: argparse.Namespace) -> int:
    """Pull the images, and print each as ``name@digest``; all names are parsed before the first request.

    Images for a layout are pulled one by one: a failure is reported and the others are still pulled; the exit code is
    that of the first failure. An archive is written with all images or not at all. For a list, see `pull_list`.
    """
    if options.executor is not None and not _is_list(options):
        leave_out_configured(options, "executor")
        if options.executor is not None:
            raise UsageError("--executor: expected --list beside it, got none")
    verify_is_given(options, has_images=bool(options.images) or _is_list(options))
    return pull_from(options, [parse_source_name(image) for image in options.images])


def _is_list(options: argparse.Namespace) -> bool:
    return bool(options.list or options.locked)


def pull_from(options: argparse.Namespace, names: list[SourceName], name_there: ImageName | None = None) -> int:
    """Pull the images that ``names`` name, as `run` does.

    Args:
        name_there: the names of the only image's copy; None to keep its own.
    """
    verify_fits(options)
    is_into_archive = is_archive(options)
    if is_into_archive:
        leave_out_configured(options, "cache")
    if options.decompress or options.legacy:
        leave_out_configured(options, "referrers")
    pull = _pull_into_archive if is_into_archive else _pull_into_layout
    progress = progress_from(options)
    with ExitStack() as stack:
        report = PullReport(
            progress,
            # Standard output may be the archive.
            sys.stderr if is_pipe(options.out) else sys.stdout,
            place="standard output" if options.out == "-" else options.out,
            as_json=options.json,
            digests=_open_digest_file(options, stack),
            command=options.command,
        )
        opener = _NamingOpener(name_there, options=registry_options_from(options), progress=progress)
        stack.enter_context(closing(opener))
        if _is_list(options):
            return _pull_list(options, opener, report)
        pairs = list(zip(names, options.images, strict=True))
        if name_there is None:
            pairs = [each for name, shown in pairs for each in _each(name, shown, opener, options)]
        return pull(options, pairs, opener, report)


def verify_fits(options: argparse.Namespace) -> None:
    """Return if the options of a pull fit each other, wherever it goes.

    Raises:
        UsageError: they don't.
    """
    if not 1 <= options.jobs <= MAX_JOBS:
        raise UsageError(f"--jobs: expected 1 to {MAX_JOBS}, got {options.jobs}")
    if options.dry_run and (options.decompress or options.legacy):
        raise UsageError(
            f"--dry-run: expected no --{'legacy' if options.legacy else 'decompress'}, got it",
            hint="the size of a decompressed layer is unknown until it is fetched",
        )
    if options.dry_run and options.v1:
        raise UsageError(
            "--dry-run: expected no --v1, got it", hint="the converted image is unknown until its layers are fetched"
        )


def _each(name: SourceName, shown: str, opener: SourceOpener, options: argparse.Namespace) -> list[_Wanted]:
    """Return the images that ``shown`` means, with their names in messages: of a layout or an archive, all of them."""
    is_whole = isinstance(name, LayoutName | ArchiveName | RemoteLayoutName) and name.image is None
    if options.all_images and not is_whole:
        raise UsageError(f"--all-images: expected a layout or an archive, got {quoted(shown)}")
    try:
        each = opener.name_each(name, everything=options.all_images)
    except OciexportError:
        return [(name, shown)]  # raised again when the image is opened, in its turn
    if each == [name]:
        return [(name, shown)]
    return [
        (one, f"{shown}:{one.image}") for one in each if isinstance(one, LayoutName | ArchiveName | RemoteLayoutName)
    ]


class _NamingOpener(SourceOpener):
    """Opens sources whose copy gets other names, if any are given."""

    def __init__(self, name: ImageName | None, *, options: RegistryOptions, progress: Progress) -> None:
        super().__init__(options=options, progress=progress)
        self._name = name

    def open(self, name: SourceName, first: FirstRequest | None = ASKS) -> ImageSource:
        source = super().open(name, first)
        if self._name is None:
            return source
        from ociexport.images.wrapping_source import RenamedSource  # noqa: PLC0415 - start-up: pull keeps the names

        return RenamedSource(source, self._name)


def _pull_list(options: argparse.Namespace, sources: SourceOpener, report: PullReport) -> int:
    from ociexport.cli.listed_pull import pull_list, read_pull_list  # noqa: PLC0415 - start-up: few pulls have a list

    with read_pull_list(options, report.progress, sources) as run:
        if is_archive(options) or options.dry_run:
            return _pull_list_together(options, run, sources, report)
        registry = registry_options_from(options)
        layout = open_layout(options.out, None, registry, report.progress, recheck=options.recheck)
        with closing(layout):
            return pull_list(
                options,
                run,
                layout,
                sources=sources,
                registry=registry,
                report=report,
                pull_options=_pull_options_from(options, sources, report, is_archive=False),
                verify_is_another=lambda name: _verify_is_another(name, layout),
            )


def _pull_list_together(options: argparse.Namespace, run: ListRun, sources: SourceOpener, report: PullReport) -> int:
    """Pull a list into an archive, which has all its images or none, or plan a pull."""
    from ociexport.cli.listed import own_platforms, pinned_source  # noqa: PLC0415 - start-up: few pulls have a list

    if not run.entries or (run.code and not options.dry_run):
        return run.end()
    default = choice_from(options)
    choices = tuple(own_platforms(entry, options) or default for entry in run.entries)
    options.images = list(map(pinned_source, run.entries))
    is_into_archive = is_archive(options)
    choice = choices[0] if len(set(choices)) == 1 else default
    pull_options = _pull_options_from(options, sources, report, is_archive=is_into_archive, choice=choice)
    pull_options = replace(pull_options, platforms=choices)
    wanted = [(parse_source_name(image), image) for image in options.images]
    pull = _pull_into_archive if is_into_archive else _pull_into_layout
    return pull(options, wanted, sources, report, pull_options) or run.end()


def _open_digest_file(options: argparse.Namespace, stack: ExitStack) -> BinaryIO | None:
    if options.digestfile is None or options.dry_run:
        return None
    return stack.enter_context(new_file(options.digestfile))


def _pull_into_archive(
    options: argparse.Namespace,
    wanted: list[_Wanted],
    sources: SourceOpener,
    report: PullReport,
    pull_options: PullOptions | None = None,
) -> int:
    if options.cache:
        raise UsageError(f"{options.command}: --cache needs a layout for --out, got an archive")
    pull_options = pull_options or _pull_options_from(options, sources, report, is_archive=True)
    with ExitStack() as stack:
        opened = _open_all(wanted, sources, stack)
        seconds = source_date_epoch() or 0
        if options.dry_run:
            from ociexport.transfer.plan import plan_pull  # noqa: PLC0415 - start-up: only a dry run needs it

            out = options.out if not is_pipe(options.out) else None
            plan = plan_pull(opened, out, pull_options, report.progress, seconds)
            return tell_plan(plan, options)
        from ociexport.transfer.copy_to_archive import copy_to_archive  # noqa: PLC0415 - start-up: a layout does without

        with opened_out(options) as out:
            results = copy_to_archive(opened, out, pull_options, report.progress, seconds=seconds)
    report.add(*results)
    report.end()
    return OK


def _pull_into_layout(
    options: argparse.Namespace,
    wanted: list[_Wanted],
    sources: SourceOpener,
    report: PullReport,
    pull_options: PullOptions | None = None,
) -> int:
    cache = BlobCache(options.cache) if options.cache else None
    registry = registry_options_from(options)
    layout = open_layout(options.out, options.cache, registry, report.progress, recheck=options.recheck)
    with closing(layout):
        return _pull_into(layout, options, wanted, sources, report, pull_options=pull_options, cache=cache)


def _pull_into(
    layout: ImageLayout | S3Layout,
    options: argparse.Namespace,
    wanted: list[_Wanted],
    sources: SourceOpener,
    report: PullReport,
    *,
    pull_options: PullOptions | None,
    cache: BlobCache | None,
) -> int:
    layout.verify_is_usable()
    for name, _ in wanted:
        _verify_is_another(name, layout)
    pull_options = pull_options or _pull_options_from(options, sources, report, is_archive=False)
    if options.dry_run:
        from ociexport.transfer.plan import plan_pull  # noqa: PLC0415 - start-up: as above

        with ExitStack() as stack:
            opened = _open_all(wanted, sources, stack)
            # A layout copies missing blobs from its cache when asked for them, so the plan gets a layout without one.
            uncached = ImageLayout(options.out, recheck=options.recheck)
            plan = plan_pull(opened, (uncached, cache), pull_options, report.progress)
        return tell_plan(plan, options)

    verified: VerifiedDiffIds = set()
    if pull_options.required and len(wanted) > 1:
        # One image without it ends the run before any other is written.
        from ociexport.transfer.plan import plan_pull  # noqa: PLC0415 - start-up: as above

        with ExitStack() as stack:
            checked = replace(pull_options, thin=None)
            plan_pull(_open_all(wanted, sources, stack), None, checked, SILENT)

    is_new = not os.path.lexists(options.out)

    def pull_one(name: SourceName) -> PullResult:
        first = ASKS_AND_FETCHES if is_new else first_request_into(layout, name)
        with closing(sources.open(name, first)) as source:
            return copy_image(source, layout, pull_options, report.progress, verified=verified)

    if len(wanted) == 1:
        report.add(pull_one(wanted[0][0]))
        report.end()
        return OK
    waiting: list[PullResult] = []
    due = took = 0.0
    with layout.batch():
        for name, shown in wanted:
            try:
                with locating(f"image {quoted(shown)}"):
                    waiting.append(pull_one(name))
            except OciexportError as error:
                report.add_failure(shown, error)
            # An image is reported once it has its name. Into a large layout, names are written together.
            began = time.monotonic()
            if waiting and (took < _QUICK_SECONDS or began >= due):
                layout.commit_names()
                took = time.monotonic() - began
                due = time.monotonic() + took * _NAMING_SHARE
                for result in waiting:
                    report.add(result)
                waiting = []
        layout.commit_names()
        for result in waiting:
            report.add(result)
    report.end()
    return report.code


def _pull_options_from(
    options: argparse.Namespace,
    sources: SourceOpener,
    report: PullReport,
    *,
    is_archive: bool,
    choice: PlatformChoice | None = None,
) -> PullOptions:
    choice = choice or choice_from(options)
    volume_bytes = volume_bytes_from(options, is_archive=is_archive)
    return PullOptions(
        choice,
        options.jobs,
        decompress=options.decompress,
        legacy=options.legacy,
        referrers=options.referrers or bool(options.require),
        max_memory=options.max_memory,
        required=required_from(options),
        signatures=signature_policy_from(options),
        thin=thin_options_from(options, sources, choice, report.progress, is_archive=is_archive),
        deep=options.deep,
        volume_bytes=volume_bytes,
        recheck=options.recheck,
        is_alone=len(options.images) == 1,
    )


def _open_all(wanted: list[_Wanted], sources: SourceOpener, stack: ExitStack) -> list[ImageSource]:
    return [stack.enter_context(closing(sources.open(name, ASKS_AND_FETCHES))) for name, _ in wanted]


def _verify_is_another(name: SourceName, layout: ImageLayout | S3Layout) -> None:
    """Return if ``name`` does not name the layout to be written, as in ``pull ./alpine -o alpine``.

    Raises:
        UsageError: it does.
    """
    is_same = isinstance(name, RemoteLayoutName) and name.path == layout.path
    if isinstance(name, LayoutName) and os.path.isdir(layout.path):
        is_same = os.path.samefile(name.path, layout.path)
    if is_same and isinstance(name, LayoutName | RemoteLayoutName):
        raise UsageError(
            f"{quoted(name.path)}: expected an image from elsewhere, got the layout that --out names",
            hint="docker:// before a name makes it an image reference",
        )
