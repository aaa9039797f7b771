"""Reads parts of a layer's tar, each from the nearest access point, instead of the layer up to the part.

Nothing is verified here: the caller compares what it gets with a digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

from ociexport.errors import InvalidImageError
from ociexport.images.source import BlobOpener
from ociexport.layers.limits import Limits
from ociexport.spec.config import Layer
from ociexport.spec.digest import ByteStream
from ociexport.system.access_points import AccessPoints
from ociexport.system.compression import MAGIC_BYTES, TAR_CHUNK_BYTES, compression_of, read_tar_chunks
from ociexport.system.memory import MEMORY_OPTION
from ociexport.system.progress.protocol import Progress

# Of a plain tar, the first chunk; of a compressed one, each chunk near an access point.
_FIRST_CHUNK_BYTES, _SMALL_CHUNK_BYTES = 32 * 1024, 128 * 1024


class PartReader:
    """Reads parts of one layer's tar.

    Args:
        source: opens the blob, from any offset.
        layer: the layer.
        points: its access points.
        limits: as for reading the layer.
        progress: is told of reading that takes long.
        makes_points: whether points are made and added where there are none for long, in twice the time.
    """

    def __init__(
        self,
        source: BlobOpener,
        layer: Layer,
        points: AccessPoints,
        limits: Limits,
        progress: Progress,
        *,
        makes_points: bool = True,
    ) -> None:
        self._makes_points = makes_points
        self._source = source
        self._layer = layer
        self._points = points
        self._limits = limits
        self._progress = progress
        self._stack = ExitStack()
        self._chunks: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")
        # The tar's offset of what is read next; None before anything was read, and after an error.
        self._position: int | None = None
        self._head = b""
        self._is_plain = False

    def close(self) -> None:
        """Close the blob."""
        self._stack.close()

    def read(self, offset: int, count: int) -> Iterator[memoryview]:
        """Yield ``count`` bytes of the tar from ``offset`` on.

        Raises:
            InvalidImageError: the tar ends before, or the compressed data is damaged.
        """
        begin = self._position
        if begin is None or not self._nearest(offset) <= begin <= offset:
            self._position = begin = self._begin(offset)
        for _ in self._take(begin, offset - begin):
            pass
        yield from self._take(offset, count)

    def _take(self, begin: int, count: int) -> Iterator[memoryview]:
        while count:
            if not self._rest:
                self._position = None
                chunk = next(self._chunks, b"")
                if not chunk:
                    raise InvalidImageError("tar: expected data of an entry, got the end of the tar")
                self._rest = memoryview(chunk)
            part = self._rest[:count]
            self._rest = self._rest[len(part) :]
            begin += len(part)
            count -= len(part)
            self._position = begin
            yield part

    def _nearest(self, offset: int) -> int:
        """Return the nearest place before ``offset`` where reading could begin anew at little cost."""
        return offset - len(self._rest) if self._is_plain else self._points.before(offset).tar_offset

    def _begin(self, offset: int) -> int:
        """Begin at the last point before ``offset``, and return where that is.

        Of a gzip layer, points are made on the way if it is far.
        """
        self._stack.close()
        self._rest = memoryview(b"")
        if not self._head:
            with closing(self._open(0)) as blob:
                self._head = blob.read(MAGIC_BYTES)
        form = compression_of(self._head)
        self._is_plain = form is None
        if form is None:
            plain = self._stack.enter_context(closing(self._open(offset)))
            self._chunks = _growing_chunks(plain)
            return offset
        point = self._points.before(offset)
        opener, chunk_bytes = self._open, _SMALL_CHUNK_BYTES
        if self._points.is_far(offset):
            opener, chunk_bytes = self._told, TAR_CHUNK_BYTES
        if form == "gzip" and (point.window is not None or (self._makes_points and self._points.is_far(offset))):
            # Start-up: only such a layer needs zlib's C interface.
            from ociexport.system.gzip_points import PointInflater, can_inflate_from_points  # noqa: PLC0415 - as said

            if can_inflate_from_points():
                chunks = PointInflater(opener, point, self._points, chunk_bytes).chunks(offset)
                self._chunks = self._stack.enter_context(closing(chunks))
                return offset
            point = self._points.before(offset, windows=False)
        blob = self._stack.enter_context(closing(opener(point.bit // 8)))
        memory = self._limits.max_window_bytes
        self._chunks = read_tar_chunks(blob, max_window_bytes=memory, option=MEMORY_OPTION)
        return point.tar_offset

    def _open(self, offset: int) -> ByteStream:
        return self._source.open_blob(self._layer.descriptor, offset)

    def _told(self, offset: int) -> ByteStream:
        """Open the blob for reading that takes long."""
        layer, size = self._layer, self._layer.descriptor.size
        self._stack.enter_context(self._progress.phase("reading", size))
        title = f"reading layer {layer.number}/{layer.count} {layer.descriptor.digest.short}"
        task = self._stack.enter_context(self._progress.task(title, size, digest=layer.descriptor.digest))
        task.resume(offset)
        return _ToldStream(self._open(offset), task.advance)


def _growing_chunks(stream: ByteStream) -> Iterator[bytes]:
    """Yield the bytes of a stream in chunks that grow, so that little is read in vain after a small file."""
    size = _FIRST_CHUNK_BYTES
    while chunk := stream.read(size):
        yield chunk
        size = min(2 * size, TAR_CHUNK_BYTES)


class _ToldStream:
    """A stream that tells how much was read of it."""

    def __init__(self, stream: ByteStream, tell: Callable[[int], None]) -> None:
        self._stream = stream
        self._tell = tell

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size)
        self._tell(len(chunk))
        return chunk

    def close(self) -> None:
        self._stream.close()
