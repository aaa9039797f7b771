"""pull(): choose, fetch side by side, verify, hand to the destination."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import BinaryIO

from ociexport import mediatypes
from ociexport.archive import ArchiveFile, verify_is_file_to_write, write_to_stream
from ociexport.archive_plan import plan_archive
from ociexport.choice import PlatformChoice
from ociexport.digest import Digest
from ociexport.documents import Platform
from ociexport.errors import (
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
    UsageError,
    locating,
)
from ociexport.fetch import BlobFetch, BlobToFetch
from ociexport.layer_spool import spool_beside, spool_elsewhere
from ociexport.layout import ImageLayout
from ociexport.plain_image import with_plain_layers
from ociexport.plain_layers import PlainLayerStore, diff_ids_of
from ociexport.platforms import host_platform
from ociexport.prepare import PreparedImage, prepare_image
from ociexport.progress import SILENT, Progress
from ociexport.reference import ImageReference
from ociexport.source_names import RegistryName, open_source
from ociexport.sources import ImageDestination, ImageName, ImageSource

DEFAULT_JOBS = 4
# More connections than any registry grants one client.
MAX_JOBS = 64


@dataclass(frozen=True, slots=True)
class PulledManifest:
    """One manifest that was pulled.

    Args:
        digest: of the manifest.
        config_digest: docker's image ID, where it is an image.
        is_image: whether it is one, and no attestation or other artifact.
        platform: that it is for; None where nothing is said, or it is no image.
    """

    digest: Digest
    config_digest: Digest
    is_image: bool
    platform: Platform | None


@dataclass(frozen=True, slots=True)
class PullResult:
    """What was pulled.

    Args:
        name: how the source calls the image.
        reference: name and digest, ``docker.io/library/alpine:3.20@sha256:…``, to be used in commands again.
        digest: of what the destination lists: the manifest, or the index of several platforms.
        manifests: that were pulled; first the one that stands for the image where only one can.
        fetched_blobs: how many blobs came over.
        fetched_bytes: of these; what an earlier try had left is not counted.
        reused_blobs: how many were there already, and valid.
    """

    name: str
    reference: str
    digest: Digest
    manifests: tuple[PulledManifest, ...]
    fetched_blobs: int
    fetched_bytes: int
    reused_blobs: int

    @property
    def manifest_digest(self) -> Digest:
        """Of the first manifest."""
        return self.manifests[0].digest

    @property
    def config_digest(self) -> Digest:
        """Of the first manifest: docker's image ID, where it is an image."""
        return self.manifests[0].config_digest

    @property
    def is_image(self) -> bool:
        """Whether the first manifest is of an image, and no artifact of another kind."""
        return self.manifests[0].is_image

    @property
    def platform(self) -> Platform | None:
        """That the first manifest is for; None where nothing is said, or it is no image."""
        return self.manifests[0].platform


def pull(
    image: str | ImageReference | ImageSource,
    out: str | os.PathLike[str] | ImageDestination,
    *,
    platform: Platform | PlatformChoice | None = None,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    decompress: bool = False,
) -> PullResult:
    """Copy one image into a destination, every byte verified; its name there appears when all of it is there.

    Args:
        image: a reference, the name of a layout, or an open source, which stays open.
        out: a layout's directory (absent, empty or a layout), an archive's file (``*.tar``), or an open destination.
        platform: of several the one to take, or which of them; None for this machine's.
        jobs: how many blobs are fetched side by side.
        progress: told what goes on.
        decompress: whether layers are kept as plain tars; the manifest is another then, the config is not.

    Raises:
        UsageError: ``out`` holds something else, or ``jobs`` is out of range.
        NotFoundError, RegistryError, NoMatchingPlatformError: the image is not to be had.
        InvalidImageError: something in it breaks the specification or is not what its digest says.
        OSError: the disk or file system.
    """
    platform = platform or host_platform()
    if isinstance(image, str | ImageReference):
        name = image if isinstance(image, str) else RegistryName(image)
        with closing(open_source(name, progress=progress)) as source:
            return pull(source, out, platform=platform, jobs=jobs, progress=progress, decompress=decompress)
    if isinstance(out, str | os.PathLike) and os.fspath(out).endswith(".tar"):
        path = os.fspath(out)
        return copy_to_archive([image], path, platform=platform, jobs=jobs, progress=progress, decompress=decompress)[0]
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
    image = prepare_image(source, platform, destination, progress)  # 1
    plain = PlainLayerStore(destination, diff_ids_of([image])) if isinstance(destination, ImageLayout) else None
    plain = plain if decompress else None
    fetch = BlobFetch(plain or destination, progress)
    with destination.begin() as use:
        try:
            fetch.run(image.blobs, jobs)  # 2
        except (InvalidImageError, NotFoundError):
            # The image is not as it should be, so nothing of it is to stay. After all else the next try goes on here.
            use.discard(map(plain.stored_digest, fetch.begun) if plain else fetch.begun)
            raise
        written = with_plain_layers(image, plain, progress) if plain else image
        for document in written.documents:  # 3
            destination.write_manifest(document)
        destination.write_name(written.listed, written.name)
    return _results_of([image], [written], [fetch])[0]


def copy_to_archive(
    sources: Sequence[ImageSource],
    out: str | BinaryIO,
    *,
    platform: Platform | PlatformChoice,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    seconds: int = 0,
    decompress: bool = False,
) -> list[PullResult]:
    """Copy images into one archive, which holds all of them or does not appear; blobs that they share once.

    Args:
        sources: each gives one image; they stay open.
        out: path of a file, which is replaced; or a stream, to which blobs go one after another.
        seconds: time of all entries, since 1970.
        decompress: whether layers are kept as plain tars, which are written aside first: a tar says sizes beforehand.

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
    if not decompress:
        return _results_of(images, images, _write_archive(images, out, jobs, progress, seconds))
    with spool_beside(out) if isinstance(out, str) else spool_elsewhere() as spool:
        plain = PlainLayerStore(spool, diff_ids_of(images))
        progress.say(f"layers are decompressed in {spool.path} first")
        inflation = BlobFetch(plain, progress)
        inflation.run([blob for blob in _blobs_of(images) if plain.is_compressed(blob.descriptor.digest)], jobs)
        written = [with_plain_layers(image, plain, progress) for image in images]
        fetches = _write_archive(written, out, jobs, progress, seconds)
    return _results_of(images, written, [inflation, *fetches])


def _write_archive(
    images: Sequence[PreparedImage], out: str | BinaryIO, jobs: int, progress: Progress, seconds: int
) -> list[BlobFetch]:
    """Write one archive of ``images``; returns what fetched their blobs, nothing where they went to a stream."""
    for image in images:
        if any(blob.descriptor.media_type in mediatypes.ZSTD_LAYERS for blob in image.blobs):
            progress.say(
                f"{image.source.display_name}: has layers in zstd, which docker before 23 can't load; "
                "--decompress makes them plain"
            )
    plan = plan_archive(images, seconds=seconds)
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


def _results_of(
    images: Sequence[PreparedImage], written: Sequence[PreparedImage], fetches: Sequence[BlobFetch]
) -> list[PullResult]:
    """Return what was pulled; a blob of several images is counted for the first, and without a fetch all are.

    Args:
        images: as they were published.
        written: the same ones as they are at the destination.
        fetches: that may have got their blobs.
    """
    results = []
    seen: set[Digest] = set()
    reused = {digest for fetch in fetches for digest in fetch.reused}
    for image, copy in zip(images, written, strict=True):
        sizes = {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs}
        # An archive's config is written with the plan.
        counted = {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs if blob.content is not None}
        for fetch in fetches:
            counted |= fetch.fetched_bytes
        counted = {digest: size for digest, size in counted.items() if digest not in reused} if fetches else sizes
        fetched = [counted[digest] for digest in sizes.keys() & counted.keys() - seen]
        results.append(
            PullResult(
                name=image.source.display_name,
                reference=_reference_of(copy.name, image.source.display_name, copy.listed.digest),
                digest=copy.listed.digest,
                manifests=tuple(
                    PulledManifest(
                        one.manifest.digest, one.manifest.config.digest, one.config is not None, one.platform
                    )
                    for one in copy.manifests
                ),
                fetched_blobs=len(fetched),
                fetched_bytes=sum(fetched),
                reused_blobs=len(sizes.keys() & reused),
            )
        )
        seen |= sizes.keys()
    return results


def _reference_of(name: ImageName, display_name: str, digest: Digest) -> str:
    """Return the name with the digest, as commands take it; a name from a layout may be anything, and then is not."""
    if name.full is not None:
        try:
            return str(ImageReference.parse(name.full).with_digest(digest))
        except InvalidReferenceError:
            pass
    return f"{display_name.partition('@')[0]}@{digest}"
