"""Blobs of a registry that are needed a second time: read again from a temporary file, not fetched again."""

from __future__ import annotations

import os
import threading
from io import FileIO

from ociexport.images.source import BlobOpener
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.system.temporary_files import TemporaryFileError, open_temporary_file

# The directory for temporary files is in memory on many systems. A larger blob is fetched again if it is needed again.
_MAX_KEPT_BYTES = 1024 * 1024 * 1024


class KeptBlobs:
    """A `BlobOpener` around another that keeps each blob which was read to its end.

    A temporary directory that is missing or full is no error: the blob is then fetched again.

    Args:
        source: opens a blob for the first time; not closed with this one.
    """

    def __init__(self, source: BlobOpener) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._kept: dict[Digest, FileIO] = {}
        self._bytes_left = _MAX_KEPT_BYTES
        self._is_closed = False

    @property
    def wrapped(self) -> BlobOpener:
        """The source that opens a blob for the first time."""
        return self._source

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes from ``offset`` on; the caller verifies and closes them."""
        with self._lock:
            kept = self._kept.get(descriptor.digest)
            if kept is not None:
                return _KeptStream(os.dup(kept.fileno()), offset)
            if offset or descriptor.size > self._bytes_left:
                return self._source.open_blob(descriptor, offset)
            self._bytes_left -= descriptor.size
        return _KeepingStream(self._source.open_blob(descriptor), self, descriptor)

    def keep(self, digest: Digest, file: FileIO) -> None:
        """Keep a complete blob; ``file`` is closed with this object."""
        with self._lock:
            if self._is_closed or digest in self._kept:
                file.close()
            else:
                self._kept[digest] = file

    def close(self) -> None:
        """Delete the kept blobs."""
        with self._lock:
            self._is_closed = True
            for file in self._kept.values():
                file.close()
            self._kept = {}


class _KeepingStream:
    """A blob's bytes, written to a temporary file while they are read; not beyond the blob's declared size."""

    def __init__(self, stream: ByteStream, blobs: KeptBlobs, descriptor: Descriptor) -> None:
        self._stream = stream
        self._blobs = blobs
        self._digest = descriptor.digest
        self._bytes_left = descriptor.size
        try:
            self._file: FileIO | None = open_temporary_file()
        except TemporaryFileError:
            self._file = None

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size)
        if chunk:
            self._write(chunk)
        elif size != 0 and self._file is not None:
            file, self._file = self._file, None
            self._blobs.keep(self._digest, file)
        return chunk

    def _write(self, chunk: bytes) -> None:
        self._bytes_left -= len(chunk)
        if self._file is None:
            return
        try:
            if self._bytes_left < 0 or self._file.write(chunk) != len(chunk):
                self._give_up()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        self._give_up()
        self._stream.close()


class _KeptStream:
    """A kept blob, with a position of its own."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._position = offset

    def read(self, size: int = -1, /) -> bytes:
        count = size if size >= 0 else os.fstat(self._fd).st_size
        chunk = os.pread(self._fd, count, self._position)
        self._position += len(chunk)
        return chunk

    def close(self) -> None:
        os.close(self._fd)
