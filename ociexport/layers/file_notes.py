"""What an index remembers of the content of a layer's files: where it is in the tar, its digest, and its holes."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence

from ociexport.layers.limits import NameBudget
from ociexport.layers.paths import ImagePath
from ociexport.layers.record import ChangeRecorder, LayerChange
from ociexport.layers.tar.reader import Entry
from ociexport.layers.tar.sparse import SparseSegments
from ociexport.system.access_points import AccessPoints

DIGEST_BYTES = 32
# Of a layer with more of them they are not kept.
_MAX_SEGMENTS = 100_000


class FileNotes:
    """Notes of the files of one layer, in the order of the tar.

    Args:
        points: of the layer.

    Attributes:
        offset: of the file that was located last.
        offsets: of the stored data in the tar.
        digests: SHA-256 of the stored data, one after another.
        segments: of the sparse files, by the number of the file from 0; None if there are too many.
    """

    def __init__(self, points: AccessPoints) -> None:
        self.points = points
        self.offsets = array("q")
        self.digests = bytearray()
        self.segments: dict[int, SparseSegments] | None = {}
        self._segments_left = _MAX_SEGMENTS
        self.offset = 0

    def locate_file(self, offset: int) -> None:
        """Take the offset of the next file's data."""
        self.offset = offset

    def add(self, digest: bytes, segments: SparseSegments | None) -> None:
        """Add the file that was located last."""
        if segments is not None and self.segments is not None:
            self._segments_left -= len(segments)
            self.segments[len(self.offsets)] = segments
            if self._segments_left < 0:
                self.segments = None
        self.offsets.append(self.offset)
        self.digests += digest


class HashedData:
    """The data of a file as an iterator, and the SHA-256 of what was read of it."""

    def __init__(self, data: Iterator[memoryview]) -> None:
        self._data = data
        self._hasher = hashlib.sha256()

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        chunk = next(self._data)
        self._hasher.update(chunk)
        return chunk

    @property
    def digest(self) -> bytes:
        """The digest as in `FileNotes.digests`."""
        return self._hasher.digest()


class NotingRecorder(ChangeRecorder):
    """A `ChangeRecorder` that can also note the content of all files, for an index; it is a `FileLocator`.

    Attributes:
        is_noting: whether the following files are noted, which takes the time to hash them.
        notes: of the layers so far.
    """

    def __init__(self, budget: NameBudget) -> None:
        super().__init__(budget)
        self.is_noting = False
        self.notes: list[FileNotes] = []
        self._points = AccessPoints()

    def new_points(self) -> AccessPoints:
        """Return an object for the access points of a layer."""
        return AccessPoints()

    def begin_tar(self, points: AccessPoints) -> None:
        """Take the access points of the next layer."""
        self._points = points

    def begin_layer(self) -> None:
        """Start the lists of the next layer."""
        super().begin_layer()
        self.notes.append(FileNotes(self._points))

    def locate_file(self, offset: int) -> None:
        """Take the offset of the next file's data in the tar."""
        self.notes[-1].locate_file(offset)

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Record a file, and note its content."""
        super().write_file(path, entry, data)
        if not self.is_noting:
            self.pass_data(path, entry, data)
            return
        hashed = HashedData(data)
        self.pass_data(path, entry, hashed)
        for _ in hashed:
            pass
        self.notes[-1].add(hashed.digest, entry.segments)

    def pass_data(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Take the data of a file, or a part of it; by default none."""

    def add_layer(self, changes: Sequence[LayerChange]) -> None:
        """Add a whole layer that is known."""
        self.begin_layer()
        for change in changes:
            self._add(change)
