"""gather(): the blobs of several bundles brought into one layout, each from a bundle that has it whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ociexport.errors import InvalidImageError, NotFoundError, OciexportError
from ociexport.images.fetch import BlobFetch
from ociexport.images.wanted_blobs import BlobToFetch, unite_blobs
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.ranges import CollectedRange
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.bundle.incoming import Incoming
from ociexport.transfer.bundle.ranges import OpenVolume, collect_ranges, drop_collected, would_collect
from ociexport.transfer.bundle.readable import Readable


@dataclass(frozen=True, slots=True)
class Gathered:
    """What became of the blobs.

    Args:
        missing: those that are not in the layout: None if no bundle has it, else the reason why it can't be taken.
        added: sizes of those that the layout did not have.
        reused: those that it had.
        there: of missing ones that are cut, the ranges that wait in the layout.
    """

    missing: Mapping[Digest, str | None]
    added: Mapping[Digest, int]
    reused: frozenset[Digest]
    there: Mapping[Digest, tuple[CollectedRange, ...]] = field(default_factory=dict)

    def joined_with(self, later: Gathered) -> Gathered:
        """Return what became of the blobs of both; what is added later is no longer missing."""
        missing = {digest: reason for digest, reason in self.missing.items() if digest not in later.added}
        missing |= later.missing
        return Gathered(
            missing,
            {**self.added, **later.added},
            self.reused | later.reused,
            {digest: ranges for digest, ranges in {**self.there, **later.there}.items() if digest in missing},
        )


def gather(
    images: Sequence[Incoming], volumes: Sequence[OpenVolume], layout: ImageLayout, jobs: int, progress: Progress
) -> Gathered:
    """Bring the blobs of ``images`` into ``layout``, which is in use, as far as the bundles have them.

    A blob that a bundle has with wrong bytes is taken from the next bundle that has it. One that is cut waits in the
    layout until all its ranges are there; a range with wrong bytes is not taken.

    Raises:
        InvalidImageError: different sizes are declared for one digest.
        OSError: the disk or file system of ``layout``.
    """
    holders = _holders(images)
    every = {digest: blobs[0] for digest, blobs in holders.items()}
    collected = collect_ranges(volumes, _nowhere_whole(holders), layout, progress)
    holders = {digest: blobs for digest, blobs in holders.items() if digest not in collected.added}
    missing: dict[Digest, str | None] = {}
    added: dict[Digest, int] = {}
    reused: set[Digest] = set()
    while holders:
        fetch = BlobFetch(layout, progress)
        fetch.run_all([blobs[0] for blobs in holders.values()], jobs)
        added |= fetch.fetched_bytes
        reused |= fetch.reused
        missing = {digest: reason for digest, reason in missing.items() if digest not in {*added, *reused}}
        missing |= {digest: _reason_of(error) for digest, error in fetch.failures.items()}
        # The next round has the next bundle for each blob that failed.
        holders = {digest: holders[digest][1:] for digest in fetch.failures if len(holders[digest]) > 1}
    for digest in (*added, *reused):
        drop_collected(layout, every[digest])
    missing = {digest: reason or collected.reasons.get(digest) for digest, reason in missing.items()}
    there = {digest: ranges for digest, ranges in collected.there.items() if digest in missing}
    return Gathered(missing, added | collected.added, frozenset(reused), there)


def would_gather(images: Sequence[Incoming], volumes: Sequence[OpenVolume], layout: ImageLayout) -> Gathered:
    """Return what `gather` would do, without writing; blobs in bundles are not read."""
    missing: dict[Digest, str | None] = {}
    added: dict[Digest, int] = {}
    reused: set[Digest] = set()
    holders = _holders(images)
    collected = would_collect(volumes, _nowhere_whole(holders), layout)
    for digest, blobs in holders.items():
        descriptor = blobs[0].descriptor
        if layout.has_blob(descriptor):
            reused.add(digest)
        elif digest in collected.added or any(not isinstance(blob.source, _Nowhere) for blob in blobs):
            added[digest] = descriptor.size
        else:
            missing[digest] = None
    there = {digest: ranges for digest, ranges in collected.there.items() if digest in missing}
    return Gathered(missing, added, frozenset(reused), there)


def _holders(images: Sequence[Incoming]) -> dict[Digest, list[BlobToFetch]]:
    """Return each blob once for every bundle that has it; a blob that none has comes from `_Nowhere`."""
    unite_blobs(image.blobs for image in images)
    holders: dict[Digest, dict[str, BlobToFetch]] = {}
    for image in images:
        for blob in image.blobs:
            there = holders.setdefault(blob.descriptor.digest, {})
            if blob.content is not None or image.holds(blob.descriptor):
                there.setdefault(image.bundle, blob._replace(source=Readable(blob.source, image.bundle)))
    nowhere = {blob.descriptor.digest: blob._replace(source=_Nowhere()) for one in images for blob in one.blobs}
    return {digest: list(there.values()) or [nowhere[digest]] for digest, there in holders.items()}


def _nowhere_whole(holders: Mapping[Digest, Sequence[BlobToFetch]]) -> list[BlobToFetch]:
    """Return the blobs that no bundle has whole."""
    return [blobs[0] for blobs in holders.values() if isinstance(blobs[0].source, _Nowhere)]


def _reason_of(error: OciexportError) -> str | None:
    if isinstance(error, NotFoundError):
        return None
    return error.message if isinstance(error, InvalidImageError) else str(error)


class _Nowhere:
    """The opener of a blob that no bundle has; the layout may have it."""

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        raise NotFoundError(f"blob {descriptor.digest}: in no bundle")
