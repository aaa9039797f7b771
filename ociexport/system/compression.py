"""A layer's bytes as the chunks of a plain tar: `read_layer` checks that they begin one, `read_tar_chunks` does not.

The format is detected from the content. A media type that contradicts the bytes does not matter: the diff_id verifies
the result, and registries and tools have mislabelled layers for years.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

from ociexport.errors import InvalidImageError, LimitExceededError, counted
from ociexport.spec.digest import ByteStream
from ociexport.spec.mediatypes import is_encrypted
from ociexport.system.content import LOOKED_AT_BYTES, encrypted_layer_error, verify_begins_tar
from ociexport.system.memory import DecompressionMemory
from ociexport.system.zstd_frames import FRAME_MAGIC, MAX_HEADER_BYTES, window_bytes_of

if TYPE_CHECKING:
    from ociexport.system.access_points import AccessPoints

# The sizes of one read and of one inflated chunk. They are large since each chunk is passed between threads, and each
# time may wait for the interpreter lock; docs/about/performance.md has the numbers. Both are multiples of 512, so tar
# headers seldom straddle two chunks.
COMPRESSED_CHUNK_BYTES = 512 * 1024
TAR_CHUNK_BYTES = 1024 * 1024

# Normal layers stay below 20; zeros reach 1030 in gzip and any ratio in zstd. A small layer of zeros may be legitimate.
MAX_RATIO = 250
RATIO_FROM_BYTES = 2 * 1024**3

# A gzip member or zstd frame takes about ten microseconds, even if it is almost empty. Tools write one for each file
# (eStargz, zstd:chunked), and pzstd adds a skippable one before each; few have less than a tar block.
MAX_SMALL_STREAMS = 10_000
_SMALL_STREAM_BYTES = 512
_SMALL_STREAMS_FOR_LARGE = 2
# The size of the first piece of each stream; each following piece is twice as large.
_FIRST_PIECE_BYTES = 4 * 1024

MAGIC_BYTES = 6
_OTHER_THAN_ZERO = re.compile(rb"[^\0]")
_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\x00"
_BZIP2_MAGIC = b"BZh"


class _Decompressor(Protocol):
    """The common interface of the standard library's decompressors; see `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def read_layer(
    blob: ByteStream,
    *,
    media_type: str = "",
    max_window_bytes: int | None = None,
    option: str | None = None,
    chunk_bytes: int = TAR_CHUNK_BYTES,
    points: AccessPoints | None = None,
) -> Iterator[bytes]:
    """Yield the bytes of the tar in ``blob``; see `read_tar_chunks`. Every reader of a layer's tar begins here.

    Args:
        blob: the layer as stored; closed by the caller.
        media_type: as declared, for messages; the content decides.
        max_window_bytes: see `read_tar_chunks`.
        option: see `read_tar_chunks`.
        chunk_bytes: the most bytes of a chunk, if the layer is compressed.
        points: receives the beginnings of streams after the first.

    Raises:
        UnsupportedMediaTypeError: it does not begin as a tar does. The rest of ``blob`` is not read.
        LimitExceededError, InvalidImageError: as `read_tar_chunks` does.
    """
    inflater = _Inflater(blob, DecompressionMemory(max_window_bytes, option), chunk_bytes, points)
    chunks = inflater.chunks()
    first: list[bytes] = []
    try:
        while sum(map(len, first)) < LOOKED_AT_BYTES and (chunk := next(chunks, b"")):
            first.append(chunk)
    except LimitExceededError:
        raise
    except InvalidImageError as error:
        if is_encrypted(media_type) and inflater.format is not None:
            # Encrypted bytes may begin as a compressed stream does.
            raise encrypted_layer_error(media_type) from error
        raise
    verify_begins_tar(b"".join(first)[:LOOKED_AT_BYTES], media_type, inflater.format)
    yield from first
    yield from chunks


def read_tar_chunks(
    blob: ByteStream,
    chunk_bytes: int = TAR_CHUNK_BYTES,
    *,
    max_window_bytes: int | None = None,
    option: str | None = None,
    points: AccessPoints | None = None,
) -> Iterator[bytes]:
    """Yield the decompressed bytes of ``blob``, in chunks of at most ``chunk_bytes`` if it is compressed.

    The blob is always read to its end, so a `VerifyingReader` beneath makes its checks. Several gzip members, zstd
    frames (also skippable ones), xz streams or bzip2 streams form one tar. Bytes after the last stream are refused,
    except zeros, which tape tools append.

    Args:
        blob: the layer as stored; closed by the caller.
        max_window_bytes: how much of its output a decompressor may keep in memory; None for what zstd supports and
            this machine has.
        option: the command's option for ``max_window_bytes``; None if it has none.
        points: receives the beginnings of streams after the first.

    Raises:
        LimitExceededError: there are too many streams that are almost empty, or one needs too much memory.
        InvalidImageError: the compressed data is damaged or ends too soon. Errors of ``blob`` pass through and come
            first: an interrupted transfer is not a damaged layer.

    Spec: image-spec 1.1 layer.md, "+gzip Media Types", "+zstd Media Types"; RFC 1952 §2.2; RFC 8878 §3.1.
    """
    return _Inflater(blob, DecompressionMemory(max_window_bytes, option), chunk_bytes, points).chunks()


def compression_of(head: bytes) -> str | None:
    """Return the format of data that begins with ``head``, six bytes or more, if `read_tar_chunks` inflates it."""
    return _format_of(head)


def is_compressed(head: bytes) -> bool:
    """Whether data that begins with ``head``, six bytes or more, is in a format that `read_tar_chunks` inflates."""
    return compression_of(head) is not None


def verify_ratio(tar_bytes: int, blob_bytes: int) -> None:
    """Return if ``tar_bytes`` are plausible for a layer with ``blob_bytes`` stored bytes.

    Raises:
        LimitExceededError: no normal layer has this ratio.
    """
    if tar_bytes > RATIO_FROM_BYTES and tar_bytes > MAX_RATIO * blob_bytes:
        raise LimitExceededError(
            f"expected at most {MAX_RATIO} times the {counted(blob_bytes, 'compressed byte')}, got {tar_bytes} so far"
        )


class _Inflater:
    """Decompresses one blob.

    Args:
        blob: the layer as stored; closed by the caller.
        memory: how much a decompressor may take.
        chunk_bytes: the most bytes of a decompressed chunk.
        points: receives the beginnings of streams after the first.

    Attributes:
        format: name of the blob's format; None for plain bytes, and until the first chunk is requested.
    """

    def __init__(
        self,
        blob: ByteStream,
        memory: DecompressionMemory,
        chunk_bytes: int = TAR_CHUNK_BYTES,
        points: AccessPoints | None = None,
    ) -> None:
        self._blob = blob
        self._chunk_bytes = chunk_bytes
        self._memory = memory
        self._points = points
        self.format: str | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the decompressed bytes."""
        head = _read_at_least(self._blob, MAX_HEADER_BYTES)
        self.format = _format_of(head)
        if self.format is not None:
            yield from self._inflate(head, self.format)
            return
        while head:
            yield head
            head = self._blob.read(TAR_CHUNK_BYTES)

    def _inflate(self, head: bytes, name: str) -> Iterator[bytes]:
        feed = _Feed(self._blob, head)
        decompressor = self._begin(name, head)
        streams = _StreamCount(name)
        data = feed.take()
        stream_bytes = tar_bytes = 0
        while True:
            try:
                chunk = decompressor.decompress(data, self._chunk_bytes)
            except _errors_of(name) as error:
                raise self._error_of(name, error) from error
            data = b""
            if chunk:
                stream_bytes += len(chunk)
                yield chunk
            if decompressor.eof:
                streams.add(stream_bytes)
                tar_bytes += stream_bytes
                stream_bytes = 0
                feed.give_back(len(decompressor.unused_data))
                header = feed.skip_padding()
                if not header:
                    return
                if _format_of(header) != name:
                    # The blob is read to its end: a digest mismatch, if there is one, is the error to report.
                    while self._blob.read(COMPRESSED_CHUNK_BYTES):
                        pass
                    raise InvalidImageError(f"{name} data: expected the end or another {name} stream, got other bytes")
                if self._points is not None:
                    self._points.add_stream(tar_bytes, feed.offset)
                decompressor = self._begin(name, header)
                data = feed.take()
            elif decompressor.needs_input:
                data = feed.take()
                if not data:
                    raise InvalidImageError(f"{name} data: expected a complete stream, got one that ends too soon")

    def _begin(self, name: str, header: bytes) -> _Decompressor:
        """Return a decompressor for a stream that begins with ``header``."""
        self._window_bytes = window_bytes_of(header) if name == "zstd" else None
        if self._window_bytes is not None:
            self._memory.verify(name, self._window_bytes)
        return _new_decompressor(name, self._memory)

    def _error_of(self, name: str, error: Exception) -> InvalidImageError:
        """Return the error for one that a decompressor raised."""
        # The libraries have no class for a lack of memory; xz alone compares with a limit itself.
        if isinstance(error, MemoryError) or (name in ("zstd", "xz") and "memory" in str(error).lower()):
            return self._memory.error(name, self._window_bytes)
        return InvalidImageError(f"{name} data: expected a valid stream, got a damaged one ({error})")


class _StreamCount:
    """Counts gzip members, zstd frames and other streams, each of which takes time even if it is almost empty.

    Args:
        name: of the format.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._small = 0
        self._large = 0

    def add(self, stream_bytes: int) -> None:
        """Count a stream that contained ``stream_bytes``.

        Raises:
            LimitExceededError: nearly all streams are almost empty.
        """
        if stream_bytes >= _SMALL_STREAM_BYTES:
            self._large += 1
            return
        self._small += 1
        if self._small > MAX_SMALL_STREAMS + _SMALL_STREAMS_FOR_LARGE * self._large:
            raise LimitExceededError(
                f"{self._name} data: expected at most {MAX_SMALL_STREAMS} streams of less than "
                f"{_SMALL_STREAM_BYTES} bytes, and {_SMALL_STREAMS_FOR_LARGE} more for each larger one, "
                f"got {self._small} beside {counted(self._large, 'larger one')}"
            )


class _Feed:
    """The bytes of a blob in pieces that grow within a stream, so little is copied after the end of a short stream.

    Args:
        blob: the source of the bytes.
        head: the bytes already read from it.
    """

    def __init__(self, blob: ByteStream, head: bytes) -> None:
        self._blob = blob
        self._chunk = head
        self._position = 0
        self._piece_bytes = _FIRST_PIECE_BYTES
        # Bytes of the blob up to the end of the chunk.
        self._end = len(head)

    @property
    def offset(self) -> int:
        """The place in the blob of the next bytes."""
        return self._end - len(self._chunk) + self._position

    def take(self) -> bytes:
        """Return the next bytes; ``b""`` at the end of the blob."""
        if self._position == len(self._chunk):
            self._read()
        piece = self._chunk[self._position : self._position + self._piece_bytes]
        self._position += len(piece)
        self._piece_bytes = min(2 * self._piece_bytes, COMPRESSED_CHUNK_BYTES)
        return piece

    def give_back(self, count: int) -> None:
        """Return the last ``count`` bytes to the feed: they belong to the next stream."""
        self._position -= count
        self._piece_bytes = _FIRST_PIECE_BYTES

    def skip_padding(self) -> bytes:
        """Skip zeros, and return as many of the following bytes as the largest header that is looked at.

        Returns:
            fewer bytes only at the end of the blob; ``b""`` if only zeros are left.
        """
        while (match := _OTHER_THAN_ZERO.search(self._chunk, self._position)) is None:
            self._read()
            if not self._chunk:
                return b""
        self._position = match.start()
        missing = self._position + MAX_HEADER_BYTES - len(self._chunk)
        if missing > 0:
            more = _read_at_least(self._blob, missing)
            self._chunk, self._position = self._chunk[self._position :] + more, 0
            self._end += len(more)
        return self._chunk[self._position : self._position + MAX_HEADER_BYTES]

    def _read(self) -> None:
        self._chunk, self._position = self._blob.read(COMPRESSED_CHUNK_BYTES), 0
        self._end += len(self._chunk)


def _read_at_least(blob: ByteStream, count: int) -> bytes:
    """Return ``count`` bytes or more from ``blob``, fewer only at its end."""
    data = b""
    while len(data) < count:
        chunk = blob.read(COMPRESSED_CHUNK_BYTES)
        if not chunk:
            break
        data += chunk
    return data


def _format_of(head: bytes) -> str | None:
    """Return the compression format of data that begins with ``head``, by its magic number; None if it has none."""
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    # Skippable frames, which zstd:chunked puts its table of contents in, have sixteen magic numbers (RFC 8878 §3.1.2).
    if head.startswith(FRAME_MAGIC) or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    if head.startswith(_XZ_MAGIC):
        return "xz"
    if head.startswith(_BZIP2_MAGIC):
        return "bzip2"
    return None


def _new_decompressor(name: str, memory: DecompressionMemory) -> _Decompressor:
    # Each library is imported when the first layer of its format is read, so others don't pay for it.
    if name == "gzip":
        from isal import igzip_lib  # noqa: PLC0415 - start-up: only some runs need it

        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    if name == "zstd":
        from ociexport.system.zstd import zstd  # noqa: PLC0415 - start-up: only some runs need it

        window_log_max = zstd.DecompressionParameter.window_log_max
        return zstd.ZstdDecompressor(options={window_log_max: window_log_max.bounds()[1]})
    if name == "xz":
        import lzma  # noqa: PLC0415 - start-up: only some runs need it

        return lzma.LZMADecompressor(memlimit=memory.limit)
    import bz2  # noqa: PLC0415 - start-up: only some runs need it

    return bz2.BZ2Decompressor()


def _errors_of(name: str) -> tuple[type[Exception], ...]:
    """Return the errors that the decompressor called ``name`` raises for damaged data."""
    if name == "gzip":
        from isal import igzip_lib  # noqa: PLC0415 - start-up: only some runs need it

        return (cast("type[Exception]", igzip_lib.IsalError),)  # its stub declares an instance
    if name == "zstd":
        from ociexport.system.zstd import zstd  # noqa: PLC0415 - start-up: only some runs need it

        return (zstd.ZstdError,)
    if name == "xz":
        import lzma  # noqa: PLC0415 - start-up: only some runs need it

        return lzma.LZMAError, MemoryError
    return OSError, EOFError
