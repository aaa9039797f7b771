"""Ranges of cut blobs, from the volumes that are there into a layout, where they wait until the blob is whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec.digest import CHUNK_BYTES, Digest, Verifier
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.storage.bundle_volume import BundleVolume, VolumeRange
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.ranges import CollectedBlob, CollectedRange, gaps_in, has_collected, read_collected
from ociexport.system.progress.protocol import Progress, format_bytes
from ociexport.transfer.bundle.contents import Contents
from ociexport.transfer.bundle.readable import open_readable


@dataclass(frozen=True, slots=True)
class OpenVolume:
    """A volume that is there."""

    contents: Contents
    volume: BundleVolume

    @property
    def place(self) -> str:
        """Its name in messages."""
        return self.contents.place


@dataclass(slots=True)
class Collected:
    """What became of cut blobs.

    Args:
        added: sizes of those that are whole now.
        reasons: by blob, why a range of it could not be taken.
        there: by blob that is not whole, the ranges that wait in the layout.
    """

    added: dict[Digest, int] = field(default_factory=dict)
    reasons: dict[Digest, str] = field(default_factory=dict)
    there: dict[Digest, tuple[CollectedRange, ...]] = field(default_factory=dict)


def collect_ranges(
    volumes: Sequence[OpenVolume], wanted: Iterable[BlobToFetch], layout: ImageLayout, progress: Progress
) -> Collected:
    """Bring the ranges of ``wanted``, which no bundle has whole, into ``layout``, which is in use.

    Raises:
        OSError: the disk or file system of ``layout``.
    """
    collected = Collected()
    ranges = _ranges_in(volumes)
    cut = [blob for blob in wanted if blob.descriptor.digest in ranges]
    total = sum(one.length for blob in cut for _, one in ranges[blob.descriptor.digest])
    with progress.phase("fetching", total) as phase:
        for blob in cut:
            digest, size = blob.descriptor.digest, blob.descriptor.size
            there = ranges[digest]
            with CollectedBlob(layout.directory, digest, size) as parts:
                if layout.has_blob(blob.descriptor):
                    parts.ranges = []
                    phase.leave_out(sum(one.length for _, one in there))
                    continue
                for volume, one in there:
                    if one.size == size and parts.has(one.offset, one.end):
                        phase.leave_out(one.length)
                        continue
                    try:
                        _copy(volume, one, blob, parts, progress)
                    except (InvalidImageError, NotFoundError) as error:
                        collected.reasons[digest] = _reason_of(error, volume, one)
                if parts.is_whole:
                    try:
                        parts.finish()
                        collected.added[digest] = size
                    except InvalidImageError as error:
                        collected.reasons[digest] = f"{error.message}; its ranges are each as they were made"
    for blob in wanted:
        note_collected(layout, blob, collected)
    return collected


def note_collected(layout: ImageLayout, blob: BlobToFetch, collected: Collected) -> None:
    """Note the ranges of a blob that wait in the layout since an earlier merge or this one."""
    digest = blob.descriptor.digest
    if digest not in collected.added:
        with suppress(InvalidImageError):
            ranges = read_collected(layout.directory, digest)
            if ranges:
                collected.there[digest] = ranges


def would_collect(volumes: Sequence[OpenVolume], wanted: Iterable[BlobToFetch], layout: ImageLayout) -> Collected:
    """Return what `collect_ranges` would do, without writing; ranges in volumes are not read."""
    collected = Collected()
    ranges = _ranges_in(volumes)
    for blob in wanted:
        digest, size = blob.descriptor.digest, blob.descriptor.size
        note_collected(layout, blob, collected)
        more = [_collected(volume, one) for volume, one in ranges.get(digest, ()) if one.size == size]
        there = (*collected.there.get(digest, ()), *more)
        if more and not list(gaps_in(there, 0, size)):
            collected.added[digest] = size
        elif there:
            collected.there[digest] = there
    return collected


def drop_collected(layout: ImageLayout, blob: BlobToFetch) -> None:
    """Remove the ranges of a blob that has become whole in another way."""
    if has_collected(layout.directory, blob.descriptor.digest):
        with CollectedBlob(layout.directory, blob.descriptor.digest, blob.descriptor.size) as parts:
            parts.ranges = []


def _ranges_in(volumes: Sequence[OpenVolume]) -> Mapping[Digest, list[tuple[OpenVolume, VolumeRange]]]:
    ranges: dict[Digest, list[tuple[OpenVolume, VolumeRange]]] = {}
    for volume in volumes:
        for one in volume.volume.ranges:
            ranges.setdefault(one.blob, []).append((volume, one))
    return ranges


def _copy(volume: OpenVolume, one: VolumeRange, blob: BlobToFetch, parts: CollectedBlob, progress: Progress) -> None:
    """Copy a range from a volume.

    Raises:
        NotFoundError, InvalidImageError: it is not there, can't be read, or is damaged.
    """
    if one.size != blob.descriptor.size:
        raise InvalidImageError(f"size of the blob: expected {blob.descriptor.size}, got {one.size}", where="")
    verifier = Verifier(one.digest, one.length, subject="")
    title = f"{blob.title} from {format_bytes(one.offset)} on"
    with (
        progress.task(title, one.length, digest=one.blob) as task,
        closing(open_readable(lambda: volume.contents.open_file(one.file), volume.place)) as stream,
    ):
        while chunk := stream.read(CHUNK_BYTES):
            offset = one.offset + verifier.seen_bytes
            verifier.update(chunk)
            parts.write(chunk, offset)
            task.advance(len(chunk))
        verifier.verify()
    parts.add(_collected(volume, one))


def _collected(volume: OpenVolume, one: VolumeRange) -> CollectedRange:
    return CollectedRange(one.offset, one.end, volume.volume.set_id, volume.volume.number)


def _reason_of(error: InvalidImageError | NotFoundError, volume: OpenVolume, one: VolumeRange) -> str:
    message = error.message if isinstance(error, InvalidImageError) else "not there"
    return f"bytes {one.offset} to {one.end} in {volume.place}: {message}"
