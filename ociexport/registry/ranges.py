"""Large blobs over several connections at once, where one is slow.

Some networks and registries limit each connection, so that a blob of a gigabyte takes minutes while the line is idle. A
large blob is therefore read in parts, each of which shows how fast one connection is. While that is fast enough the
parts grow; where it is not, several threads fetch the next ones ahead of the reader, each over a connection of its own.

What they bring is kept in a ring of slots in a temporary file without a name, which costs no memory and is gone with
the process, and is given to the reader in order. Whatever goes wrong there (a server that refuses parts, or so many
connections, or a full disk) sends the reader back to one connection, from the byte that it has come to.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time

from ociexport.digest import ByteStream
from ociexport.errors import OciexportError
from ociexport.registry.blobs import BlobStream, OpenFrom
from ociexport.registry.transport import Transport

# A smaller blob is through before several connections are made.
_MIN_BYTES = 16 * 1024 * 1024
# One part: at 20 MB/s a fifth of a second, so that the time until it begins weighs little.
_PART_BYTES = 4 * 1024 * 1024
# A single connection that leaves so little to wait for is fast enough.
_WORTHWHILE_SECONDS = 1.0
# Where there are few connections to spare, it is looked again after so much over each.
_WAITING_BYTES = 16 * 1024 * 1024
# The first part may lie in the kernel's buffers already, and seem faster than it was; the next is too long for that.
_GROWTH = 8
# Networks change: even a fast connection is looked at again after so much.
_MAX_PART_BYTES = 256 * 1024 * 1024
_SLOTS_PER_THREAD = 2
_COPIED_AT_ONCE_BYTES = 256 * 1024
# Each of the threads has its own arena of memory, in which larger pieces leave larger holes.
_RECEIVED_AT_ONCE_BYTES = 64 * 1024


def open_blob_stream(open_from: OpenFrom, size: int, offset: int, transport: Transport, subject: str) -> ByteStream:
    """Return the bytes of a blob from ``offset`` on, over as many connections as it takes; see `BlobStream`."""
    if size - offset < _MIN_BYTES or transport.options.connections_per_blob <= 1:
        return BlobStream(open_from, size, offset, transport, subject)
    return _LargeBlobStream(open_from, size, offset, transport, subject)


class _LargeBlobStream:
    """A blob that is read in parts: over one connection, and over several as soon as that pays."""

    def __init__(self, open_from: OpenFrom, size: int, offset: int, transport: Transport, subject: str) -> None:
        self._open_from = open_from
        self._size = size
        self._transport = transport
        self._subject = subject
        self._seconds = 0.0
        self._begin = offset
        self._stream: BlobStream | _ParallelParts = self._open_part(offset, _PART_BYTES)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end; raises as `BlobStream.read`."""
        while True:
            started = time.monotonic()
            try:
                chunk = self._stream.read(size)
            except _PartsFailedError:
                self._stream.close()
                self._stream = self._open_rest(self._stream.position)
                continue
            self._seconds += time.monotonic() - started
            if chunk or size == 0 or self._stream.end == self._size:
                return chunk
            self._stream = self._open_next(self._stream.position)

    def close(self) -> None:
        """Close all connections."""
        self._stream.close()

    def _open_next(self, position: int) -> BlobStream | _ParallelParts:
        """Return what the next part, or several, or all that is left, is read from."""
        self._stream.close()
        was_single = isinstance(self._stream, BlobStream)
        length = position - self._begin
        rate = length / max(self._seconds, 1e-6)
        self._begin, self._seconds = position, 0.0
        if was_single and (self._size - position) / rate < _WORTHWHILE_SECONDS:
            return self._open_part(position, min(length * _GROWTH, _MAX_PART_BYTES))
        spare = self._transport.spare_connections
        wanted = self._transport.options.connections_per_blob
        threads = spare.take(wanted)
        if threads < 2:
            spare.give_back(threads)
            return self._open_part(position, _WAITING_BYTES)
        end = self._size if threads == wanted else min(position + threads * _WAITING_BYTES, self._size)
        try:
            return _ParallelParts(
                self._open_from, self._size, position, self._transport, self._subject, end=end, threads=threads
            )
        except OSError:
            # No room for the ring.
            spare.give_back(threads)
            return self._open_rest(position)

    def _open_rest(self, position: int) -> BlobStream:
        return BlobStream(self._open_from, self._size, position, self._transport, self._subject)

    def _open_part(self, position: int, length: int) -> BlobStream:
        end = position + length
        if self._size - end < _PART_BYTES:
            return self._open_rest(position)
        return BlobStream(self._open_from, self._size, position, self._transport, self._subject, end=end)


class _PartsFailedError(OciexportError):
    """The bytes at a position can't be had in parts; never leaves this module."""


class _ParallelParts:
    """The rest of a blob in parts that several threads fetch ahead of the reader.

    Args:
        end: of the last part.
        threads: how many; their connections were taken from the transport, and go back as each ends.

    Raises:
        OSError: no temporary file can be made.
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
    ) -> None:
        self._open_from = open_from
        self._size = size
        self._start = offset
        self.end = end
        self._transport = transport
        self._subject = subject
        self._position = offset
        self._slots = threads * _SLOTS_PER_THREAD
        self._ring = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by the last thread that uses it
        self._changed = threading.Condition()
        self._parts = range(-(-(end - offset) // _PART_BYTES))
        self._next_part = 0
        self._arrived: dict[int, int] = {}
        self._failed: set[int] = set()
        self._is_closed = False
        self._running = threads
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{subject}, connection {number}", daemon=True).start()

    @property
    def position(self) -> int:
        """Of the next byte, from the beginning of the blob."""
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes of what has arrived; ``b""`` at the end.

        Raises:
            _PartsFailedError: the bytes at the position can't be had so.
        """
        if self._position >= self.end or size == 0:
            return b""
        part, begin = divmod(self._position - self._start, _PART_BYTES)
        with self._changed:
            while self._arrived.get(part, 0) <= begin:
                if part in self._failed or self._is_closed:
                    raise _PartsFailedError("a part could not be had")
                self._changed.wait()
            count = self._arrived[part] - begin
        count = min(count, size if size > 0 else count, _COPIED_AT_ONCE_BYTES)
        chunk = os.pread(self._ring.fileno(), count, self._place_of(part) + begin)
        with self._changed:
            # When it comes to the next part, the slot of this one is free for a thread that waits.
            self._position += len(chunk)
            self._changed.notify_all()
        return chunk

    def close(self) -> None:
        """Have the threads end, each when its next bytes arrive."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._close_ring_if_unused()

    def _close_ring_if_unused(self) -> None:
        if self._is_closed and not self._running:
            self._ring.close()

    # In the threads

    def _work(self) -> None:
        try:
            while (part := self._take_part()) is not None:
                try:
                    self._fetch(part)
                except (OciexportError, OSError):
                    # The reader finds out what is wrong, when it comes there, over a connection of its own.
                    self._fail(part)
                    return
        finally:
            self._transport.spare_connections.give_back(1)
            with self._changed:
                self._running -= 1
                self._close_ring_if_unused()

    def _take_part(self) -> int | None:
        """Return the next part once there is a slot for it; None when there is nothing left to do."""
        with self._changed:
            while not self._is_closed and not self._failed and self._next_part in self._parts:
                reading = (self._position - self._start) // _PART_BYTES
                if self._next_part < reading + self._slots:
                    self._next_part += 1
                    return self._next_part - 1
                self._changed.wait()
        return None

    def _fetch(self, part: int) -> None:
        begin = self._start + part * _PART_BYTES
        end = min(begin + _PART_BYTES, self.end)
        stream = BlobStream(self._open_from, self._size, begin, self._transport, self._subject, end=end, is_strict=True)
        try:
            place = self._place_of(part)
            while chunk := stream.read(_RECEIVED_AT_ONCE_BYTES):
                if self._is_closed:
                    return
                os.pwrite(self._ring.fileno(), chunk, place + stream.position - len(chunk) - begin)
                with self._changed:
                    self._arrived[part] = stream.position - begin
                    self._changed.notify_all()
        finally:
            stream.close()

    def _fail(self, part: int) -> None:
        with self._changed:
            self._failed.add(part)
            # Nobody takes the parts after it any more.
            self._failed.update(range(self._next_part, len(self._parts)))
            self._changed.notify_all()

    def _place_of(self, part: int) -> int:
        return part % self._slots * _PART_BYTES
