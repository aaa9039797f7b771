"""pull(): choose, fetch side by side, verify, hand to the destination."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import BinaryIO

from ociexport.archive import ArchiveFile, verify_is_file_to_write, write_to_stream
from ociexport.archive_plan import plan_archive
from ociexport.digest import Digest
from ociexport.documents import Platform
from ociexport.errors import (
    InvalidImageError,
    InvalidReferenceError,
    NotFoundError,
    UsageError,
    locating,
)
from ociexport.fetch import BlobFetch
from ociexport.layout import ImageLayout
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
class PullResult:
    """What was pulled.

    Args:
        name: how the source calls the image.
        reference: name and manifest digest, ``docker.io/library/alpine:3.20@sha256:…``, to be used in commands again.
        manifest_digest: of the platform's manifest, which the destination lists.
        config_digest: docker's image ID.
        is_image: whether it is one, and no artifact of another kind.
        platform: that the image is for; None where nothing is said, or it is no image.
        fetched_blobs: how many blobs came over.
        fetched_bytes: of these; what an earlier try had left is not counted.
        reused_blobs: how many were there already, and valid.
    """

    name: str
    reference: str
    manifest_digest: Digest
    config_digest: Digest
    is_image: bool
    platform: Platform | None
    fetched_blobs: int
    fetched_bytes: int
    reused_blobs: int


def pull(
    image: str | ImageReference | ImageSource,
    out: str | os.PathLike[str] | ImageDestination,
    *,
    platform: Platform | None = None,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
) -> PullResult:
    """Copy one image into a destination, every byte verified; its name there appears when all of it is there.

    Args:
        image: a reference, the name of a layout, or an open source, which stays open.
        out: a layout's directory (absent, empty or a layout), an archive's file (``*.tar``), or an open destination.
        platform: of several the one to take; None for this machine's.
        jobs: how many blobs are fetched side by side.
        progress: told what goes on.

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
            return pull(source, out, platform=platform, jobs=jobs, progress=progress)
    if not isinstance(out, str | os.PathLike):
        return copy_image(image, out, platform=platform, jobs=jobs, progress=progress)
    path = os.fspath(out)
    if path.endswith(".tar"):
        return copy_to_archive([image], path, platform=platform, jobs=jobs, progress=progress)[0]
    return copy_image(image, ImageLayout(path), platform=platform, jobs=jobs, progress=progress)


def copy_image(
    source: ImageSource,
    destination: ImageDestination,
    *,
    platform: Platform,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
) -> PullResult:
    """Copy one image from any source to any destination; see `pull`.

    1. The manifest for the platform is found and parsed, and the config read: nothing is written for a bad image.
    2. Config and layers that are there and valid are left alone; the others are fetched side by side.
    3. The manifest is written when all it names is there, and the name when the manifest is.
    """
    verify_jobs(jobs)
    image = prepare_image(source, platform, destination, progress)  # 1
    fetch = BlobFetch(destination, progress)
    with destination.begin() as use:
        try:
            fetch.run(image.blobs, jobs)  # 2
        except (InvalidImageError, NotFoundError):
            # The image is not as it should be, so nothing of it is to stay. After all else the next try goes on here.
            use.discard(fetch.begun)
            raise
        destination.write_manifest(image.received_manifest)  # 3
        destination.write_name(image.descriptor, image.name)
    return _results_of([image], fetch)[0]


def copy_to_archive(
    sources: Sequence[ImageSource],
    out: str | BinaryIO,
    *,
    platform: Platform,
    jobs: int = DEFAULT_JOBS,
    progress: Progress = SILENT,
    seconds: int = 0,
) -> list[PullResult]:
    """Copy images into one archive, which holds all of them or does not appear; blobs that they share once.

    Args:
        sources: each gives one image; they stay open.
        out: path of a file, which is replaced; or a stream, to which blobs go one after another.
        seconds: time of all entries, since 1970.

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
    plan = plan_archive(images, seconds=seconds)
    wanted = plan.blobs
    origins = {blob.descriptor.digest: blob for image in reversed(images) for blob in reversed(image.blobs)}
    blobs = [origins[digest] for digest in wanted]
    if isinstance(out, str):
        with ArchiveFile(out, plan) as archive:
            fetch = BlobFetch(archive, progress)
            fetch.run(blobs, jobs)
            return _results_of(images, fetch)
    write_to_stream(out, plan, blobs, progress)
    return _results_of(images, None)


def verify_jobs(jobs: int) -> None:
    """Return if so many connections may be made at once.

    Raises:
        UsageError: there are none, or too many.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"jobs: expected 1 to {MAX_JOBS}, got {jobs}")


def _results_of(images: Sequence[PreparedImage], fetch: BlobFetch | None) -> list[PullResult]:
    """Return what was pulled; a blob of several images is counted for the first, and without a fetch all are."""
    results = []
    seen: set[Digest] = set()
    for image in images:
        sizes = {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs}
        # An archive's config is written with the plan.
        read = {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs if blob.content is not None}
        counted = sizes if fetch is None else {**read, **fetch.fetched_bytes}
        for digest in fetch.reused if fetch is not None else ():
            counted.pop(digest, None)
        fetched = [counted[digest] for digest in sizes.keys() & counted.keys() - seen]
        results.append(
            PullResult(
                name=image.source.display_name,
                reference=_reference_of(image.name, image.source.display_name, image.manifest.digest),
                manifest_digest=image.manifest.digest,
                config_digest=image.manifest.config.digest,
                is_image=image.config is not None,
                platform=image.platform,
                fetched_blobs=len(fetched),
                fetched_bytes=sum(fetched),
                reused_blobs=len(sizes.keys() & fetch.reused) if fetch is not None else 0,
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
