"""Reads the headers of a tar that is a file, and passes over the data: an archive of gigabytes is indexed at once."""

from __future__ import annotations

import os

from ociexport.errors import InvalidImageError
from ociexport.layers.tar.reader import TarReader

# Small files follow each other in one read; before a large one, little is read in vain.
_CHUNK_BYTES = 64 * 1024


class TarFileReader(TarReader):
    """Reads the entries of a tar file, each once and in order; `data_offset` tells where the current one's data is.

    Args:
        fd: the tar, from its first byte; its own position is neither used nor changed.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._next_chunk_offset = 0
        super().__init__(iter(self._read_chunk, b""))

    @property
    def data_offset(self) -> int:
        """The place of the current entry's stored data in the file, after its headers and its map."""
        return self._next_chunk_offset - len(self._chunk) + self._position

    def _read_chunk(self) -> bytes:
        chunk = os.pread(self._fd, _CHUNK_BYTES, self._next_chunk_offset)
        self._next_chunk_offset += len(chunk)
        return chunk

    def _skip(self, count: int) -> None:
        end = self.data_offset + count
        if end > self._size:
            raise InvalidImageError("tar: expected data of an entry, got the end of the tar")
        self._next_chunk_offset = end
        self._take_chunk(b"")
