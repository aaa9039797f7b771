"""What one layer has in overlayfs's form, without the data: read when a layer above it is made.

The index is kept beside the layer, so that the layer itself is never read again. It is a JSON object:

- ``diffId``: of the layer.
- ``dirs``: for each directory its entry (None for one that no layer describes), whether it is opaque, and its names;
  the first is the root. A name leads to 0 for a whiteout, to ``n`` for the file ``n - 1``, to ``-n`` for the directory
  ``n``.
- ``files``: for each file, link or device its entry with the place of its data.

An entry is a list, which is a text of its own, since most entries are never looked at: type, mode, uid, gid, size,
mtime, atime, link target, device numbers, attributes; and for files the number of the file in the layer's tar, or the
diff_id of another layer and the number there. Bytes are written as Latin-1 characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.spec.named_tuple import NamedTuple

_TYPES = (
    EntryType.FILE,
    EntryType.DIRECTORY,
    EntryType.SYMLINK,
    EntryType.CHARACTER_DEVICE,
    EntryType.BLOCK_DEVICE,
    EntryType.FIFO,
)
_CODES = {kind: code for code, kind in enumerate(_TYPES)}
WHITEOUT = 0
_ENTRY_LENGTH = 11
# Items in one part of the JSON.
_PART = 1000


class Place(NamedTuple):
    """Where the data of a file is: in the layer with this diff_id, the file with this number, from 1."""

    diff_id: str
    number: int


class LayerIndex:
    """The names and metadata of one layer.

    Attributes:
        diff_id: of the layer.
        dirs: see the module.
        files: see the module.
    """

    __slots__ = ("diff_id", "dirs", "files")

    def __init__(self, diff_id: str, dirs: list[list[Any]] | None = None, files: list[str] | None = None) -> None:
        self.diff_id = diff_id
        self.dirs = [] if dirs is None else dirs
        self.files = [] if files is None else files

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LayerIndex:
        """Return the index that `json_parts` gave."""
        return cls(value["diffId"], value["dirs"], value["files"])

    def json_parts(self) -> Iterator[str]:
        """Yield the JSON that `from_json` takes, in parts: as one text it would take much memory."""
        yield f'{{"diffId":{json.dumps(self.diff_id)}'
        sequences: list[tuple[str, Sequence[Any]]] = [("dirs", self.dirs), ("files", self.files)]
        for name, items in sequences:
            yield f',"{name}":['
            for start in range(0, len(items), _PART):
                yield ("," if start else "") + _to_text(items[start : start + _PART])[1:-1]
            yield "]"
        yield "}"

    def add_directory(self, entry: Entry | None, *, is_opaque: bool) -> int:
        """Add a directory, and return its number, from 0."""
        self.dirs.append([None if entry is None else _to_text(encode_entry(entry)), is_opaque, {}])
        return len(self.dirs) - 1

    def add_file(self, entry: Entry, place: Place | None) -> int:
        """Add a file, and return its number, from 0."""
        where: list[object] = []
        if place is not None:
            where = [place.number] if place.diff_id == self.diff_id else [place.diff_id, place.number]
        self.files.append(_to_text([*encode_entry(entry), *where]))
        return len(self.files) - 1

    def name(self, directory: int, name: bytes, reference: int) -> None:
        """Give ``reference`` a name in a directory; see the module."""
        self.dirs[directory][2][name.decode("latin-1")] = reference

    def names(self, directory: int) -> Iterator[tuple[str, int]]:
        """Yield the names in a directory, as in the JSON, and what they lead to."""
        yield from self.dirs[directory][2].items()

    def entry_of(self, directory: int) -> Entry | None:
        """Return a directory's entry; None for one that no layer describes."""
        text = self.dirs[directory][0]
        return None if text is None else decode_entry(json.loads(text))

    def file_entry(self, file: int) -> Entry:
        """Return a file's entry."""
        return decode_entry(json.loads(self.files[file])[:_ENTRY_LENGTH])

    def is_opaque(self, directory: int) -> bool:
        """Whether a directory hides the same directory of all layers below."""
        return bool(self.dirs[directory][1])

    def place_of(self, file: int) -> Place | None:
        """Return where a file's data is; None if it has none."""
        where = json.loads(self.files[file])[_ENTRY_LENGTH:]
        return Place(where[0] if len(where) > 1 else self.diff_id, where[-1]) if where else None

    def paths_of(self, file: int) -> Iterator[tuple[bytes, ...]]:
        """Yield the names that lead to a file, each as the tuple of its parts."""
        waiting: list[tuple[int, tuple[bytes, ...]]] = [(0, ())]
        while waiting:
            directory, parts = waiting.pop()
            for text, reference in self.names(directory):
                if reference == file + 1:
                    yield (*parts, text.encode("latin-1"))
                elif reference < 0:
                    waiting.append((-reference, (*parts, text.encode("latin-1"))))


def _to_text(value: Sequence[Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def encode_entry(entry: Entry) -> list[Any]:
    """Return an entry as JSON, without its name."""
    own = (entry.xattrs or {}).items()
    xattrs = {key.decode("latin-1"): value.decode("latin-1") for key, value in own}
    kind = _CODES[entry.type]
    link_name = entry.link_name.decode("latin-1")
    major, minor = entry.device
    times = (entry.mtime_ns, entry.atime_ns)
    return [kind, entry.mode, entry.uid, entry.gid, entry.size, *times, link_name, major, minor, xattrs or None]


def decode_entry(encoded: list[Any]) -> Entry:
    """Return the entry that `encode_entry` encoded."""
    kind, mode, uid, gid, size, mtime_ns, atime_ns, link_name, major, minor, xattrs = encoded
    own: dict[bytes, bytes] | None = xattrs and {
        key.encode("latin-1"): value.encode("latin-1") for key, value in xattrs.items()
    }
    link = link_name.encode("latin-1")
    return Entry(_TYPES[kind], b"", link, mode, uid, gid, size, mtime_ns, atime_ns, own, (major, minor), None)
