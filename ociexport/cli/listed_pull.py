"""`ociexport pull --list`: several images at once into one layout."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.listed import ListRun, own_platforms, pinned_source
from ociexport.cli.options.executor import executor_from, outcomes_of
from ociexport.cli.options.out import is_archive
from ociexport.cli.options.platform import choice_from
from ociexport.cli.output.pull import PullReport
from ociexport.errors import UsageError, printable, quoted
from ociexport.registry.options import RegistryOptions
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.lists.entries import ListEntry
from ociexport.transfer.lists.unchanged import Unchanged
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull_many import PullRequest, pull_requests
from ociexport.transfer.sources.names import SourceName, is_s3_url, parse_source_name
from ociexport.transfer.sources.open import SourceOpener

if TYPE_CHECKING:
    from ociexport.storage.s3.layout import S3Layout


def read_pull_list(options: argparse.Namespace, progress: Progress, opener: SourceOpener) -> ListRun:
    """Return the list that a pull takes; ``--locked FILE`` is ``--list FILE`` that takes a lock file only.

    Raises:
        UsageError: ``--locked`` names another list, or is combined with ``--list``.
    """
    if options.locked:
        leave_out_configured(options, "list")
        if options.list:
            raise UsageError("--locked: expected no --list beside it, got one")
        options.list = options.locked
    if options.images:
        raise UsageError(f"pull: expected no IMAGE beside a list, got {quoted(options.images[0])}")
    leave_out_configured(options, "all_images")
    if options.all_images:
        raise UsageError("--all-images: expected no list beside it, which names each image, got one")
    if options.executor is not None and options.since:
        raise UsageError("--executor: expected no --since beside it, what it names is read on this machine")
    leave_out_configured(options, *(["executor"] if is_archive(options) or options.dry_run else []))
    if options.executor is not None and options.dry_run:
        raise UsageError("--executor: expected no --dry-run beside it, which is planned on this machine")
    if options.executor is not None and is_archive(options):
        raise UsageError(
            "--executor: expected a layout for --out, got an archive, which one process writes",
            hint="pull into a layout, and copy that to an archive",
        )
    run = ListRun(options, progress, opener=opener, platforms=choice_from(options))
    if options.locked:
        for entry in run.entries:
            if entry.locked is None:
                files = " ".join(options.locked)
                raise UsageError(
                    f"--locked {quoted(files)}: expected a lock file, got another list",
                    hint=f"ociexport lock {files} > images.lock makes one",
                )
    _verify_one_digest_a_name(run.entries)
    return run


def _verify_one_digest_a_name(entries: Sequence[ListEntry]) -> None:
    """Return if no two lines of lock files have one name for two images, as a lock and a later one have.

    Raises:
        UsageError: two have; a layout would list the one that comes last, by chance.
    """
    known: dict[str, ListEntry] = {}
    for entry in entries:
        if entry.locked is None:
            continue
        first = known.setdefault(entry.locked.name, entry)
        if first.locked is not None and first.locked.listed != entry.locked.listed:
            raise UsageError(
                f"{entry.why[0]}: expected {printable(entry.locked.name)} with {first.locked.listed} as in "
                f"{first.why[0]}, got {entry.locked.listed}",
                hint="pull with one of the two lock files",
            )


def pull_list(
    options: argparse.Namespace,
    run: ListRun,
    layout: ImageLayout | S3Layout,
    *,
    sources: SourceOpener,
    registry: RegistryOptions,
    report: PullReport,
    pull_options: PullOptions,
    verify_is_another: Callable[[SourceName], None],
) -> int:
    """Pull the images of a list into a layout, and return the exit code of the worst.

    Images of a lock file that the layout has already are not asked for.

    Raises:
        UsageError: an image is in the layout that is written, or its platform is not the locked one.
    """
    layout.verify_is_usable()
    for entry in run.entries:
        verify_is_another(parse_source_name(entry.image))
    for entry, error in run.unreadable:
        report.note_failure(entry.image, error)
    unchanged = _unchanged_of(run.entries, layout, pull_options, options) if isinstance(layout, ImageLayout) else []
    if unchanged:
        run.done(*unchanged)
        report.add_unchanged([(entry.locked.name, entry.locked.listed) for entry in unchanged if entry.locked])
    left_out = {id(entry) for entry in unchanged}
    entries = [entry for entry in run.entries if id(entry) not in left_out]
    requests = [_request_of(entry, options) for entry in entries]
    if options.executor is not None and pull_options.signatures is not None:
        raise UsageError("--executor: expected no --verify-key beside it, which stays on this machine")
    with executor_from(options) as executor:
        outcomes = pull_requests(
            requests,
            # Workers may run in another directory.
            options.out if executor is None or is_s3_url(options.out) else os.path.abspath(options.out),
            pull_options,
            executor=executor,
            registry=registry,
            cache=options.cache if executor is None or not options.cache else os.path.abspath(options.cache),
            # The report says the same of each image as an executor would.
            progress=report.progress if executor is None else SILENT,
            opener=sources,
            names_together=True,
        )
        # Without a name of its own, it would be closed before the handler below, and wait for all that has begun.
        told = outcomes_of(outcomes, executor)
        try:
            for outcome in told:
                entry = entries[outcome.position]
                if outcome.result is not None:
                    report.add(outcome.result)
                    run.done(entry)
                elif outcome.error is not None:
                    run.fail(entry, outcome.error)
                    report.note_failure(entry.image, outcome.error)
        except BaseException:
            sources.close()  # interrupted: the pulls that go on end with their connections
            told.close()  # names what the workers left to this process, before the executor waits for them
            raise
    report.end()
    return run.end()


def _unchanged_of(
    entries: list[ListEntry], layout: ImageLayout, pull_options: PullOptions, options: argparse.Namespace
) -> list[ListEntry]:
    # These change what a layout stores for an image, or ask a registry for more.
    if pull_options.decompress or pull_options.referrers or pull_options.deep or pull_options.signatures:
        return []
    if pull_options.thin is not None:
        return []
    if options.platform or options.all or options.sparse:
        return []
    locked = [entry for entry in entries if entry.locked is not None]
    if not locked:
        return []
    there = Unchanged(layout)
    return [entry for entry in locked if entry.locked is not None and there.has(entry.locked)]


def _request_of(entry: ListEntry, options: argparse.Namespace) -> PullRequest:
    return PullRequest(
        entry.image if entry.locked is not None else pinned_source(entry),
        own_platforms(entry, options),
        entry.locked.digest if entry.locked is not None else None,
    )
