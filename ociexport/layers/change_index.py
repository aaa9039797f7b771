"""The changes of a layer as bytes: an index that is kept, so that the layer need not be read again for its names.

All numbers are columns and all names are one text, so reading 100,000 changes takes a tenth of a second::

    head     JSON: "version", "count" of changes, "sizes" of the sections, "kinds" of changes and "types" of entries by
             their numbers, "xattrs" [position, {name: value}], names and values in Latin-1, "segments" [number of the
             file, [offset, bytes, …]] of sparse files, null if there are too many; then a newline
    kinds    one byte for each change: its place in "kinds"
    types    one byte for each change: place in "types", 255 without an entry
    names    paths, with NUL between them; they contain no NUL
    links    the link targets of entries, or the targets of hard links, in the same form
    numbers  columns of signed 64-bit little-endian numbers: mode, uid, gid, size, mtime_ns, atime_ns, major, minor
    offsets  where the stored data of each file is in the tar, in the same form
    digests  the SHA-256 of the same data, 32 bytes for each file

An index is read only if its digest is the one that was remembered, see `storage/layout/layer_indexes.py`, so it is what
this code wrote.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence

from ociexport.layers.apply import LayerApplier
from ociexport.layers.file_notes import DIGEST_BYTES, FileNotes
from ociexport.layers.paths import ROOT, ImagePath
from ociexport.layers.record import ChangeKind, LayerChange
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.layers.tar.sparse import SparseSegments
from ociexport.layers.whiteouts import AUFS_LINKS
from ociexport.spec.named_tuple import NamedTuple

_VERSION = 3
_KINDS = tuple(ChangeKind)
_TYPES = tuple(EntryType)
_NO_TYPE = 255
# Stands for "none" among times; no tar has this time, which is before the year 0.
_NO_TIME = -(2**63)
_COLUMNS = 8


class LayerIndex(NamedTuple):
    """What an index tells of a layer.

    Args:
        changes: in the order of the tar.
        offsets: where the stored data of each file is in the tar, in the same order.
        digests: SHA-256 of the same data, one after the other.
        segments: of the sparse files, by the number of the file from 0; None if there were too many.
    """

    changes: Sequence[LayerChange]
    offsets: Sequence[int]
    digests: bytes
    segments: Mapping[int, SparseSegments] | None

    @classmethod
    def of(cls, changes: Sequence[LayerChange], notes: FileNotes) -> LayerIndex:
        """Return the index of a layer that was read."""
        return cls(changes, notes.offsets, bytes(notes.digests), notes.segments)

    def digest_of(self, number: int) -> bytes:
        """Return the digest of the file with this number, from 0."""
        return self.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]

    def count_in(self, applier: LayerApplier) -> None:
        """Count the layer as read by ``applier``."""
        applier.entries += len(self.changes)
        applier.tar_bytes += sum(change.entry.size for change in self.changes if change.entry is not None)
        if any(change.path.startswith(AUFS_LINKS) for change in self.changes):
            applier.has_aufs_links = True


def dump_index(index: LayerIndex) -> bytes | None:
    """Return an index as bytes; None if a number is too large for a column."""
    changes = index.changes
    entries = [change.entry for change in changes]
    there = [entry for entry in entries if entry is not None]
    try:
        columns = (
            array("q", [entry.mode for entry in there]),
            array("q", [entry.uid for entry in there]),
            array("q", [entry.gid for entry in there]),
            array("q", [entry.size for entry in there]),
            array("q", [entry.mtime_ns for entry in there]),
            array("q", [_NO_TIME if entry.atime_ns is None else entry.atime_ns for entry in there]),
            array("q", [entry.device[0] for entry in there]),
            array("q", [entry.device[1] for entry in there]),
            array("q", index.offsets),
        )
    except OverflowError:
        return None
    if sys.byteorder != "little":
        for column in columns:
            column.byteswap()
    sections = (
        bytes(map(_KINDS.index, (change.kind for change in changes))),
        bytes(_NO_TYPE if entry is None else _TYPES.index(entry.type) for entry in entries),
        b"\0".join(change.path for change in changes),
        b"\0".join(change.target if change.entry is None else change.entry.link_name for change in changes),
        b"".join(column.tobytes() for column in columns[:-1]),
        columns[-1].tobytes(),
        index.digests,
    )
    head = {
        "version": _VERSION,
        "count": len(changes),
        "sizes": [len(section) for section in sections],
        "types": [kind.value for kind in _TYPES],
        "kinds": [kind.value for kind in _KINDS],
        "xattrs": [
            (position, {name.decode("latin-1"): value.decode("latin-1") for name, value in entry.xattrs.items()})
            for position, entry in enumerate(entries)
            if entry is not None and entry.xattrs
        ],
        "segments": index.segments
        and [
            (number, [value for segment in segments for value in segment])
            for number, segments in index.segments.items()
        ],
    }
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(sections)


def load_index(content: bytes) -> LayerIndex | None:
    """Return the index that `dump_index` wrote; None if another version of this code did."""
    end = content.index(b"\n")
    head = json.loads(content[:end])
    if (
        head["version"] != _VERSION
        or head["types"] != [kind.value for kind in _TYPES]
        or head["kinds"] != [kind.value for kind in _KINDS]
    ):
        return None
    sections, position = [], end + 1
    for size in head["sizes"]:
        sections.append(content[position : position + size])
        position += size
    kinds, types, names, links, numbers, offsets, digests = sections
    segments = None if head["segments"] is None else dict(_load_segments(head["segments"]))
    if not head["count"]:
        return LayerIndex([], _column(offsets), digests, segments)
    xattrs = {
        position: {name.encode("latin-1"): value.encode("latin-1") for name, value in found.items()}
        for position, found in head["xattrs"]
    }
    paths, targets = names.split(b"\0"), links.split(b"\0")
    rows = zip(*_columns(numbers), strict=True)
    changes: list[LayerChange] = []
    add = changes.append
    # Faster than the classes' own constructors, which are Python functions.
    new, no_device = tuple.__new__, (0, 0)
    for position, (kind, type_number, path, target) in enumerate(zip(kinds, types, paths, targets, strict=True)):
        if type_number == _NO_TYPE:
            add(LayerChange(_KINDS[kind], ImagePath(path), None, ImagePath(target)))
            continue
        mode, uid, gid, size, mtime_ns, atime_ns, major, minor = next(rows)
        values = (
            _TYPES[type_number],
            path,
            target,
            mode,
            uid,
            gid,
            size,
            mtime_ns,
            None if atime_ns == _NO_TIME else atime_ns,
            xattrs.get(position),
            (major, minor) if major or minor else no_device,
            None,
        )
        add(new(LayerChange, (_KINDS[kind], path, new(Entry, values), ROOT)))
    return LayerIndex(changes, _column(offsets), digests, segments)


def _load_segments(found: Sequence[tuple[int, Sequence[int]]]) -> Iterator[tuple[int, SparseSegments]]:
    for number, values in found:
        segments = SparseSegments()
        for offset, count in zip(values[::2], values[1::2], strict=True):
            segments.add(offset, count)
        yield number, segments


def _columns(numbers: bytes) -> Sequence[array[int]]:
    size = len(numbers) // _COLUMNS
    return [_column(numbers[number * size : (number + 1) * size]) for number in range(_COLUMNS)]


def _column(numbers: bytes) -> array[int]:
    column = array("q")
    column.frombytes(numbers)
    if sys.byteorder != "little":
        column.byteswap()
    return column
