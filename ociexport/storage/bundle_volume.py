"""The volumes of a bundle: what ``bundle.json`` says of them, and their names.

A bundle that is too large for one medium is written as several archives. Each is a thin archive of its own, with all
documents of the bundle and some of its blobs. A blob that is cut has a range in each of several volumes, one after
another; a range is the file ``ranges/ALGORITHM/ENCODED.OFFSET``.

In ``bundle.json``, ``blobs`` are those that are whole in this volume, and ``volume`` is:

- ``set``: the same in all volumes that were made together, and in no other; ``number`` from 1 on, and ``count``
- ``blobs``: all blobs of the set; ``first`` and ``last`` are the numbers of the volumes that contain its bytes
- ``ranges``: those in this volume; ``digest`` is of the range, ``blob`` and ``size`` are of the blob it is cut from
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from ociexport.errors import UsageError, quoted
from ociexport.spec.descriptor import parse_digest_of
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.numerals import MAX_SIZE, number_in

RANGES_DIRECTORY = "ranges"
# No user changes media more often; and a damaged document must not make us list a million missing volumes.
MAX_VOLUMES = 9999
_NAME = re.compile(r"(.*\.)([0-9]{1,4})-of-([0-9]{1,4})((?:\.[^./]*)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PlacedBlob:
    """A blob of a set: its bytes are in the volumes from ``first`` to ``last``."""

    digest: Digest
    size: int
    first: int
    last: int

    @classmethod
    def from_json(cls, item: JsonObject, count: int) -> PlacedBlob:
        """Return ``item`` as a blob of a set of ``count`` volumes; raises `InvalidImageError`."""
        first = _integer(item, "first", 1, count)
        return cls(
            digest=parse_digest_of(item, "digest", item.text("digest")),
            size=_integer(item, "size", 0, MAX_SIZE),
            first=first,
            last=_integer(item, "last", first, count),
        )

    def to_json(self) -> dict[str, object]:
        """Return the blob as JSON."""
        return {"digest": str(self.digest), "size": self.size, "first": self.first, "last": self.last}

    @property
    def is_cut(self) -> bool:
        """Whether several volumes have ranges of it."""
        return self.first != self.last

    @property
    def volumes(self) -> range:
        """The numbers of the volumes that contain its bytes."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class VolumeRange:
    """A part of a blob, in one volume.

    Args:
        blob: digest of the blob.
        size: of the blob.
        digest: of the bytes in the range.
    """

    blob: Digest
    size: int
    offset: int
    length: int
    digest: Digest

    @classmethod
    def from_json(cls, item: JsonObject) -> VolumeRange:
        """Return ``item`` as a range within its blob; raises `InvalidImageError`."""
        size = _integer(item, "size", 1, MAX_SIZE)
        offset = _integer(item, "offset", 0, size - 1)
        return cls(
            blob=parse_digest_of(item, "blob", item.text("blob")),
            size=size,
            offset=offset,
            length=_integer(item, "length", 1, size - offset),
            digest=parse_digest_of(item, "digest", item.text("digest")),
        )

    def to_json(self) -> dict[str, object]:
        """Return the range as JSON."""
        return {
            "blob": str(self.blob),
            "size": self.size,
            "offset": self.offset,
            "length": self.length,
            "digest": str(self.digest),
        }

    @property
    def end(self) -> int:
        """The offset of the first byte after it."""
        return self.offset + self.length

    @property
    def file(self) -> str:
        """The name of its file in the volume."""
        return f"{RANGES_DIRECTORY}/{self.blob.algorithm}/{self.blob.encoded}.{self.offset}"


@dataclass(frozen=True, slots=True)
class BundleVolume:
    """The member ``volume`` of a ``bundle.json``; see the module."""

    set_id: Digest
    number: int
    count: int
    blobs: tuple[PlacedBlob, ...]
    ranges: tuple[VolumeRange, ...]

    @classmethod
    def from_json(cls, item: JsonObject) -> BundleVolume:
        """Return ``item`` as a volume; raises `InvalidImageError`."""
        count = _integer(item, "count", 1, MAX_VOLUMES)
        ranges = tuple(map(VolumeRange.from_json, item.objects("ranges")))
        if len({one.blob for one in ranges}) < len(ranges):
            raise item.error("ranges", "expected at most one range of each blob, got several")
        return cls(
            set_id=parse_digest_of(item, "set", item.text("set")),
            number=_integer(item, "number", 1, count),
            count=count,
            blobs=tuple(PlacedBlob.from_json(blob, count) for blob in item.objects("blobs")),
            ranges=ranges,
        )

    def to_json(self) -> dict[str, object]:
        """Return the volume as JSON."""
        return {
            "set": str(self.set_id),
            "number": self.number,
            "count": self.count,
            "blobs": [blob.to_json() for blob in self.blobs],
            "ranges": [one.to_json() for one in self.ranges],
        }

    def name_of(self, number: int, place: str) -> str:
        """Return the name of a volume of the same set, as far as ``place``, the name of this one, tells it."""
        found = _NAME.fullmatch(os.path.basename(place))
        if found is None or number_in(found[2]) != self.number or number_in(found[3]) != self.count:
            return f"volume {number} of {self.count}"
        name = f"{found[1]}{number:0{len(found[2])}d}-of-{found[3]}{found[4]}"
        return os.path.join(os.path.dirname(place), name)


def verify_one_set(volumes: Iterable[tuple[str, BundleVolume]]) -> None:
    """Return if volumes, given by their places, are of one set.

    Raises:
        UsageError: they are of several.
    """
    first: tuple[str, BundleVolume] | None = None
    for place, volume in volumes:
        first = first or (place, volume)
        if volume.set_id != first[1].set_id:
            raise UsageError(
                f"{quoted(place)}: expected a volume of the set of {quoted(first[0])}, got one of another set",
                hint="give the volumes of each set in a run of its own",
            )


def volume_name(out: str, number: int, count: int) -> str:
    """Return the path of a volume of the archive ``out``: ``update.03-of-12.tar`` for ``update.tar``.

    All names of a set have the same length, so they sort by number.
    """
    root, suffix = (out.removesuffix(".tar"), ".tar") if out.endswith(".tar") else (out, "")
    return f"{root}.{number:0{len(str(count))}d}-of-{count}{suffix}"


def is_volume_name(name: str, out: str) -> bool:
    """Whether ``name`` is that of a volume of some set that was written as ``out``, both without a directory."""
    found = _NAME.fullmatch(name)
    return found is not None and volume_name(out, 1, 1) == f"{found[1]}1-of-1{found[4]}"


def _integer(item: JsonObject, key: str, least: int, most: int) -> int:
    number = item.integer(key)
    if not least <= number <= most:
        raise item.error(key, f"expected {least} to {most}, got {quoted(number)}")
    return number
