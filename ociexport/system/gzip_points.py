"""Inflates gzip from any access point, and makes further points on the way; see `access_points`.

isal can't tell where a deflate block begins, nor can Python's own `zlib`; zlib's C interface can. So its functions are
called in the library that Python's `zlib` module is linked with. Where that library or its functions can't be found, no
points within gzip members are made or used, and nothing else changes.

Far from the next point zlib inflates as usual, at a third of isal's speed; then it stops at the end of each block. All
calls release the interpreter lock, and each inflates a megabyte.

Spec: zlib.h, "inflate", "inflatePrime", "inflateSetDictionary", "inflateGetDictionary"; RFC 1951, RFC 1952 §2.2.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import cache

from ociexport.errors import InvalidImageError
from ociexport.spec.digest import ByteStream
from ociexport.system.access_points import WINDOW_BYTES, AccessPoint, AccessPoints
from ociexport.system.compression import COMPRESSED_CHUNK_BYTES, TAR_CHUNK_BYTES, compression_of

# Of zlib.h.
_OK, _STREAM_END, _BUF_ERROR = 0, 1, -5
_NO_FLUSH, _BLOCK = 0, 5
# Bits of ``data_type`` after a call with Z_BLOCK: the end of a block, and the last block; below them, unused bits.
_AT_BLOCK_END, _IN_LAST_BLOCK, _UNUSED_BITS = 128, 64, 7
_RAW, _GZIP = -15, 31
_TRAILER_BYTES = 8
_HEAD_BYTES = 6
_FUNCTIONS = (
    "inflate",
    "inflateInit2_",
    "inflateReset2",
    "inflatePrime",
    "inflateSetDictionary",
    "inflateGetDictionary",
    "inflateEnd",
)


class _Stream(ctypes.Structure):
    """zlib's ``z_stream``."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


@cache
def _library() -> ctypes.CDLL | None:
    """Return zlib; None if it can't be found."""
    try:
        library = ctypes.CDLL(getattr(zlib, "__file__", None))
        for name in _FUNCTIONS:
            getattr(library, name)
        library.zlibVersion.restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    return library if library.zlibVersion().startswith(b"1.") else None


def can_inflate_from_points() -> bool:
    """Whether zlib was found."""
    return _library() is not None


class PointInflater:
    """Inflates gzip from an access point to the end of the blob.

    Args:
        open_blob: returns the blob's bytes from an offset on.
        point: where inflating begins.
        points: receives further points.
        chunk_bytes: the most bytes of a chunk; few if little is needed.
    """

    def __init__(
        self,
        open_blob: Callable[[int], ByteStream],
        point: AccessPoint,
        points: AccessPoints,
        chunk_bytes: int = TAR_CHUNK_BYTES,
    ) -> None:
        library = _library()
        if library is None:
            raise AssertionError("the caller asked `can_inflate_from_points`")
        self._zlib = library
        self._open_blob = open_blob
        self._point = point
        self._points = points
        self._stream = _Stream()
        self._chunk_bytes = chunk_bytes
        self._output = ctypes.create_string_buffer(chunk_bytes)
        # Kept as long as zlib reads it.
        self._input = b""
        # The blob's bytes that were read, and the tar's bytes that were inflated.
        self._read_bytes = 0
        self._inflated_bytes = point.tar_offset
        self._is_raw = point.window is not None
        self._is_stopped = False

    def chunks(self, start: int) -> Generator[bytes]:
        """Yield the chunks of the tar from ``start`` on, or from the point if that is later.

        Raises:
            InvalidImageError: the data or the point is damaged. Errors of the blob pass through.
        """
        with closing(self._open_blob(self._point.bit // 8)) as blob:
            self._read_bytes = self._point.bit // 8
            try:
                self._begin(blob)
                position = self._inflated_bytes
                for count in self._inflate(blob):
                    position += count
                    if position > start:
                        yield ctypes.string_at(self._output, count)[max(0, start - position + count) :]
                    elif self._is_stopped:
                        return
            finally:
                self._zlib.inflateEnd(ctypes.byref(self._stream))

    def make_points(self, end: int) -> None:
        """Inflate up to the tar's offset ``end``, only for the points; `stop` ends it sooner.

        Raises:
            as `chunks` does.
        """
        with closing(self.chunks(end)) as chunks:
            next(chunks, b"")

    def stop(self) -> None:
        """End soon what another thread inflates."""
        self._is_stopped = True

    def _begin(self, blob: ByteStream) -> None:
        stream, library = ctypes.byref(self._stream), self._zlib
        size = ctypes.sizeof(_Stream)
        version = ctypes.c_char_p(library.zlibVersion())
        self._verify(library.inflateInit2_(stream, _RAW if self._is_raw else _GZIP, version, size))
        if self._is_raw:
            self._fill(blob)
            if (begun := self._point.bit % 8) and self._input:
                self._verify(library.inflatePrime(stream, 8 - begun, self._input[0] >> begun))
                self._give(self._input[1:])
            try:
                window = self._point.unpacked_window()
            except zlib.error as error:
                raise InvalidImageError(
                    f"gzip data: expected a valid access point, got a damaged one ({error})"
                ) from error
            self._verify(library.inflateSetDictionary(stream, window, len(window)))

    def _inflate(self, blob: ByteStream) -> Iterator[int]:
        """Inflate to the end, and yield how many bytes the output buffer has, whenever it is full."""
        stream, inflate = self._stream, self._zlib.inflate
        reference, output = ctypes.byref(stream), ctypes.addressof(self._output)
        stream.next_out, stream.avail_out = output, self._chunk_bytes
        while True:
            if not stream.avail_in and not self._fill(blob):
                raise InvalidImageError("gzip data: expected a complete stream, got one that ends too soon")
            is_wanted = self._points.wants(self._inflated_bytes)
            # Inflate without a stop up to the place where a point is wanted.
            until_wanted = self._points.bytes_until_wanted(self._inflated_bytes)
            withheld = max(0, stream.avail_out - until_wanted) if until_wanted > 0 else 0
            stream.avail_out -= withheld
            before = stream.avail_out
            result = inflate(reference, _BLOCK if is_wanted else _NO_FLUSH)
            self._inflated_bytes += before - stream.avail_out
            stream.avail_out += withheld
            if result == _STREAM_END:
                if not self._begin_member(blob):
                    if stream.avail_out < self._chunk_bytes:
                        yield self._chunk_bytes - stream.avail_out
                    return
            elif result not in (_OK, _BUF_ERROR):
                raise self._error()
            elif is_wanted and stream.data_type & _AT_BLOCK_END and not stream.data_type & _IN_LAST_BLOCK:
                self._add_point()
            if not stream.avail_out:
                yield self._chunk_bytes
                stream.next_out, stream.avail_out = output, self._chunk_bytes

    def _add_point(self) -> None:
        window, size = ctypes.create_string_buffer(WINDOW_BYTES), ctypes.c_uint()
        self._verify(self._zlib.inflateGetDictionary(ctypes.byref(self._stream), window, ctypes.byref(size)))
        bit = 8 * self._position - (self._stream.data_type & _UNUSED_BITS)
        packed = zlib.compress(ctypes.string_at(window, size.value), 1)
        self._points.add(AccessPoint(self._inflated_bytes, bit, packed))

    @property
    def _position(self) -> int:
        """How many bytes of the blob zlib took."""
        waiting: int = self._stream.avail_in
        return self._read_bytes - waiting

    def _begin_member(self, blob: ByteStream) -> bool:
        """Begin the next gzip member; return False at the end of the blob.

        Raises:
            InvalidImageError: other bytes follow.
        """
        rest = self._input[len(self._input) - self._stream.avail_in :]
        if self._is_raw:
            while len(rest) < _TRAILER_BYTES and (chunk := self._read(blob)):
                rest += chunk
            rest = rest[_TRAILER_BYTES:]
        rest = rest.lstrip(b"\0")
        while len(rest) < _HEAD_BYTES and (chunk := self._read(blob)):
            rest = (rest + chunk).lstrip(b"\0")
        self._give(rest)
        if not rest:
            return False
        if compression_of(rest) != "gzip":
            raise InvalidImageError("gzip data: expected the end or another gzip stream, got other bytes")
        self._points.add_stream(self._inflated_bytes, self._position)
        self._is_raw = False
        self._verify(self._zlib.inflateReset2(ctypes.byref(self._stream), _GZIP))
        return True

    def _fill(self, blob: ByteStream) -> bool:
        self._give(self._read(blob))
        return bool(self._input)

    def _read(self, blob: ByteStream) -> bytes:
        chunk = blob.read(min(self._chunk_bytes, COMPRESSED_CHUNK_BYTES)) or b""
        self._read_bytes += len(chunk)
        return chunk

    def _give(self, data: bytes) -> None:
        """Let zlib read ``data`` next."""
        self._input = data
        self._stream.next_in = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
        self._stream.avail_in = len(data)

    def _verify(self, result: int) -> None:
        if result != _OK:
            raise self._error()

    def _error(self) -> InvalidImageError:
        message = (self._stream.msg or b"no reason given").decode("ascii", "replace")
        return InvalidImageError(f"gzip data: expected a valid stream, got a damaged one ({message})")
