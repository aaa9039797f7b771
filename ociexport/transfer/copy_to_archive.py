"""copy_to_archive(): several images into one archive, which appears only when it holds all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import BinaryIO

from ociexport.errors import locating
from ociexport.images.diff_id_checks import DiffIdChecks
from ociexport.images.fetch import BlobFetch
from ociexport.images.prepare import PreparedImage, prepare_image
from ociexport.images.source import ImageSource
from ociexport.images.wanted_blobs import BlobToFetch, unite_blobs
from ociexport.spec import mediatypes
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.named_tuple import NamedTuple
from ociexport.storage.archive.legacy_plan import plan_legacy_archive, verify_fits_legacy
from ociexport.storage.archive.names import compression_of
from ociexport.storage.archive.plan import ArchivePlan, plan_archive
from ociexport.storage.archive.writer import (
    ArchiveFile,
    compressing,
    verify_is_file_to_write,
    write_to_stream,
)
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.storage.layout.spool import spool_beside, spool_elsewhere
from ociexport.system.files import errors_named, new_file
from ociexport.system.partial_names import partial_name
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.companions import each_once, prepare_companions
from ociexport.transfer.decompress import PlainLayerStore, diff_ids_of, with_plain_layers
from ociexport.transfer.options import PullOptions
from ociexport.transfer.requirements import verify_has
from ociexport.transfer.result import FetchedBlobs, PullResult, WrittenVolume, results_of, with_companions
from ociexport.transfer.sources.convert import ConvertingSource

_GIVEN_UP = (
    "layers arrive faster than they can be inflated, so not all were compared with their diff_ids; --deep compares them"
)


class _Run(NamedTuple):
    """What the steps of one copy have in common.

    Args:
        checks: the diff_ids to verify.
    """

    out: str | BinaryIO
    options: PullOptions
    progress: Progress
    checks: DiffIdChecks
    seconds: int


def copy_to_archive(
    sources: Sequence[ImageSource],
    out: str | BinaryIO,
    options: PullOptions,
    progress: Progress = SILENT,
    *,
    seconds: int = 0,
) -> list[PullResult]:
    """Copy images into one archive, shared blobs once. The archive appears only when it holds all of them.

    With ``options.decompress`` layers are first written aside as plain tars, since a tar entry's size stands before its
    bytes. A legacy archive has no layout, only directories of plain layers; it keeps no manifest, and the results
    contain the digests of the published ones.

    The layers' diff_ids are verified while they arrive, as ``options.deep`` says; an archive with a wrong one does not
    appear. By default this is given up when layers wait for it.

    Args:
        sources: one for each image; the caller closes them.
        out: path of a file, which is replaced, and compressed if its name ends in ``.gz`` or ``.zst``; or a stream, to
            which blobs are written one after another.
        seconds: modification time of all entries, since 1970.

    Raises:
        as `pull` does; bytes written to a stream stay there.
    """
    if isinstance(out, str) and options.volume_bytes is None:
        verify_is_file_to_write(out)
    # A stream takes one blob after another, so that the other answers would wait for long.
    is_fetched_at_once = isinstance(out, str) and not (options.decompress or options.legacy or options.thin)
    ahead = options.jobs - 1 if options.is_alone and is_fetched_at_once else 0
    images = []
    companions: list[list[PreparedImage]] = []
    for number, source in enumerate(map(options.signed, sources)):
        with locating(source.display_name) if len(sources) > 1 else nullcontext():
            images.append(prepare_image(source, options.platform_of(number), None, progress, ahead=ahead))
            companions.append(prepare_companions(images[-1], None, progress) if options.referrers else [])
            verify_has(images[-1], companions[-1], options.required)
    for image in images if options.legacy else ():
        verify_fits_legacy(image)
    are_deep = [options.is_deep_for(image.source, into_archive=True) for image in images]
    run = _Run(out, options, progress, _checks_of(images, companions, are_deep, options), seconds)
    everything = [*images, *each_once(companions)]
    results = _copy_plain(images, run) if options.decompress or options.legacy else _copy(images, everything, run)
    if run.checks.are_given_up:
        progress.say(_GIVEN_UP)
        are_deep = [False] * len(images)
    results = [replace(result, is_deep=is_deep) for result, is_deep in zip(results, are_deep, strict=True)]
    return list(map(with_companions, results, companions))


def _checks_of(
    images: Sequence[PreparedImage],
    companions: Sequence[Sequence[PreparedImage]],
    are_deep: Sequence[bool],
    options: PullOptions,
) -> DiffIdChecks:
    """Return the checks of those images that are deep, and of their companions."""
    checks = options.new_diff_id_checks()
    for image, beside, is_deep in zip(images, companions, are_deep, strict=True):
        for one in (image, *beside) if is_deep else ():
            checks.expect(one, besides=one.source.layers if isinstance(one.source, ConvertingSource) else ())
            checks.verify_embedded(one.blobs)
    return checks


def _copy(images: Sequence[PreparedImage], everything: Sequence[PreparedImage], run: _Run) -> list[PullResult]:
    """Write the archive of ``everything``, and return the results of ``images``."""
    _warn_of_zstd(images, run.progress)
    if run.options.thin is None:
        plan = plan_archive(everything, seconds=run.seconds, documents={})
        return results_of(images, images, _write_archive(plan, everything, run))
    from ociexport.transfer.bundle.thin import leave_out  # noqa: PLC0415 - start-up: few pulls are thin

    selection, bundle = leave_out(everything, run.options.thin, run.progress)
    with closing(selection):
        everything = list(selection.images)
        images = everything[: len(images)]
        fetches: Sequence[FetchedBlobs]
        volumes: tuple[WrittenVolume, ...] = ()
        if run.options.volume_bytes is not None:
            from ociexport.transfer.bundle.volumes import write_volumes  # noqa: PLC0415 - start-up: few pulls write them

            size, jobs = run.options.volume_bytes, run.options.jobs
            fetch, volumes = write_volumes(
                str(run.out), everything, bundle, size, jobs=jobs, seconds=run.seconds, progress=run.progress
            )
            fetches = [fetch]
        else:
            plan = plan_archive(everything, seconds=run.seconds, documents={BUNDLE_FILE: bundle.to_json()})
            fetches = _write_archive(plan, everything, run)
        written = results_of(images, images, fetches)
        return [selection.result_of(*pair, volumes) for pair in zip(written, images, strict=True)]


def _copy_plain(images: Sequence[PreparedImage], run: _Run) -> list[PullResult]:
    """Write the archive of ``images`` with plain layers, which are written aside first."""
    out, options, progress = run.out, run.options, run.progress
    with _errors_of(out), spool_beside(out) if isinstance(out, str) else spool_elsewhere() as spool:
        plain = PlainLayerStore(spool, diff_ids_of(images), options.max_memory)
        progress.say(f"layers are decompressed in {spool.path} first")
        # Each of these gets its diff_id as its name, so it needs no further check.
        inflation = BlobFetch(plain, progress)
        inflation.run([blob for blob in _blobs_of(images) if plain.is_compressed(blob.descriptor.digest)], options.jobs)
        written = [with_plain_layers(image, plain, SILENT if options.legacy else progress) for image in images]
        planned = (plan_legacy_archive if options.legacy else plan_archive)(written, seconds=run.seconds)
        fetches = _write_archive(planned, written, run)
    return results_of(images, images if options.legacy else written, [inflation, *fetches])


def _warn_of_zstd(images: Iterable[PreparedImage], progress: Progress) -> None:
    for image in images:
        if any(blob.descriptor.media_type in mediatypes.ZSTD_LAYERS for blob in image.blobs):
            progress.say(
                f"{image.source.display_name}: has layers in zstd, which docker before 23 can't load; "
                "--decompress stores them as plain tars"
            )


def _write_archive(plan: ArchivePlan, images: Sequence[PreparedImage], run: _Run) -> list[BlobFetch]:
    """Write the archive of ``images``; returns the fetch of their blobs, nothing for a stream."""
    out = run.out
    origins = {blob.descriptor.digest: blob for blob in _blobs_of(images)}
    blobs = [origins[digest] for digest in plan.blobs]
    if not isinstance(out, str):
        write_to_stream(out, plan, blobs, run.progress, run.checks)
        return []
    if (compression := compression_of(out)) is not None:
        # A place in compressed data is known only when all before it is written, so blobs come one after another.
        with new_file(out) as file, compressing(file, compression) as stream:
            write_to_stream(stream, plan, blobs, run.progress, run.checks)
        return []
    with _errors_of(out), ArchiveFile(out, plan) as archive:
        fetch = BlobFetch(run.checks.around(archive), run.progress)
        fetch.run(blobs, run.options.jobs)
    return [fetch]


def _errors_of(out: str | BinaryIO) -> AbstractContextManager[None]:
    """Return a context in which errors of the partial file beside the archive name the archive itself."""
    return errors_named(out, partial_name(out)) if isinstance(out, str) else nullcontext()


def _blobs_of(images: Iterable[PreparedImage]) -> list[BlobToFetch]:
    """Return the blobs of all images, each once, from the first source that has it."""
    return unite_blobs(image.blobs for image in images)
