"""PartialFile: a blob's file while it is not complete, and how much of it may be trusted after a crash.

Bytes come in their order, or, of a blob that is fetched over several connections, ahead of it: then they are written
where they belong at once, and hashed when their turn has come. So that nobody takes the gaps before them for bytes of
the blob, such a file ends in a mark, beyond the place of the blob's last byte, that says how long its beginning is.
Whoever finds the file after a crash goes on there. The mark is believed as little as the bytes: all are hashed.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator

from ociexport.spec.digest import Chunk, Digest, Verifier

# Of the beginning that stands in front of bytes that came ahead of it.
_MARK = struct.Struct("<16sQ")
_MAGIC = b"ociexport ahead\n"
_READ_BYTES = 1024 * 1024
# What is read back was written a moment ago; smaller pieces stay in the processor's cache.
_READ_BACK_BYTES = 256 * 1024


class PartialFile:
    """The bytes of a blob so far. Only `place` may be called from other threads than the one that owns it.

    Args:
        fd: of the file, which nobody else writes; closed by the caller. What is in it is hashed.
        path: for messages.
        digest: of the blob.
        size: of the blob; None where only the digest is known, then no bytes may come ahead.
    """

    def __init__(self, fd: int, path: str, digest: Digest, size: int | None) -> None:
        self._fd = fd
        self._path = path
        self._digest = digest
        self._size = size
        self._lock = threading.Lock()
        # Where the mark is; None while there is none.
        self._mark_at: int | None = None
        self._verifier = Verifier(digest, size, subject="")
        os.ftruncate(fd, trusted_bytes(fd, size))
        while chunk := os.pread(fd, _READ_BYTES, self.offset):
            self._verifier.update(chunk)

    @property
    def offset(self) -> int:
        """How many bytes are there, in order and hashed; of the next one."""
        return self._verifier.seen_bytes

    def restart(self) -> None:
        """Forget all that is there."""
        os.ftruncate(self._fd, 0)
        self._mark_at = None
        self._verifier = Verifier(self._digest, self._size, subject="")

    def write(self, chunk: Chunk) -> None:
        """Take the next bytes.

        Raises:
            SizeMismatchError: there are more than declared.
            OSError: they could not be written; with the file's name.
        """
        begin = self.offset
        self._verifier.update(chunk)
        self._write_at(chunk, begin)
        self._write_mark()

    def place(self, chunk: Chunk, offset: int) -> None:
        """Write bytes whose turn has not come where they belong.

        Raises:
            OSError: they could not be written.
            ValueError: nobody knows where the blob ends.
        """
        if self._size is None:
            raise ValueError("place: expected a blob of known size")
        with self._lock:
            if self._mark_at is None:
                # Only a mark that is there counts: without it none of the threads may leave a gap.
                self._write_at(_MARK.pack(_MAGIC, self.offset), self._size)
                self._mark_at = self._size
        self._write_at(chunk, offset)

    def take(self, count: int) -> None:
        """Count and hash the next ``count`` bytes, which were placed."""
        for chunk in read_back(self._fd, self.offset, count, self._path):
            self._verifier.update(chunk)
        self._write_mark()

    def verify(self) -> None:
        """Return if the file is the whole blob, and nothing else.

        Raises:
            DigestMismatchError, SizeMismatchError: it is not.
        """
        self._verifier.verify()
        if self._mark_at is not None:
            os.ftruncate(self._fd, self._mark_at)
            self._mark_at = None

    def _write_mark(self) -> None:
        """Say in the file how long its beginning is, where that is not simply its length."""
        if self._mark_at is not None:
            self._write_at(_MARK.pack(_MAGIC, self.offset), self._mark_at)

    def _write_at(self, chunk: Chunk, offset: int) -> None:
        try:
            write_at(self._fd, chunk, offset)
        except OSError as error:
            error.filename = self._path
            raise


def trusted_bytes(fd: int, size: int | None) -> int:
    """Return how many bytes the file of a blob that is not complete has in their order; 0 where it has none."""
    length = os.fstat(fd).st_size
    if size is None or length <= size:
        return length
    mark = os.pread(fd, _MARK.size, size)
    if length != size + _MARK.size or len(mark) != _MARK.size:
        return 0
    magic, offset = _MARK.unpack(mark)
    return int(offset) if magic == _MAGIC and offset <= size else 0


def read_back(fd: int, offset: int, count: int, path: str) -> Iterator[bytes]:
    """Yield ``count`` bytes of a file that were just written to it.

    Raises:
        OSError: somebody has cut it meanwhile.
    """
    end = offset + count
    while offset < end:
        chunk = os.pread(fd, min(end - offset, _READ_BACK_BYTES), offset)
        if not chunk:
            raise OSError(errno.EIO, "somebody else has made it shorter", path)
        yield chunk
        offset += len(chunk)


def write_at(fd: int, chunk: Chunk, offset: int) -> None:
    """Write all of ``chunk`` at ``offset``."""
    view = memoryview(chunk)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
