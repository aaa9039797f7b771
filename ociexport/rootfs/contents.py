"""The content of an image's files, remembered by digests while the layers are read, and compared with files on disk.

So the layers are read once: which files remain in the end, and under which names, is known only after the last layer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator

from ociexport.layers.change_index import LayerIndex
from ociexport.layers.limits import MAX_DEPTH, MAX_STEPS, NameBudget
from ociexport.layers.memory_tree import MemoryTree
from ociexport.layers.paths import ImagePath
from ociexport.layers.record import apply_changes
from ociexport.layers.tar.reader import Entry
from ociexport.layers.tar.sparse import SparseSegments
from ociexport.spec.digest import CHUNK_BYTES
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.progress.protocol import ProgressTask

# Memory for the content of one file, and for each segment of a sparse file: measured, rounded up.
_CONTENT_BYTES, _SEGMENT_BYTES = 300, 16


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of one file that is not empty.

    Args:
        size: bytes of the file, holes included.
        digest: SHA-256 of the stored data, without the holes.
        segments: the places of the stored data in a sparse file; None if there are no holes.
    """

    size: int
    digest: bytes
    segments: SparseSegments | None

    def is_in(self, fd: int, task: ProgressTask) -> bool:
        """Whether an open file has this content; where the image has a hole, the file may have zeros or a hole."""
        hasher = hashlib.sha256()
        position = 0
        for offset, count in self.segments if self.segments is not None else ((0, self.size),):
            if not _is_zero(fd, position, offset, task):
                return False
            position = offset + count
            for chunk in _read_from(fd, offset, position, task):
                hasher.update(chunk)
        return _is_zero(fd, position, self.size, task) and hasher.digest() == self.digest


class ContentTree(MemoryTree):
    """A tree of names that also remembers the content of each file.

    Attributes:
        contents: by the numbers of the layer and of the file in it, as in `MemoryFile.place`; without empty files.
    """

    def __init__(self, budget: NameBudget, *, max_depth: int = MAX_DEPTH, max_steps: int = MAX_STEPS) -> None:
        super().__init__(budget, max_depth=max_depth, max_steps=max_steps)
        self.contents: dict[tuple[int, int], FileContent] = {}
        # The layer that is being replayed.
        self._index: LayerIndex | None = None

    def replay(self, index: LayerIndex) -> None:
        """Apply a layer without reading it; its index has the segments of sparse files."""
        self._index = index
        try:
            apply_changes(index.changes, self)
        finally:
            self._index = None

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        super().write_file(path, entry, data)
        if not entry.size:
            return
        if self._index is not None:
            self._remember_known(self._index, entry.size)
            return
        hasher = hashlib.sha256()
        for chunk in data:
            hasher.update(chunk)
        self._take(_CONTENT_BYTES + _SEGMENT_BYTES * len(entry.segments or ()))
        self.contents[self._layer, self._files] = FileContent(entry.size, hasher.digest(), entry.segments)

    def _remember_known(self, index: LayerIndex, size: int) -> None:
        number = self._files - 1
        segments = (index.segments or {}).get(number)
        self._take(_CONTENT_BYTES + _SEGMENT_BYTES * len(segments or ()))
        self.contents[self._layer, self._files] = FileContent(size, index.digest_of(number), segments)


def _read_from(fd: int, start: int, end: int, task: ProgressTask) -> Iterable[bytes]:
    """Yield the bytes of a file from ``start`` to ``end``, or to its end if it is shorter."""
    while start < end and (chunk := os.pread(fd, min(CHUNK_BYTES, end - start), start)):
        yield chunk
        task.advance(len(chunk))
        start += len(chunk)


def _is_zero(fd: int, start: int, end: int, task: ProgressTask) -> bool:
    """Whether a file reads as zeros from ``start`` to ``end``, as holes or data."""
    for chunk in _read_from(fd, start, end, task):
        if chunk.strip(b"\0"):
            return False
        start += len(chunk)
    return start >= end
