"""Large blobs over several connections at once, where one is slow.

Some networks and registries limit each connection, so that a blob of a gigabyte takes minutes while the line is idle. A
large blob is asked for whole, and it is looked now and then how fast it comes. Where that is too slow, several threads
fetch the rest in parts ahead of the reader, each over a connection of its own; the first connection is kept until they
have shown that they can.

Whatever goes wrong there (a server that refuses parts, or so many connections, or a full disk) sends the reader back to
one connection, from the byte that it has come to. `parts.py` has the threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ociexport.images.destination import PlacingWriter
from ociexport.registry.download.parts import (
    PART_BYTES,
    WRITTEN_AT_ONCE_BYTES,
    PartsFailedError,
    PlacedParts,
    Ring,
    StreamedParts,
)
from ociexport.registry.download.stream import BlobStream, OpenFrom
from ociexport.registry.http.transport import Transport
from ociexport.spec.digest import ByteStream

# A smaller blob is through before several connections are made.
_MIN_BYTES = 16 * 1024 * 1024
# A single connection that leaves so little to wait for is fast enough.
_WORTHWHILE_SECONDS = 1.0
# So is one that brings more than most lines can: what is limited then is no connection, but a processor, and several
# threads would only take it from each other.
_FAST_BYTES_PER_SECOND = 100_000_000
# Where there are few connections to spare, it is looked again after so much over each.
_WAITING_BYTES = 16 * 1024 * 1024
# The beginning may lie in the kernel's buffers already, and seem faster than it was; what is looked at next is too long
# for that.
_GROWTH = 8
# Networks change: even a fast connection is looked at again after so much.
_MAX_UNSEEN_BYTES = 256 * 1024 * 1024
# After that the parts that are to take the place of a connection are given up.
_FIRST_PART_SECONDS = 5.0

_Taken = TypeVar("_Taken")


def open_blob_stream(open_from: OpenFrom, size: int, offset: int, transport: Transport, subject: str) -> ByteStream:
    """Return the bytes of a blob from ``offset`` on, over as many connections as it takes; see `BlobStream`."""
    if size - offset < _MIN_BYTES or transport.options.connections_per_blob <= 1:
        return BlobStream(open_from, size, offset, transport, subject)
    return _LargeBlobStream(open_from, size, offset, transport, subject)


class _LargeBlobStream:
    """A blob that is read over one connection, and over several as soon as that pays."""

    def __init__(self, open_from: OpenFrom, size: int, offset: int, transport: Transport, subject: str) -> None:
        self._open_from = open_from
        self._size = size
        self._transport = transport
        self._subject = subject
        self._seconds = 0.0
        self._begin = offset
        # Where it is looked how fast the one connection has been since the beginning.
        self._look_at = offset + PART_BYTES
        self._writer: PlacingWriter | None = None
        # The one connection, until the parts that are to take its place have shown that they can be had.
        self._kept: BlobStream | None = None
        self._stream: BlobStream | StreamedParts | PlacedParts = self._open_rest(offset)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end; raises as `BlobStream.read`."""

        def read_some(stream: BlobStream | StreamedParts | PlacedParts) -> bytes:
            if isinstance(stream, PlacedParts):
                raise TypeError("read: expected a stream that nobody writes to a file, got one that write_to has begun")
            return stream.read(self._up_to_the_look(stream, size))

        while True:
            chunk = self._take(read_some)
            if chunk or size == 0 or self._is_over():
                return chunk

    def write_to(self, writer: PlacingWriter) -> Iterator[int]:
        """Write all that is left; see `PlacingStream`."""
        self._writer = writer

        def write_some(stream: BlobStream | StreamedParts | PlacedParts) -> int:
            if isinstance(stream, PlacedParts):
                return stream.take()
            chunk = stream.read(self._up_to_the_look(stream, WRITTEN_AT_ONCE_BYTES))
            if chunk:
                writer.write(chunk)
            return len(chunk)

        while True:
            count = self._take(write_some)
            if count:
                yield count
            elif self._is_over():
                return

    def _take(self, take: Callable[[BlobStream | StreamedParts | PlacedParts], _Taken]) -> _Taken:
        """Return what ``take`` gets out of the stream, which may be another afterwards."""
        while True:
            started = time.monotonic()
            try:
                taken = take(self._stream)
            except PartsFailedError:
                self._give_up_parts()
                continue
            self._seconds += time.monotonic() - started
            if self._kept is not None:
                self._kept.close()
                self._kept = None
            self._look()
            return taken

    def _is_over(self) -> bool:
        """Whether the stream, which has no more, was the last; else the next takes its place."""
        position = self._stream.position
        if self._stream.end == self._size:
            return True
        self._stream.close()
        self._begin, self._seconds = position, 0.0
        self._stream = self._open_parts(position) or self._open_rest(position)
        return False

    def close(self) -> None:
        """Close all connections."""
        self._stream.close()
        if self._kept is not None:
            self._kept.close()

    def _up_to_the_look(self, stream: BlobStream | StreamedParts, size: int) -> int:
        """Return how much of ``size`` is to be read before it is looked how fast that came."""
        left = self._look_at - stream.position
        return min(size, left) if isinstance(stream, BlobStream) and left > 0 else size

    def _look(self) -> None:
        """Go over to several connections, if the one was slow and they pay."""
        stream = self._stream
        if not isinstance(stream, BlobStream) or stream.position < self._look_at or stream.refuses_parts:
            return
        position = stream.position
        length, missing = position - self._begin, self._size - position
        rate = length / max(self._seconds, 1e-6)
        self._begin, self._seconds = position, 0.0
        if rate > _FAST_BYTES_PER_SECOND or missing / rate < _WORTHWHILE_SECONDS or missing < 2 * PART_BYTES:
            self._look_at = position + min(length * _GROWTH, _MAX_UNSEEN_BYTES)
            return
        # A server that gives one body at a time would wait for the end of this one first.
        parts = self._open_parts(position, patience_seconds=_FIRST_PART_SECONDS)
        if parts is not None:
            self._kept, self._stream = stream, parts

    def _open_parts(
        self, position: int, *, patience_seconds: float | None = None
    ) -> StreamedParts | PlacedParts | None:
        """Return what comes over several connections; None where they can't be had now."""
        self._look_at = position + _WAITING_BYTES
        spare = self._transport.spare_connections
        wanted = self._transport.options.connections_per_blob
        threads = spare.take(wanted)
        if threads < 2:
            spare.give_back(threads)
            return None
        end = self._size if threads == wanted else min(position + threads * _WAITING_BYTES, self._size)
        what = self._open_from, self._size, position, self._transport, self._subject
        if self._writer is not None:
            return PlacedParts(*what, end=end, threads=threads, keeper=self._writer, patience_seconds=patience_seconds)
        try:
            ring = Ring(position, threads)
        except OSError:
            # No room for it, now or later.
            spare.give_back(threads)
            self._look_at = self._size
            return None
        return StreamedParts(*what, end=end, threads=threads, keeper=ring, patience_seconds=patience_seconds)

    def _give_up_parts(self) -> None:
        """Go on over one connection, the one that there was or a new one, and stay with it."""
        position = self._stream.position
        self._stream.close()
        self._stream, self._kept = self._kept or self._open_rest(position), None
        self._look_at = self._size

    def _open_rest(self, position: int) -> BlobStream:
        return BlobStream(self._open_from, self._size, position, self._transport, self._subject)
