"""The bytes of one file in an archive, read in place; a file with holes has zeros there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO

from ociexport.errors import InvalidImageError
from ociexport.layers.tar.sparse import SparseSegments, filled_parts
from ociexport.spec.digest import CHUNK_BYTES


class MemberStream:
    """The bytes of a file that is stored in one piece.

    Args:
        fd: the archive; closed with the stream.
        position: the first byte in the archive.
        end: where the file ends in the archive.
    """

    def __init__(self, fd: int, position: int, end: int) -> None:
        self._file = FileIO(fd)
        self._position = position
        self._end = end

    def read(self, size: int = -1, /) -> bytes:
        missing = max(self._end - self._position, 0)
        chunk = os.pread(self._file.fileno(), missing if size < 0 else min(size, missing), self._position)
        self._position += len(chunk)
        return chunk

    def close(self) -> None:
        self._file.close()


class SparseMemberStream:
    """The bytes of a file of which only segments are stored, one after another.

    Args:
        fd: the archive; closed with the stream.
        position: the first stored byte in the archive.
        segments: of the file; verified.
        size: bytes of the file, holes included.
        offset: the first byte of the file to be read.
    """

    def __init__(self, fd: int, position: int, segments: SparseSegments, size: int, offset: int) -> None:
        stored_bytes = sum(count for _, count in segments)
        self._stored = MemberStream(fd, position, position + stored_bytes)
        self._parts = filled_parts(segments, size, self._read_stored(stored_bytes))
        self._part = memoryview(b"")
        while offset and self._has_part():
            offset -= len(self._take(offset))

    def read(self, size: int = -1, /) -> bytes:
        pieces = []
        left = size
        while left and self._has_part():
            pieces.append(self._take(left))
            left -= len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        self._stored.close()

    def _take(self, count: int) -> memoryview:
        """Return up to ``count`` bytes of the current part; all of it if ``count`` is negative."""
        taken = self._part if count < 0 else self._part[:count]
        self._part = self._part[len(taken) :]
        return taken

    def _has_part(self) -> bool:
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return False
            self._part = memoryview(part)
        return True

    def _read_stored(self, missing: int) -> Iterator[memoryview]:
        while missing:
            chunk = self._stored.read(CHUNK_BYTES)
            if not chunk:
                raise InvalidImageError("expected the data of a sparse file, got the end of the archive")
            missing -= len(chunk)
            yield memoryview(chunk)
