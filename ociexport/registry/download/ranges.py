"""Large blobs over several connections at once, if one is slow.

Some networks and registries limit the rate of each connection. A blob of a gigabyte then takes minutes while most of
the bandwidth is unused. A large blob is first requested whole, and its rate is measured regularly. If the rate is too
low, several threads fetch the rest in parts ahead of the reader, each over its own connection. The first connection is
kept until the first part has arrived. A rate that is low because the processors are busy is no reason: more threads
would only compete with each other and with the server, if that is on this machine.

If anything fails (the server refuses parts or the number of connections, or the disk is full), the reader continues
over one connection from its current position. `parts.py` has the threads.
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
from ociexport.registry.download.stream import BlobStream, RemoteBlob
from ociexport.system.threads import processor_wait_seconds

# A single connection is fast enough if the rest will take less than this.
_WORTHWHILE_SECONDS = 1.0
# It is also fast enough at this rate, which most networks do not reach: the processor is then the limit, and several
# threads would only compete for it.
_FAST_BYTES_PER_SECOND = 100_000_000
# A thread that has waited for a processor for this share of the time was slow because of that. On a busy machine a
# connection limited to 20 MB/s had shares up to 0.2, and one that was not limited mostly 0.4 to 0.9.
_BUSY_SHARE = 0.3
# If only few spare connections are free, more are requested after each has brought this much.
_WAITING_BYTES = 16 * 1024 * 1024
# The first bytes may be in the kernel's buffers already, and then seem faster than they were. The next span to measure
# is this many times as long, too long for the buffers.
_GROWTH = 8
# Networks change: the rate of even a fast connection is measured again after this much.
_MAX_UNSEEN_BYTES = 256 * 1024 * 1024
# If no part has arrived by then, the parts are abandoned and the kept connection continues.
_FIRST_PART_SECONDS = 5.0

_Taken = TypeVar("_Taken")


class LargeBlobStream:
    """A blob that is read over one connection, and over several as soon as these are faster."""

    def __init__(self, blob: RemoteBlob, offset: int) -> None:
        self._blob = blob
        self._begin_span(offset)
        # The position at which the rate since `_begin` is computed next.
        self._look_at = offset + PART_BYTES
        self._writer: PlacingWriter | None = None
        # The single connection, until the first of the parts that replace it has arrived.
        self._kept: BlobStream | None = None
        self._stream: BlobStream | StreamedParts | PlacedParts = self._open_rest(offset)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, ``b""`` at the end; raises as `BlobStream.read`."""

        def read_some(stream: BlobStream | StreamedParts | PlacedParts) -> bytes:
            if isinstance(stream, PlacedParts):
                raise TypeError("read: expected a stream without write_to, got one that write_to has begun")
            return self._receive(stream, size)

        while True:
            chunk = self._take(read_some)
            if chunk or size == 0 or self._is_over():
                return chunk

    def write_to(self, writer: PlacingWriter) -> Iterator[int]:
        """Write the rest of the blob; see `PlacingStream`."""
        self._writer = writer

        def write_some(stream: BlobStream | StreamedParts | PlacedParts) -> int:
            if isinstance(stream, PlacedParts):
                return stream.take()
            chunk = self._receive(stream, WRITTEN_AT_ONCE_BYTES)
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
        """Return what ``take`` takes from the current stream; afterwards another stream may be the current one."""
        while True:
            try:
                taken = take(self._stream)
            except PartsFailedError:
                self._give_up_parts()
                continue
            if self._kept is not None:
                self._kept.close()
                self._kept = None
            self._look()
            return taken

    def _is_over(self) -> bool:
        """Return True if the current stream, which has ended, was the last; otherwise open the next one."""
        position = self._stream.position
        if self._stream.end == self._blob.size:
            return True
        self._stream.close()
        self._begin_span(position)
        self._stream = self._open_parts(position) or self._open_rest(position)
        return False

    def close(self) -> None:
        """Close all connections."""
        self._stream.close()
        if self._kept is not None:
            self._kept.close()

    def _receive(self, stream: BlobStream | StreamedParts, size: int) -> bytes:
        """Return up to ``size`` bytes, none of those after the next measurement of the rate."""
        left = self._look_at - stream.position
        if isinstance(stream, BlobStream) and left > 0:
            size = min(size, left)
        started = time.monotonic()
        chunk = stream.read(size)
        # What the reader does between two reads may be slow: a disk, a check. Meanwhile the kernel receives more.
        self._receiving_seconds += time.monotonic() - started
        return chunk

    def _look(self) -> None:
        """Switch to several connections if the single one was slow and the rest is large enough."""
        stream = self._stream
        if not isinstance(stream, BlobStream) or stream.position < self._look_at or stream.refuses_parts:
            return
        position = stream.position
        length, missing = position - self._begin, self._blob.size - position
        rate = length / max(self._receiving_seconds, 1e-6)
        busy_share = (processor_wait_seconds() - self._waited_before) / (time.monotonic() - self._begun_at)
        self._begin_span(position)
        if rate > _FAST_BYTES_PER_SECOND or missing / rate < _WORTHWHILE_SECONDS or missing < 2 * PART_BYTES:
            self._look_at = position + min(length * _GROWTH, _MAX_UNSEEN_BYTES)
            return
        if busy_share > _BUSY_SHARE:
            self._look_at = position + _WAITING_BYTES
            return
        # The patience is limited: a server that sends one body at a time would first wait for the end of this one.
        parts = self._open_parts(position, patience_seconds=_FIRST_PART_SECONDS)
        if parts is not None:
            self._kept, self._stream = stream, parts

    def _begin_span(self, position: int) -> None:
        """Measure the rate from here on."""
        self._begin, self._receiving_seconds = position, 0.0
        self._begun_at, self._waited_before = time.monotonic(), processor_wait_seconds()

    def _open_parts(
        self, position: int, *, patience_seconds: float | None = None
    ) -> StreamedParts | PlacedParts | None:
        """Return a stream over several connections; None if too few are free or there is no room for a ring."""
        self._look_at = position + _WAITING_BYTES
        spare = self._blob.transport.spare_connections
        wanted = self._blob.transport.options.connections_per_blob
        threads = spare.take(wanted)
        if threads < 2:
            spare.give_back(threads)
            return None
        end = self._blob.size if threads == wanted else min(position + threads * _WAITING_BYTES, self._blob.size)
        if self._writer is not None:
            return PlacedParts(
                self._blob, position, end=end, threads=threads, keeper=self._writer, patience_seconds=patience_seconds
            )
        try:
            ring = Ring(position, threads)
        except OSError:
            # No room now, and probably none later.
            spare.give_back(threads)
            self._look_at = self._blob.size
            return None
        return StreamedParts(
            self._blob, position, end=end, threads=threads, keeper=ring, patience_seconds=patience_seconds
        )

    def _give_up_parts(self) -> None:
        """Continue over one connection, the kept one or a new one, and don't try parts again."""
        position = self._stream.position
        self._stream.close()
        self._stream, self._kept = self._kept or self._open_rest(position), None
        self._look_at = self._blob.size

    def _open_rest(self, position: int) -> BlobStream:
        return BlobStream(self._blob, position)
