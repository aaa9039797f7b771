"""Writing blobs to a layout: each blob is written to a partial file, verified, synced and renamed.

`PartialFile` is the file of a blob that is not complete, and decides how much of it may be trusted after a crash. Bytes
usually arrive in order. If a blob is fetched over several connections, some arrive ahead of their turn: they are
written to their place at once, and hashed when the bytes before them have arrived. Such a file may have gaps, so it
ends in a mark, after the place of the blob's last byte, that records how many bytes at the beginning are without gaps.
The next run continues there. It does not trust the mark or the bytes: it hashes all of them again.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from ociexport.errors import InvalidImageError
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, BlobCheck, Chunk, Digest, Verifier
from ociexport.storage.layout_directory import LayoutDirectory

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# The mark at the end of a file with gaps: the magic, and the length of the beginning without gaps.
_MARK = struct.Struct("<16sQ")
_MAGIC = b"ociexport ahead\n"
# Bytes are read back soon after they are written; small pieces are then still in the processor's cache.
_READ_BACK_BYTES = 256 * 1024
OWN_DIRECTORY = ".ociexport"
PARTIAL_DIRECTORY = f"{OWN_DIRECTORY}/partial"
# See `ociexport.storage.layout.ranges`.
COLLECTED_DIRECTORY = f"{OWN_DIRECTORY}/ranges"
# See `ociexport.storage.layout.layer_indexes`.
INDEXES_DIRECTORY = f"{OWN_DIRECTORY}/layers"
BLOBS_DIRECTORY = "blobs"


class PartialFile:
    """The bytes of a blob so far. Only `place` may be called from threads other than the owner.

    Args:
        fd: of the file, which has no other writer; closed by the caller. Its content is hashed.
        path: for messages.
        digest: of the blob.
        size: of the blob; None if only the digest is known, and then `place` can't be used.
        check: takes the bytes of an earlier try too.
    """

    def __init__(self, fd: int, path: str, digest: Digest, size: int | None, check: BlobCheck | None = None) -> None:
        self._fd = fd
        self._path = path
        self._digest = digest
        self._size = size
        self._check = check
        self._lock = threading.Lock()
        # The offset of the mark; None as long as the file has no mark.
        self._mark_at: int | None = None
        self._verifier = Verifier(digest, size, subject="", check=check)
        os.ftruncate(fd, trusted_bytes(fd, size))
        while chunk := os.pread(fd, CHUNK_BYTES, self.offset):
            self._verifier.update(chunk)

    @property
    def offset(self) -> int:
        """How many bytes are written in order and hashed; the offset of the next one."""
        return self._verifier.seen_bytes

    def restart(self) -> None:
        """Discard all bytes."""
        os.ftruncate(self._fd, 0)
        self._mark_at = None
        self._verifier = Verifier(self._digest, self._size, subject="", check=self._check)

    def write(self, chunk: Chunk) -> None:
        """Write the next bytes.

        Raises:
            SizeMismatchError: the blob has more bytes than declared.
            OSError: they could not be written; the error names the file.
        """
        begin = self.offset
        self._verifier.update(chunk)
        self._write_at(chunk, begin)
        self._write_mark()

    def place(self, chunk: Chunk, offset: int) -> None:
        """Write bytes to their place ahead of their turn.

        Raises:
            OSError: they could not be written.
            ValueError: the size of the blob is not known.
        """
        if self._size is None:
            raise ValueError("place: expected a blob of known size")
        with self._lock:
            if self._mark_at is None:
                # The mark must be written before any thread leaves a gap.
                self._write_at(_MARK.pack(_MAGIC, self.offset), self._size)
                self._mark_at = self._size
        self._write_at(chunk, offset)

    def take(self, count: int) -> None:
        """Hash the next ``count`` bytes, which `place` wrote earlier."""
        for chunk in read_back(self._fd, self.offset, count, self._path):
            self._verifier.update(chunk)
        self._write_mark()

    def verify(self) -> None:
        """Return if the file is exactly the blob and passes the check; the mark is removed.

        Raises:
            DigestMismatchError, SizeMismatchError: it is not.
            what the check raises.
        """
        self._verifier.verify()
        if self._mark_at is not None:
            os.ftruncate(self._fd, self._mark_at)
            self._mark_at = None

    def _write_mark(self) -> None:
        """Update the mark, if the file has one."""
        if self._mark_at is not None:
            self._write_at(_MARK.pack(_MAGIC, self.offset), self._mark_at)

    def _write_at(self, chunk: Chunk, offset: int) -> None:
        try:
            write_at(self._fd, chunk, offset)
        except OSError as error:
            error.filename = self._path
            raise


def trusted_bytes(fd: int, size: int | None) -> int:
    """Return how many bytes at the beginning of a partial file are without gaps, by its length or mark."""
    length = os.fstat(fd).st_size
    if size is None or length <= size:
        return length
    mark = os.pread(fd, _MARK.size, size)
    if length != size + _MARK.size or len(mark) != _MARK.size:
        return 0
    magic, offset = _MARK.unpack(mark)
    return int(offset) if magic == _MAGIC and offset <= size else 0


def read_back(fd: int, offset: int, count: int, path: str) -> Iterator[bytes]:
    """Yield ``count`` bytes that were just written to a file.

    Raises:
        OSError: another process has truncated it meanwhile.
    """
    end = offset + count
    while offset < end:
        chunk = os.pread(fd, min(end - offset, _READ_BACK_BYTES), offset)
        if not chunk:
            raise OSError(errno.EIO, "another process has truncated the file", path)
        yield chunk
        offset += len(chunk)


def write_at(fd: int, chunk: Chunk, offset: int) -> None:
    """Write all of ``chunk`` at ``offset``."""
    view = memoryview(chunk)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def blob_name(digest: Digest) -> str:
    """Return the name of a blob in a layout or a cache; image-layout.md, "Blobs"."""
    return f"{BLOBS_DIRECTORY}/{digest.algorithm}/{digest.encoded}"


def partial_blob_name(digest: Digest) -> str:
    """Return the name of a blob while it is being written."""
    return f"{PARTIAL_DIRECTORY}/{digest.algorithm}-{digest.encoded}"


def name_blob(directory: LayoutDirectory, file: str, digest: Digest) -> None:
    """Give a file, which was verified and synced, the name of a blob."""
    name = blob_name(digest)
    algorithm = os.path.dirname(name)
    if not directory.has(algorithm):
        directory.make_directory(algorithm)
        directory.sync(os.path.dirname(algorithm))
    directory.rename(file, name)
    directory.sync(algorithm)


class BlobPlaces(Protocol):
    """The methods of `ImageLayout` that a `LayoutBlobWriter` uses."""

    @property
    def directory(self) -> LayoutDirectory: ...
    def has_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> bool: ...
    def size_of_valid_blob(
        self, digest: Digest, size: int | None = None, check: BlobCheck | None = None
    ) -> int | None: ...
    def keep(self, digest: Digest, fd: int) -> None: ...


class LayoutBlobWriter:
    """Writes one blob of a layout to a partial file, and renames it at the end; a context manager.

    Attributes:
        is_complete: whether the layout already has the whole blob, since another process wrote it meanwhile.
    """

    def __init__(self, layout: BlobPlaces, digest: Digest, size: int | None, check: BlobCheck | None = None) -> None:
        self._layout = layout
        self._digest = digest
        self._size = size
        self._check = check
        self._directory = layout.directory
        self._name = partial_blob_name(digest)
        self.is_complete = False

    def __enter__(self) -> Self:
        self._fd = self._directory.open_locked(self._name, is_written=True)
        try:
            self.is_complete = self._is_stored()
            # The bytes that an earlier try left are hashed, since the length of a file proves nothing.
            path = self._directory.path_of(self._name)
            self._file = PartialFile(self._fd, path, self._digest, self._size, self._check)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def _is_stored(self) -> bool:
        if self._size is None:
            return self._layout.size_of_valid_blob(self._digest, None, self._check) is not None
        return self._layout.has_blob(Descriptor("", self._digest, self._size), self._check)

    @property
    def offset(self) -> int:
        """How many bytes of the blob are written in order, those of an earlier try included."""
        return self._file.offset

    def restart(self) -> None:
        """Discard all bytes."""
        self._file.restart()

    def write(self, chunk: Chunk, /) -> None:
        """Write the next bytes.

        Raises:
            SizeMismatchError: the blob has more bytes than its descriptor declares.
        """
        self._file.write(chunk)

    def place(self, chunk: Chunk, offset: int, /) -> None:
        """Write bytes ahead of their turn; see `PlacingWriter`."""
        self._file.place(chunk, offset)

    def take(self, count: int, /) -> None:
        """Hash the next bytes, which `place` wrote earlier; see `PlacingWriter`."""
        self._file.take(count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.is_complete:
                self._directory.remove(self._name)
            elif error is None:
                self._finish()
            elif isinstance(error, InvalidImageError) or not self.offset:
                self._directory.remove(self._name)
        finally:
            os.close(self._fd)

    def _finish(self) -> None:
        try:
            self._file.verify()
        except InvalidImageError:
            self._directory.remove(self._name)
            raise
        os.fsync(self._fd)
        name_blob(self._directory, self._name, self._digest)
        self._layout.keep(self._digest, self._fd)
