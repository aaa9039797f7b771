"""Spool: keeps the content of files until their layer is verified.

Small files are kept in memory, others in temporary files of their own, and when there are too many of these, in one
shared temporary file. Any number of files needs a fixed number of descriptors and a fixed amount of memory.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import IO

from ociexport.layers.tar.reader import Entry
from ociexport.layers.tar.sparse import located_parts
from ociexport.system.temporary_files import TemporaryFileError, open_temporary_file

# The largest file that is kept in memory, and the total memory for such files.
_MAX_IN_MEMORY_BYTES, _MAX_MEMORY_BYTES = 1024 * 1024, 64 * 1024 * 1024
# Files in temporary files of their own, whose disk space is freed as soon as one is closed. Some shells allow a process
# only 256 descriptors.
_MAX_OWN_FILES = 64


class Spool:
    """Keeps the content of files; the files that it returned stay open when it is closed."""

    def __init__(self) -> None:
        self._memory_left = _MAX_MEMORY_BYTES
        self._own_files_left = _MAX_OWN_FILES
        self._shared: _SharedFile | None = None

    def keep(self, entry: Entry, data: Iterator[memoryview]) -> IO[bytes]:
        """Return a file with the data of ``entry``, holes included; the caller closes it.

        Raises:
            TemporaryFileError: there is no space for temporary files.
        """
        try:
            # In memory, holes would take space.
            if entry.size <= min(_MAX_IN_MEMORY_BYTES, self._memory_left) and entry.segments is None:
                self._memory_left -= entry.size
                return io.BytesIO(b"".join(data))
            if self._own_files_left:
                self._own_files_left -= 1
                shared = _SharedFile()
                try:
                    return shared.add(entry, data)
                finally:
                    shared.release()
            if self._shared is None:
                self._shared = _SharedFile()
            return self._shared.add(entry, data)
        except OSError as error:
            failure = error if isinstance(error, TemporaryFileError) else TemporaryFileError(error)
            failure.filename, failure.filename2 = os.fsdecode(entry.name), failure.filename
            raise failure from error.__cause__

    def close(self) -> None:
        """Release the shared file; nothing more can be kept."""
        if self._shared is not None:
            self._shared.release()
            self._shared = None


class _SharedFile:
    """A temporary file with the content of one or more files, one after another; closed with its last user."""

    def __init__(self) -> None:
        self._file = open_temporary_file()  # see `release`
        self._users = 1
        self._end = 0

    def add(self, entry: Entry, data: Iterator[memoryview]) -> IO[bytes]:
        fd, start = self._file.fileno(), self._end
        self._end += entry.size
        position = start
        if entry.segments is None:
            for chunk in data:
                position += _write_at(fd, chunk, position)
        else:
            for offset, part in located_parts(entry.segments, data):
                _write_at(fd, part, start + offset)
        os.ftruncate(fd, self._end)
        self._users += 1
        return io.BufferedReader(_Part(self, start, entry.size))

    def read_into(self, buffer: memoryview, position: int) -> int:
        return os.preadv(self._file.fileno(), [buffer], position)

    def release(self) -> None:
        """Count one user less; the last one closes the file."""
        self._users -= 1
        if not self._users:
            self._file.close()


def _write_at(fd: int, chunk: memoryview, position: int) -> int:
    written = 0
    while written < len(chunk):
        written += os.pwrite(fd, chunk[written:], position + written)
    return written


class _Part(io.RawIOBase):
    """One of the files in a shared file, for reading."""

    def __init__(self, shared: _SharedFile, start: int, size: int) -> None:
        super().__init__()
        self._shared = shared
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        got = self._shared.read_into(memoryview(buffer)[:count], self._start + self._position) if count else 0
        self._position += got
        return got

    def close(self) -> None:
        if not self.closed:
            self._shared.release()
        super().close()
