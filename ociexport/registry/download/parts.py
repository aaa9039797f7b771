"""The rest of a blob in parts, which several threads fetch ahead of the reader, each over a connection of its own.

What they bring is written where it belongs in the file that the blob is to be, if it is to be one, and hashed there in
order. For who takes it as a stream it waits in a ring of slots in a temporary file without a name, which costs no
memory and is gone with the process.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Generic, Protocol, TypeVar

from ociexport.errors import OciexportError
from ociexport.images.destination import PlacingWriter
from ociexport.registry.download.stream import BlobStream, OpenFrom
from ociexport.registry.http.transport import Transport
from ociexport.system.temporary_files import open_temporary_file

# One part: at 20 MB/s a fifth of a second, so that the time until it begins weighs little.
PART_BYTES = 4 * 1024 * 1024
WRITTEN_AT_ONCE_BYTES = 1024 * 1024
_SLOTS_PER_THREAD = 2
_COPIED_AT_ONCE_BYTES = 256 * 1024
# Each of the threads has its own arena of memory, in which larger pieces leave larger holes.
_RECEIVED_AT_ONCE_BYTES = 64 * 1024


class PartsFailedError(OciexportError):
    """The bytes at a position can't be had in parts; never leaves `ranges.py`."""


class Ring:
    """Keeps what arrives ahead of the reader in a temporary file; what is read makes room for what comes later.

    Args:
        start: where in the blob the first part begins.
        threads: that fill it.

    Raises:
        OSError: no temporary file can be made.
    """

    def __init__(self, start: int, threads: int) -> None:
        self._start = start
        self._size = threads * _SLOTS_PER_THREAD * PART_BYTES
        self._file = open_temporary_file()  # closed by its owner

    def place(self, chunk: bytes, offset: int) -> None:
        """Keep bytes that lie within one part."""
        os.pwrite(self._file.fileno(), chunk, self._place_of(offset))

    def read(self, count: int, offset: int) -> bytes:
        """Return bytes of one part."""
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
        end: of the last part.
        threads: how many; their connections were taken from the transport, and go back as each ends.
        keeper: takes what they bring, and where in the blob it belongs.
        patience_seconds: how long the first bytes may take, where there is another way to them; None for as long as
            it takes.
    """

    def __init__(
        self,
        open_from: OpenFrom,
        size: int,
        offset: int,
        transport: Transport,
        subject: str,
        *,
        end: int,
        threads: int,
        keeper: _KeeperT,
        patience_seconds: float | None = None,
    ) -> None:
        self._open_from = open_from
        self._size = size
        self._start = offset
        self.end = end
        self._transport = transport
        self._subject = subject
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
            thread = threading.Thread(target=self._work, name=f"{subject}, connection {number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the process, or its user, may have no more
                transport.spare_connections.give_back(threads - number)
                if number == 0:
                    self._failed.update(self._parts)
                break

    @property
    def position(self) -> int:
        """Of the next byte, from the beginning of the blob."""
        return self._position

    def close(self) -> None:
        """Have the threads end, each when its next bytes arrive; when this returns, none of them writes any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            while self._writing:
                self._changed.wait()

    def _wait(self, max_bytes: int) -> int:
        """Return how many bytes have arrived at the position, once there are any; 0 at the end."""
        if self._position >= self.end:
            return 0
        part, begin = divmod(self._position - self._start, PART_BYTES)
        with self._changed:
            while self._arrived.get(part, 0) <= begin:
                if part in self._failed or self._is_closed:
                    raise PartsFailedError("a part could not be had")
                if not self._changed.wait(self._seconds_left()):
                    raise PartsFailedError("the first part did not come")
            return min(self._arrived[part] - begin, max_bytes)

    def _seconds_left(self) -> float | None:
        """Return how long the bytes at the position may still take; None for no limit."""
        if self._first_until is None or self._position > self._start:
            return None
        return max(0.0, self._first_until - time.monotonic())

    def _advance(self, count: int) -> None:
        with self._changed:
            # When it comes to the next part, the slot of this one is free for a thread that waits.
            self._position += count
            self._changed.notify_all()

    # In the threads

    def _work(self) -> None:
        try:
            while (part := self._take_part()) is not None:
                try:
                    self._fetch(part)
                except Exception:
                    # The reader finds out what is wrong, when it comes there, over a connection of its own. Whatever
                    # it is: of a part that nobody brings and nobody gives up the reader would wait for ever.
                    self._fail(part)
                    return
        finally:
            self._transport.spare_connections.give_back(1)

    def _take_part(self) -> int | None:
        """Return the next part once there is a slot for it; None when there is nothing left to do."""
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
        stream = BlobStream(self._open_from, self._size, begin, self._transport, self._subject, end=end, is_strict=True)
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
        """Whether the reader still wants anything; if so, `close` waits for the end of the writing.

        After that the place may be somebody else's: of another file, or of bytes that came over another connection.
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
            # Nobody takes the parts after it any more.
            self._failed.update(range(self._next_part, len(self._parts)))
            self._changed.notify_all()


class PlacedParts(_ParallelParts[PlacingWriter]):
    """Parts that the threads write where they belong."""

    def take(self) -> int:
        """Have the writer take what has arrived; returns how much that was, 0 at the end.

        Raises:
            PartsFailedError: the bytes at the position can't be had so.
        """
        count = self._wait(WRITTEN_AT_ONCE_BYTES)
        self._keeper.take(count)
        self._advance(count)
        return count


class StreamedParts(_ParallelParts[Ring]):
    """Parts that wait in a ring for who reads them as a stream."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes of what has arrived; ``b""`` at the end.

        Raises:
            PartsFailedError: the bytes at the position can't be had so.
        """
        count = self._wait(_COPIED_AT_ONCE_BYTES)
        chunk = self._keeper.read(min(count, size) if size >= 0 else count, self._position)
        self._advance(len(chunk))
        return chunk

    def close(self) -> None:
        """Have the threads end, and let go of the ring."""
        super().close()
        self._keeper.close()
