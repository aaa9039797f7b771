"""A layer's bytes as the chunks of a plain tar.

The format is detected from the content. A media type that contradicts the bytes does not matter: the diff_id verifies
the result, and registries and tools have mislabelled layers for years.
"""

from __future__ import annotations

import bz2
import lzma
import re
import sys
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from ociexport.errors import InvalidImageError, LimitExceededError
from ociexport.spec.digest import ByteStream

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
_ZSTD_FRAME_MAGIC = b"\x28\xb5\x2f\xfd"


class _Decompressor(Protocol):
    """The common interface of the standard library's decompressors; see `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def read_tar_chunks(blob: ByteStream) -> Iterator[bytes]:
    """Yield the bytes of the tar in ``blob``, in chunks of at most `TAR_CHUNK_BYTES`.

    The blob is always read to its end, so a `VerifyingReader` beneath makes its checks. Several gzip members, zstd
    frames (also skippable ones), xz streams or bzip2 streams form one tar. Bytes after the last stream are refused,
    except zeros, which tape tools append.

    Args:
        blob: the layer as stored; closed by the caller.

    Raises:
        LimitExceededError: there are too many streams that are almost empty.
        InvalidImageError: the compressed data is damaged or ends too soon. Errors of ``blob`` pass through and come
            first: an interrupted transfer is not a damaged layer.

    Spec: image-spec 1.1 layer.md, "+gzip Media Types", "+zstd Media Types"; RFC 1952 §2.2; RFC 8878 §3.1.
    """
    head = _read_at_least(blob, MAGIC_BYTES)
    found = _format_of(head)
    if found is None:
        while head:
            yield head
            head = blob.read(TAR_CHUNK_BYTES)
        return
    name, new_decompressor = found
    yield from _inflate(blob, head, name, new_decompressor)


def is_compressed(head: bytes) -> bool:
    """Whether data that begins with ``head``, six bytes or more, is in a format that `read_tar_chunks` inflates."""
    return _format_of(head) is not None


def verify_ratio(tar_bytes: int, blob_bytes: int) -> None:
    """Return if ``tar_bytes`` are plausible for a layer with ``blob_bytes`` stored bytes.

    Raises:
        LimitExceededError: no normal layer has this ratio.
    """
    if tar_bytes > RATIO_FROM_BYTES and tar_bytes > MAX_RATIO * blob_bytes:
        raise LimitExceededError(
            f"expected at most {MAX_RATIO} times the {blob_bytes} compressed bytes, got {tar_bytes} so far"
        )


def _inflate(
    blob: ByteStream, head: bytes, name: str, new_decompressor: Callable[[], _Decompressor]
) -> Iterator[bytes]:
    feed = _Feed(blob, head)
    decompressor = new_decompressor()
    streams = _StreamCount(name)
    data = feed.take()
    stream_bytes = 0
    while True:
        try:
            chunk = decompressor.decompress(data, TAR_CHUNK_BYTES)
        except _errors_of(name) as error:
            raise InvalidImageError(f"{name} data: expected a valid stream, got a damaged one ({error})") from error
        data = b""
        if chunk:
            stream_bytes += len(chunk)
            yield chunk
        if decompressor.eof:
            streams.add(stream_bytes)
            stream_bytes = 0
            feed.give_back(len(decompressor.unused_data))
            magic = feed.skip_padding()
            if not magic:
                return
            following = _format_of(magic)
            if following is None or following[0] != name:
                # The blob is read to its end: a digest mismatch, if there is one, is the error to report.
                while blob.read(COMPRESSED_CHUNK_BYTES):
                    pass
                raise InvalidImageError(f"{name} data: expected the end or another {name} stream, got other bytes")
            decompressor = following[1]()
            data = feed.take()
        elif decompressor.needs_input:
            data = feed.take()
            if not data:
                raise InvalidImageError(f"{name} data: expected a complete stream, got one that ends too soon")


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
                f"got {self._small} beside {self._large} larger ones"
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

    def take(self) -> bytes:
        """Return the next bytes; ``b""`` at the end of the blob."""
        if self._position == len(self._chunk):
            self._chunk, self._position = self._blob.read(COMPRESSED_CHUNK_BYTES), 0
        piece = self._chunk[self._position : self._position + self._piece_bytes]
        self._position += len(piece)
        self._piece_bytes = min(2 * self._piece_bytes, COMPRESSED_CHUNK_BYTES)
        return piece

    def give_back(self, count: int) -> None:
        """Return the last ``count`` bytes to the feed: they belong to the next stream."""
        self._position -= count
        self._piece_bytes = _FIRST_PIECE_BYTES

    def skip_padding(self) -> bytes:
        """Skip zeros, and return as many of the following bytes as a magic number has.

        Returns:
            fewer bytes only at the end of the blob; ``b""`` if only zeros are left.
        """
        while (match := _OTHER_THAN_ZERO.search(self._chunk, self._position)) is None:
            self._chunk, self._position = self._blob.read(COMPRESSED_CHUNK_BYTES), 0
            if not self._chunk:
                return b""
        self._position = match.start()
        missing = self._position + MAGIC_BYTES - len(self._chunk)
        if missing > 0:
            self._chunk, self._position = self._chunk[self._position :] + _read_at_least(self._blob, missing), 0
        return self._chunk[self._position : self._position + MAGIC_BYTES]


def _read_at_least(blob: ByteStream, count: int) -> bytes:
    """Return ``count`` bytes or more from ``blob``, fewer only at its end."""
    data = b""
    while len(data) < count:
        chunk = blob.read(COMPRESSED_CHUNK_BYTES)
        if not chunk:
            break
        data += chunk
    return data


def _format_of(head: bytes) -> tuple[str, Callable[[], _Decompressor]] | None:
    """Return the compression format of data that begins with ``head``, by its magic number; None if it has none."""
    if head.startswith(_GZIP_MAGIC):
        return "gzip", _new_gzip_decompressor
    # Skippable frames, which zstd:chunked puts its table of contents in, have sixteen magic numbers (RFC 8878 §3.1.2).
    if head.startswith(_ZSTD_FRAME_MAGIC) or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd", _new_zstd_decompressor
    if head.startswith(_XZ_MAGIC):
        return "xz", lzma.LZMADecompressor
    if head.startswith(_BZIP2_MAGIC):
        return "bzip2", bz2.BZ2Decompressor
    return None


# Each library is imported when the first layer of its format is read, so others don't pay for it.


def _new_gzip_decompressor() -> _Decompressor:
    from isal import igzip_lib  # noqa: PLC0415 - start-up: only some runs need it

    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


def _new_zstd_decompressor() -> _Decompressor:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 - start-up: only some runs need it
    else:
        from backports import zstd  # noqa: PLC0415 - start-up: only some runs need it

    return zstd.ZstdDecompressor()


def _errors_of(name: str) -> tuple[type[Exception], ...]:
    """Return the errors that the decompressor called ``name`` raises for damaged data."""
    if name == "gzip":
        from isal import igzip_lib  # noqa: PLC0415 - start-up: only some runs need it

        return (cast("type[Exception]", igzip_lib.IsalError),)  # its stub declares an instance
    if name == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415 - start-up: only some runs need it
        else:
            from backports import zstd  # noqa: PLC0415 - start-up: only some runs need it

        return (zstd.ZstdError,)
    return (lzma.LZMAError, OSError, EOFError)


def new_zstd_compressor() -> Compressor:
    """Return a compressor for one zstd frame, at the library's own level."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 - start-up: only some runs need it
    else:
        from backports import zstd  # noqa: PLC0415 - start-up: only some runs need it

    return zstd.ZstdCompressor()


class Compressor(Protocol):
    """The common interface of the standard library's compressors; see `zlib.compressobj`."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...
