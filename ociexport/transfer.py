"""pull(): choose, fetch side by side, verify, hand to the destination."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, BinaryIO

from ociexport import mediatypes
from ociexport.archive import ArchiveFile, verify_is_file_to_write, write_to_stream
from ociexport.archive_plan import ArchivePlan, plan_archive
from ociexport.choice import PlatformChoice
from ociexport.conversion import ConvertingSource
from ociexport.digest import Digest
from ociexport.documents import Platform
from ociexport.errors import (
    InvalidImageError,
    NotFoundError,
    UsageError,
    locating,
)
from ociexport.fetch import BlobFetch, BlobToFetch
from ociexport.layer_spool import spool_beside, spool_elsewhere
from ociexport.layout import ImageLayout
from ociexport.legacy_plan import plan_legacy_archive, verify_fits_legacy
from ociexport.plain_image import with_plain_layers
from ociexport.plain_layers import PlainLayerStore, diff_ids_of
from ociexport.platforms import host_platform
from ociexport.prepare import PreparedImage, prepare_image
from ociexport.progress import SILENT, Progress
from ociexport.pull_result import PullResult, results_of
from ociexport.reference import ImageReference
from ociexport.signatures import SignaturePolicy, require_signature
from ociexport.source_names import RegistryName, open_source
from ociexport.sources import ImageDestination, ImageSource

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions

DEFAULT_JOBS = 4
# More connections than any registry grants one client.
MAX_JOBS = 64


def pull(
    image: str | ImageReference | ImageSource,
    out: str | os.PathLike[str] | ImageDestination,
    *,
    platform: Platform | PlatformChoice | None = None,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    decompress: bool = False,
    legacy: bool = False,
    registry: RegistryOptions | None = None,
    signatures: SignaturePolicy | None = None,
) -> PullResult:
    """Copy one image into a destination, every byte verified; its name there appears when all of it is there.

    Args:
        image: a reference, the name of a layout, or an open source, which stays open.
        out: a layout's directory (absent, empty or a layout), an archive's file (``*.tar``), or an open destination.
        platform: of several the one to take, or which of them; None for this machine's.
        jobs: how many blobs are fetched side by side.
        progress: told what goes on.
        decompress: whether layers are kept as plain tars; the manifest is another then, the config is not.
        legacy: whether an archive is to be one for engines before Docker 1.10.
        registry: how registries are reached, for an image that is given by name.
        signatures: which signatures the image must have.

    Raises:
        UsageError: ``out`` holds something else, or ``jobs`` is out of range.
        NotFoundError, RegistryError, NoMatchingPlatformError: the image is not to be had.
        InvalidImageError: something in it breaks the specification or is not what its digest says.
        SignatureError: it is not signed as ``signatures`` wants it; nothing was written.
        OSError: the disk or file system.
    """
    platform = platform or host_platform()
    if isinstance(image, str | ImageReference):
        name = image if isinstance(image, str) else RegistryName(image)
        with closing(open_source(name, options=registry, progress=progress)) as source:
            return pull(
                source,
                out,
                platform=platform,
                jobs=jobs,
                progress=progress,
                decompress=decompress,
                legacy=legacy,
                signatures=signatures,
            )
    image = require_signature(image, signatures)
    if isinstance(out, str | os.PathLike) and os.fspath(out).endswith(".tar"):
        path = os.fspath(out)
        return copy_to_archive(
            [image], path, platform=platform, jobs=jobs, progress=progress, decompress=decompress, legacy=legacy
        )[0]
    if legacy:
        raise UsageError("legacy: expected an archive to write, got a layout")
    destination = ImageLayout(out) if isinstance(out, str | os.PathLike) else out
    return copy_image(image, destination, platform=platform, jobs=jobs, progress=progress, decompress=decompress)


def copy_image(
    source: ImageSource,
    destination: ImageDestination,
    *,
    platform: Platform | PlatformChoice,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    decompress: bool = False,
) -> PullResult:
    """Copy one image from any source to any destination; see `pull`.

    1. The manifests of the platforms are found and parsed, and the configs read: nothing is written for a bad image.
    2. Configs and layers that are there and valid are left alone; the others are fetched side by side.
    3. A manifest is written when all it names is there, an index after its manifests, and the name last.

    Raises:
        as `pull` does; UsageError: ``decompress`` is for layouts.
    """
    verify_jobs(jobs)
    if decompress and not isinstance(destination, ImageLayout):
        raise UsageError("decompress: expected a layout or an archive as destination")
    brought: Collection[Digest] = ()
    if isinstance(source, ConvertingSource) and isinstance(destination, ImageLayout) and not decompress:
        source.keep_layers_in(destination, jobs)
        brought = source.layers
    image = prepare_image(source, platform, destination, progress)  # 1
    plain = PlainLayerStore(destination, diff_ids_of([image])) if isinstance(destination, ImageLayout) else None
    plain = plain if decompress else None
    fetch = BlobFetch(plain or destination, progress)
    with destination.begin() as use:
        try:
            fetch.run([blob for blob in image.blobs if blob.descriptor.digest not in brought], jobs)  # 2
        except (InvalidImageError, NotFoundError):
            # The image is not as it should be, so nothing of it is to stay. After all else the next try goes on here.
            use.discard(map(plain.stored_digest, fetch.begun) if plain else fetch.begun)
            raise
        written = with_plain_layers(image, plain, progress) if plain else image
        for document in written.documents:  # 3
            destination.write_manifest(document)
        destination.write_name(written.listed, written.name)
    return results_of([image], [written], [*_conversions([source]), fetch])[0]


def copy_to_archive(
    sources: Sequence[ImageSource],
    out: str | BinaryIO,
    *,
    platform: Platform | PlatformChoice,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    seconds: int = 0,
    decompress: bool = False,
    legacy: bool = False,
) -> list[PullResult]:
    """Copy images into one archive, which holds all of them or does not appear; blobs that they share once.

    Args:
        sources: each gives one image; they stay open.
        out: path of a file, which is replaced; or a stream, to which blobs go one after another.
        seconds: time of all entries, since 1970.
        decompress: whether layers are kept as plain tars, which are written aside first: a tar says sizes beforehand.
        legacy: whether it is for engines before Docker 1.10: no layout, but directories of plain layers. No manifest is
            kept; the results tell the published ones.

    Raises:
        as `pull` does; of what was written to a stream nothing can be taken back.
    """
    verify_jobs(jobs)
    if isinstance(out, str):
        verify_is_file_to_write(out)
    images = []
    for source in sources:
        with locating(source.display_name) if len(sources) > 1 else nullcontext():
            images.append(prepare_image(source, platform, None, progress))
    for image in images if legacy else ():
        verify_fits_legacy(image)
    if not decompress and not legacy:
        plan = plan_archive(images, seconds=seconds)
        _warn_of_zstd(images, progress)
        return results_of(images, images, _write_archive(plan, images, out, jobs, progress))
    with spool_beside(out) if isinstance(out, str) else spool_elsewhere() as spool:
        plain = PlainLayerStore(spool, diff_ids_of(images))
        progress.say(f"layers are decompressed in {spool.path} first")
        inflation = BlobFetch(plain, progress)
        inflation.run([blob for blob in _blobs_of(images) if plain.is_compressed(blob.descriptor.digest)], jobs)
        written = [with_plain_layers(image, plain, SILENT if legacy else progress) for image in images]
        planned = plan_legacy_archive(written, seconds=seconds) if legacy else plan_archive(written, seconds=seconds)
        fetches = _write_archive(planned, written, out, jobs, progress)
    return results_of(images, images if legacy else written, [inflation, *fetches])


def _conversions(sources: Iterable[ImageSource]) -> list[BlobFetch]:
    """Return what has fetched layers before their images were known."""
    return [fetch for source in sources if isinstance(source, ConvertingSource) for fetch in source.fetches]


def _warn_of_zstd(images: Iterable[PreparedImage], progress: Progress) -> None:
    for image in images:
        if any(blob.descriptor.media_type in mediatypes.ZSTD_LAYERS for blob in image.blobs):
            progress.say(
                f"{image.source.display_name}: has layers in zstd, which docker before 23 can't load; "
                "--decompress makes them plain"
            )


def _write_archive(
    plan: ArchivePlan, images: Sequence[PreparedImage], out: str | BinaryIO, jobs: int, progress: Progress
) -> list[BlobFetch]:
    """Write the archive of ``images``; returns what fetched their blobs, nothing where they went to a stream."""
    origins = {blob.descriptor.digest: blob for blob in _blobs_of(images)}
    blobs = [origins[digest] for digest in plan.blobs]
    if not isinstance(out, str):
        write_to_stream(out, plan, blobs, progress)
        return []
    with ArchiveFile(out, plan) as archive:
        fetch = BlobFetch(archive, progress)
        fetch.run(blobs, jobs)
    return [fetch]


def _blobs_of(images: Iterable[PreparedImage]) -> list[BlobToFetch]:
    """Return the blobs of all images, each once; of several sources the first counts."""
    blobs: dict[Digest, BlobToFetch] = {}
    for image in images:
        for blob in image.blobs:
            blobs.setdefault(blob.descriptor.digest, blob)
    return list(blobs.values())


def verify_jobs(jobs: int) -> None:
    """Return if so many connections may be made at once.

    Raises:
        UsageError: there are none, or too many.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"jobs: expected 1 to {MAX_JOBS}, got {jobs}")
