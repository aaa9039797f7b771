"""plan_volumes(): a thin archive divided into volumes, each of them a thin archive of at most a given size.

Every volume has all documents and configs, so that any of them tells what the whole set contains. The other blobs fill
the volumes in order. A blob is cut where a volume ends if it is larger than a volume, or if the volume would otherwise
stay empty by more than an eighth; else it begins the next volume.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from ociexport.errors import UsageError, counted
from ociexport.images.prepare import PreparedImage
from ociexport.images.wanted_blobs import BlobToFetch, unite_blobs
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.storage.archive.plan import ArchiveContent, ArchivePlan, plan_archive
from ociexport.storage.bundle import Bundle
from ociexport.storage.bundle_volume import MAX_VOLUMES, BundleVolume, PlacedBlob, VolumeRange
from ociexport.storage.layout.documents import BUNDLE_FILE

# The digest of a range is known when it is written; `bundle.json` has these digits until then.
UNKNOWN = Digest("sha256", "0" * 64)
_BLOCK_BYTES = 512
# A header, and for a name or size beyond ustar's a PAX header with one block of records.
_HEADER_BYTES, _LONG_HEADER_BYTES = _BLOCK_BYTES, 3 * _BLOCK_BYTES
_MAX_USTAR_BYTES = 8 * 1024**3 - 1
# In a document with indented lines, the deepest line of an item is indented by this much more than by itself.
_INDENT_BYTES = 4
_MAX_EMPTY_FRACTION = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """A blob, or a range of it, in one volume."""

    blob: BlobToFetch
    offset: int
    length: int

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole blob."""
        return self.length == self.blob.descriptor.size

    @property
    def range(self) -> VolumeRange:
        """What ``bundle.json`` says of it before its bytes are known."""
        return VolumeRange(self.blob.descriptor.digest, self.blob.descriptor.size, self.offset, self.length, UNKNOWN)


@dataclass(frozen=True, slots=True)
class PlannedVolume:
    """A volume to write.

    Args:
        bundle: its ``bundle.json``, with `UNKNOWN` as the digests of ranges.
        pieces: in the order of the set.
    """

    number: int
    count: int
    bundle: Bundle
    plan: ArchivePlan
    pieces: tuple[Piece, ...]


def plan_volumes(
    images: Sequence[PreparedImage], bundle: Bundle, max_bytes: int, seconds: int
) -> tuple[PlannedVolume, ...]:
    """Return the volumes of ``images``, of which ``bundle`` tells what is left out.

    Raises:
        UsageError: ``max_bytes`` is too small; the message has the least size that works.
        InvalidImageError: two images declare different sizes for the same digest.
    """
    divided = _Divided(images, bundle, seconds)
    pieces = divided.divide(max_bytes)
    placed = _places(pieces)
    cuts = [[[str(one.blob.descriptor.digest), one.offset, one.length] for one in volume] for volume in pieces]
    set_id = Digest.of(bundle.to_json() + json.dumps([seconds, max_bytes, cuts]).encode())
    volumes = []
    for number, there in enumerate(pieces, start=1):
        ranges = tuple(one.range for one in there if not one.is_whole)
        volume = BundleVolume(set_id, number, len(pieces), placed, ranges)
        described, plan = divided.plan(volume, there)
        volumes.append(PlannedVolume(number, len(pieces), described, plan, tuple(there)))
    return tuple(volumes)


class _Divided:
    """The images of a set, and what a volume of it needs beside the blobs.

    Args:
        bundle: of the whole set.
    """

    def __init__(self, images: Sequence[PreparedImage], bundle: Bundle, seconds: int) -> None:
        self._images = images
        self._bundle = bundle
        self._seconds = seconds
        configs = {one.manifest.config.digest for image in images for one in image.manifests}
        blobs = unite_blobs(image.blobs for image in images)
        # Of an artifact, the config may be any blob, of any size.
        self._everywhere = {
            blob.descriptor.digest for blob in blobs if blob.content is not None and blob.descriptor.digest in configs
        }
        self._blobs = [blob for blob in blobs if blob.descriptor.digest not in self._everywhere]
        self._described = {blob.digest: blob for blob in bundle.blobs}

    def divide(self, max_bytes: int) -> list[list[Piece]]:
        """Return the pieces of each volume.

        Raises:
            UsageError: as `plan_volumes`.
        """
        base = self._base_bytes()
        overheads = {blob.descriptor.digest: self._overhead_of(blob) for blob in self._blobs}
        costs = [overheads[blob.descriptor.digest] + _padded(blob.descriptor.size) for blob in self._blobs]
        smallest = _padded(max(1, 2 * sum(costs) // MAX_VOLUMES))
        least = base + max(overheads.values(), default=0) + (smallest if overheads else 0)
        if max_bytes < least:
            raise UsageError(
                f"volume-size: expected at least {counted(least, 'byte')}, got {max_bytes}",
                hint="each volume has all manifests and configs of the images, and a part of the layers",
            )
        return list(_divide(self._blobs, overheads, max_bytes - base))

    def _base_bytes(self) -> int:
        """Return the size of a volume without blobs; no smaller than in any volume of the set."""
        most = tuple(
            PlacedBlob(blob.descriptor.digest, blob.descriptor.size, MAX_VOLUMES, MAX_VOLUMES) for blob in self._blobs
        )
        volume = BundleVolume(UNKNOWN, MAX_VOLUMES, MAX_VOLUMES, most, ())
        _, plan = self.plan(volume, (), self._images)
        algorithms = {blob.descriptor.digest.algorithm for blob in self._blobs}
        # Directories of blobs and of ranges; and bundle.json may grow into one more block.
        return plan.size + (1 + 2 * len(algorithms)) * _BLOCK_BYTES + _BLOCK_BYTES

    def _overhead_of(self, blob: BlobToFetch) -> int:
        """Return how many bytes a piece of a blob takes beside its own; no fewer than it really takes."""
        size, digest = blob.descriptor.size, blob.descriptor.digest
        whole = self._described[digest].to_json()
        ranged = VolumeRange(digest, size, size, size, UNKNOWN).to_json()
        is_long = size > _MAX_USTAR_BYTES or digest.algorithm != "sha256"
        header = _LONG_HEADER_BYTES if is_long else _HEADER_BYTES
        return header + max(_json_bytes(whole), _json_bytes(ranged))

    def plan(
        self, volume: BundleVolume, pieces: Sequence[Piece], loadable: Sequence[PreparedImage] | None = None
    ) -> tuple[Bundle, ArchivePlan]:
        """Return the ``bundle.json`` of a volume with these pieces, and its plan."""
        whole = {one.blob.descriptor.digest for one in pieces if one.is_whole}
        there = whole | self._everywhere
        elsewhere = {blob.descriptor.digest for blob in self._blobs} - whole
        bundle = replace(
            self._bundle, blobs=tuple(blob for blob in self._bundle.blobs if blob.digest in there), volume=volume
        )
        plan = plan_archive(
            [image._replace(blobs=_only(image.blobs, there)) for image in self._images],
            seconds=self._seconds,
            documents={BUNDLE_FILE: bundle.to_json()},
            loadable=_without(self._images, elsewhere) if loadable is None else loadable,
            ranges={
                one.range.file: ArchiveContent(one.length, None, one.blob.descriptor.digest)
                for one in pieces
                if not one.is_whole
            },
        )
        return bundle, plan


def _divide(blobs: Sequence[BlobToFetch], overheads: Mapping[Digest, int], capacity: int) -> Iterable[list[Piece]]:
    """Yield the pieces of each volume; each volume has room for ``capacity`` bytes of pieces and their overheads."""
    volume: list[Piece] = []
    left = capacity
    for blob in blobs:
        size, overhead = blob.descriptor.size, overheads[blob.descriptor.digest]
        offset = 0
        while True:
            rest = size - offset
            room = (left - overhead) // _BLOCK_BYTES * _BLOCK_BYTES
            if _padded(rest) <= room:
                length = rest
            elif room > 0 and not _waits(volume, overhead + _padded(rest), left, capacity):
                length = room
            else:
                length = 0
            if length or (not rest and room >= 0):
                volume.append(Piece(blob, offset, length))
                left -= overhead + _padded(length)
                offset += length
                if offset == size:
                    break
            yield volume
            volume, left = [], capacity
    yield volume


def _waits(volume: Sequence[Piece], cost: int, left: int, capacity: int) -> bool:
    """Whether the rest of a blob goes whole into the next volume, and leaves this one partly empty."""
    return bool(volume) and cost <= capacity and left <= capacity // _MAX_EMPTY_FRACTION


def _places(volumes: Sequence[Sequence[Piece]]) -> tuple[PlacedBlob, ...]:
    places: dict[Digest, PlacedBlob] = {}
    for number, pieces in enumerate(volumes, start=1):
        for one in pieces:
            descriptor = one.blob.descriptor
            known = places.get(descriptor.digest)
            first = known.first if known is not None else number
            places[descriptor.digest] = PlacedBlob(descriptor.digest, descriptor.size, first, number)
    return tuple(places.values())


def _only(blobs: Iterable[BlobToFetch], digests: Collection[Digest]) -> tuple[BlobToFetch, ...]:
    return tuple(blob for blob in blobs if blob.descriptor.digest in digests)


def _without(images: Iterable[PreparedImage], elsewhere: Collection[Digest]) -> list[PreparedImage]:
    """Return the images whose layers in docker's list are in this volume or on the far side."""
    return [
        image
        for image in images
        if image.main is None or not any(layer.digest in elsewhere for layer in image.main.manifest.layers)
    ]


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _json_bytes(item: Mapping[str, object]) -> int:
    """Return how many bytes an item of a list in ``bundle.json`` takes at most."""
    text = json.dumps(item, indent=1)
    return len(text) + _INDENT_BYTES * (text.count("\n") + 2)
