"""The rest of a blob in parts: several threads fetch them ahead of the reader, each over its own connection.

If the blob is written to a file, each thread writes its bytes at their final place, and the file is hashed in order. If
the blob is read as a stream, its bytes wait in a ring of slots in a temporary file without a name. The file costs no
memory and disappears with the process.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Generic, Protocol, TypeVar

from ociexport.errors import OciexportError
from ociexport.images.destination import PlacingWriter
from ociexport.registry.download.stream import BlobStream, RemoteBlob
from ociexport.system.temporary_files import open_temporary_file

# One part takes a fifth of a second at 20 MB/s, which is long in comparison with the delay of one request.
PART_BYTES = 4 * 1024 * 1024
WRITTEN_AT_ONCE_BYTES = 1024 * 1024
_SLOTS_PER_THREAD = 2
_COPIED_AT_ONCE_BYTES = 256 * 1024
# Each thread has its own memory arena, in which larger pieces leave larger holes.
_RECEIVED_AT_ONCE_BYTES = 64 * 1024


class PartsFailedError(OciexportError):
    """The bytes at a position can't be fetched in parts; `ranges.py` always catches this error."""


class Ring:
    """Keeps bytes that arrive ahead of the reader in a temporary file; later bytes overwrite those already read.

    Args:
        start: offset of the first part in the blob.
        threads: how many threads fill the ring.

    Raises:
        OSError: no temporary file can be made.
    """

    def __init__(self, start: int, threads: int) -> None:
        self._start = start
        self._size = threads * _SLOTS_PER_THREAD * PART_BYTES
        self._file = open_temporary_file()  # closed by its owner

    def place(self, chunk: bytes, offset: int) -> None:
        """Store ``chunk``, which lies within one part."""
        os.pwrite(self._file.fileno(), chunk, self._place_of(offset))

    def read(self, count: int, offset: int) -> bytes:
        """Return stored bytes; the caller asks for bytes of one part."""
        return os.pread(self._file.fileno(), count, self._place_of(offset))

    def close(self) -> None:
        self._file.close()

    def _place_of(self, offset: int) -> int:
        return (offset - self._start) % self._size


class _Keeper(Protocol):
    def place(self, chunk: bytes, offset: int, /) -> None: ...


_KeeperT = TypeVar("_KeeperT", bound=_Keeper)


class _ParallelParts(Generic[_KeeperT]):
    """The rest of a blob in parts that several threads fetch ahead of the reader.

    Args:
        end: where the last part ends.
        threads: how many threads to start. The caller has taken one spare connection for each; each thread gives its
            connection back when it ends.
        keeper: stores the threads' bytes at their offset in the blob.
        patience_seconds: how long the first bytes may take; None for no limit, when there is no other connection.
    """

    def __init__(
        self,
        blob: RemoteBlob,
        offset: int,
        *,
        end: int,
        threads: int,
        keeper: _KeeperT,
        patience_seconds: float | None = None,
    ) -> None:
        self._blob = blob
        self._start = offset
        self.end = end
        self._keeper = keeper
        self._position = offset
        self._slots = threads * _SLOTS_PER_THREAD
        self._changed = threading.Condition()
        self._parts = range(-(-(end - offset) // PART_BYTES))
        self._next_part = 0
        self._arrived: dict[int, int] = {}
        self._failed: set[int] = set()
        self._is_closed = False
        self._writing = 0
        self._first_until = None if patience_seconds is None else time.monotonic() + patience_seconds
        for number in range(threads):
            thread = threading.Thread(target=self._work, name=f"{blob.subject}, connection {number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the process or its user has reached the limit of threads
                blob.transport.spare_connections.give_back(threads - number)
                if number == 0:
                    self._failed.update(self._parts)
                break

    @property
    def position(self) -> int:
        """Offset of the next byte in the blob."""
        return self._position

    def close(self) -> None:
        """Tell the threads to end, each when its next bytes arrive; none of them writes after this returns."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            while self._writing:
                self._changed.wait()

    def _wait(self, max_bytes: int) -> int:
        """Wait for bytes at the position, and return how many have arrived; 0 at the end."""
        if self._position >= self.end:
            return 0
        part, begin = divmod(self._position - self._start, PART_BYTES)
        with self._changed:
            while self._arrived.get(part, 0) <= begin:
                if part in self._failed or self._is_closed:
                    raise PartsFailedError("a part could not be fetched")
                if not self._changed.wait(self._seconds_left()):
                    raise PartsFailedError("the first part did not arrive in time")
            return min(self._arrived[part] - begin, max_bytes)

    def _seconds_left(self) -> float | None:
        """Return how long the bytes at the position may still take; None for no limit."""
        if self._first_until is None or self._position > self._start:
            return None
        return max(0.0, self._first_until - time.monotonic())

    def _advance(self, count: int) -> None:
        with self._changed:
            # When the position reaches the next part, a waiting thread may reuse the slot of this one.
            self._position += count
            self._changed.notify_all()

    # The methods from here on run in the threads.

    def _work(self) -> None:
        try:
            while (part := self._take_part()) is not None:
                try:
                    self._fetch(part)
                except Exception:
                    # Every exception must mark the part as failed: otherwise the reader would wait for it for ever.
                    # The reader fetches the same bytes over a new connection, and then reports what is wrong.
                    self._fail(part)
                    return
        finally:
            self._blob.transport.spare_connections.give_back(1)

    def _take_part(self) -> int | None:
        """Wait for a free slot, and return the next part; None if no part is left."""
        with self._changed:
            while not self._is_closed and not self._failed and self._next_part in self._parts:
                reading = (self._position - self._start) // PART_BYTES
                if self._next_part < reading + self._slots:
                    self._next_part += 1
                    return self._next_part - 1
                self._changed.wait()
        return None

    def _fetch(self, part: int) -> None:
        begin = self._start + part * PART_BYTES
        end = min(begin + PART_BYTES, self.end)
        stream = BlobStream(self._blob, begin, end=end, is_strict=True)
        try:
            while chunk := stream.read(_RECEIVED_AT_ONCE_BYTES):
                if not self._begin_writing():
                    return
                try:
                    self._keeper.place(chunk, stream.position - len(chunk))
                finally:
                    self._end_writing()
                with self._changed:
                    self._arrived[part] = stream.position - begin
                    self._changed.notify_all()
        finally:
            stream.close()

    def _begin_writing(self) -> bool:
        """Return False if `close` was called; otherwise `close` waits until `_end_writing`.

        After `close` the place may belong to another file, or to bytes that came over another connection.
        """
        with self._changed:
            self._writing += not self._is_closed
            return not self._is_closed

    def _end_writing(self) -> None:
        with self._changed:
            self._writing -= 1
            if self._is_closed:
                self._changed.notify_all()

    def _fail(self, part: int) -> None:
        with self._changed:
            self._failed.add(part)
            # No thread takes the later parts any more.
            self._failed.update(range(self._next_part, len(self._parts)))
            self._changed.notify_all()


class PlacedParts(_ParallelParts[PlacingWriter]):
    """Parts that the threads write to their final place in a file."""

    def take(self) -> int:
        """Pass the bytes that have arrived to the writer, and return how many; 0 at the end.

        Raises:
            PartsFailedError: the bytes at the position can't be fetched in parts.
        """
        count = self._wait(WRITTEN_AT_ONCE_BYTES)
        self._keeper.take(count)
        self._advance(count)
        return count


class StreamedParts(_ParallelParts[Ring]):
    """Parts that wait in a ring until they are read as a stream."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes that have arrived; ``b""`` at the end.

        Raises:
            PartsFailedError: the bytes at the position can't be fetched in parts.
        """
        count = self._wait(_COPIED_AT_ONCE_BYTES)
        chunk = self._keeper.read(min(count, size) if size >= 0 else count, self._position)
        self._advance(len(chunk))
        return chunk

    def close(self) -> None:
        """End the threads as `_ParallelParts.close` does, and close the ring."""
        super().close()
        self._keeper.close()
