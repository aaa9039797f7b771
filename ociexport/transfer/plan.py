"""plan_pull(): what a pull would fetch and write, determined without writing anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TypeAlias

from ociexport.errors import NotFoundError, locating
from ociexport.images.prepare import PreparedImage, prepare_image
from ociexport.images.source import ImageSource, credentials_of, servers_of
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.storage.archive.plan import plan_archive
from ociexport.storage.bundle import Bundle
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.companions import prepare_companions
from ociexport.transfer.options import PullOptions
from ociexport.transfer.requirements import verify_has
from ociexport.transfer.result import WrittenVolume
from ociexport.transfer.sources.convert import ConvertingSource


@dataclass(frozen=True, slots=True)
class PlannedBlob:
    """One config or layer of a planned pull.

    Args:
        title: its name in progress lines.
        there_bytes: how many bytes need not be fetched: the whole blob, or the part that an earlier try left.
    """

    title: str
    descriptor: Descriptor
    there_bytes: int

    @property
    def is_there(self) -> bool:
        """Whether the destination holds the whole blob, valid."""
        return self.there_bytes == self.descriptor.size

    @property
    def missing_bytes(self) -> int:
        """How many bytes are to be fetched."""
        return self.descriptor.size - self.there_bytes


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """What a pull of one image would do.

    Args:
        image: with its manifests and configs, which were read.
        served_by: host that served the manifest; None for a source on this machine.
        credentials: the identity used, and where it was found; None if no server requested one.
        blobs: those that no earlier image of the same pull brings.
        replaces: the digest that the name has at the destination now; None if the name is new or keeps its digest.
        converted: the digest of the published manifest, if the pull will convert it; else None. The new digests are
            then unknown until the layers are fetched: those in ``image`` are placeholders, and ``blobs`` has no config.
        is_deep: whether the tar of each layer would be compared with its diff_id.
    """

    image: PreparedImage
    served_by: str | None
    credentials: str | None
    blobs: tuple[PlannedBlob, ...]
    replaces: Digest | None
    converted: Digest | None
    is_deep: bool


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull would do.

    Args:
        images: in the requested order.
        write_bytes: how many bytes it would write: the fetched ones, or the whole archive.
        free_bytes: how many are free at the destination; None if unknown, or for a pipe.
        expected: the blobs that a thin copy leaves out; None for a whole one.
        volumes: of an archive in several files.
    """

    images: tuple[PlannedImage, ...]
    write_bytes: int
    free_bytes: int | None
    expected: tuple[Descriptor, ...] | None = None
    volumes: tuple[WrittenVolume, ...] = ()

    @property
    def fetch_bytes(self) -> int:
        """How many bytes are to be fetched."""
        return sum(blob.missing_bytes for image in self.images for blob in image.blobs)

    @property
    def fits(self) -> bool:
        """Whether the free space suffices; true if it is unknown."""
        return self.free_bytes is None or self.write_bytes <= self.free_bytes


# Where a pull writes: a layout with the cache that it shares, or an archive's path; None for a pipe.
PlannedDestination: TypeAlias = tuple[ImageLayout, BlobCache | None] | str | None


def plan_pull(
    sources: Sequence[ImageSource],
    out: PlannedDestination,
    options: PullOptions,
    progress: Progress,
    seconds: int = 0,
) -> PullPlan:
    """Return what pulling ``sources`` into ``out`` would do. Manifests and configs are read, and nothing is written.

    ``seconds`` is the time of an archive's entries, as in `copy_to_archive`. With ``options.referrers``, an image's
    companions follow it as planned images of their own.

    Raises:
        as `ociexport.transfer.pull.pull` does before its first blob.
    """
    layout, cache = out if isinstance(out, tuple) else (None, None)
    brought: set[Digest] = set()
    planned = []
    prepared: list[tuple[ImageSource, PreparedImage]] = []
    for number, source in enumerate(map(options.signed, sources)):
        if isinstance(source, ConvertingSource):
            source.only_plan()
        with locating(source.display_name) if len(sources) > 1 else nullcontext():
            image = prepare_image(source, options.platform_of(number), layout, progress)
            prepared.append((source, image))
            companions = prepare_companions(image, layout, progress) if options.referrers else []
            verify_has(image, companions, options.required)
        prepared += [(source, companion) for companion in companions]
    images, expected, documents, bundle = _without_expected([image for _, image in prepared], options, layout, progress)
    for (source, _), image in zip(prepared, images, strict=True):
        converted = source.converted.get(image.listed.digest) if isinstance(source, ConvertingSource) else None
        blobs = [
            blob
            for blob in image.blobs
            if blob.descriptor.digest not in brought and not (converted is not None and blob.content is not None)
        ]
        brought |= {blob.descriptor.digest for blob in blobs}
        planned.append(
            PlannedImage(
                image=image,
                served_by=servers_of(source).get(image.listed.digest),
                credentials=credentials_of(source),
                blobs=tuple(_plan_blob(blob, layout, cache) for blob in blobs),
                replaces=_replaced_by(image, layout) if layout is not None and converted is None else None,
                converted=converted,
                is_deep=options.is_deep_for(source, into_archive=layout is None),
            )
        )
    volumes: tuple[WrittenVolume, ...] = ()
    if bundle is not None and options.volume_bytes is not None and isinstance(out, str):
        from ociexport.transfer.bundle.volumes import name_volumes  # noqa: PLC0415 - start-up: few pulls write volumes

        volumes = name_volumes(out, images, bundle, options.volume_bytes, seconds)
        write_bytes = sum(volume.size for volume in volumes)
    elif layout is None:
        write_bytes = plan_archive(images, documents=documents).size
    else:
        write_bytes = sum(blob.missing_bytes for image in planned for blob in image.blobs)
    path = layout.path if layout is not None else out
    free_bytes = _free_bytes(path) if isinstance(path, str) else None
    return PullPlan(tuple(planned), write_bytes, free_bytes, expected, volumes)


def _without_expected(
    images: Sequence[PreparedImage], options: PullOptions, layout: ImageLayout | None, progress: Progress
) -> tuple[Sequence[PreparedImage], tuple[Descriptor, ...] | None, Mapping[str, bytes], Bundle | None]:
    """Return the images as they are written, what is left out of them, and further documents of an archive."""
    if options.thin is None:
        return images, None, {}, None
    from ociexport.transfer.bundle.thin import leave_out, verify_fits_thin  # noqa: PLC0415 - start-up: few are thin

    if layout is not None:
        verify_fits_thin(layout)
    selection, bundle = leave_out(images, options.thin, progress)
    selection.close()  # nothing is written
    expected = tuple(one.blob.descriptor for one in selection.expected)
    return selection.images, expected, {BUNDLE_FILE: bundle.to_json()}, bundle


def _plan_blob(blob: BlobToFetch, layout: ImageLayout | None, cache: BlobCache | None) -> PlannedBlob:
    descriptor = blob.descriptor
    there = 0
    if layout is not None:
        if layout.has_blob(descriptor) or (cache is not None and cache.has(descriptor)):
            there = descriptor.size
        else:
            there = layout.partial_bytes(descriptor)
    return PlannedBlob(blob.title, descriptor, there)


def _replaced_by(image: PreparedImage, layout: ImageLayout) -> Digest | None:
    try:
        listed = layout.read_images()
    except NotFoundError:
        return None
    for descriptor, name in listed:
        if name.full is not None and name.full == image.name.full and descriptor.digest != image.listed.digest:
            return descriptor.digest
    return None


def _free_bytes(path: str) -> int | None:
    """Return how many bytes this process may write at ``path``, which may be missing yet; None if unknown."""
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    try:
        status = os.statvfs(place)
    except OSError:
        return None
    # ramfs and some network file systems report 0 of 0 blocks.
    free = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return free * status.f_frsize if status.f_blocks else None
