"""Compressing a tar to the very bytes of a published layer, where that can be done.

Most layers come from Go's gzip, whose output no other program makes. Others come from zlib (Python's gzip, Kaniko's and
Nix's tools, `umoci` with cgo) or from the zstd library. Their parameters are found by trial: the tar is
compressed with each, until a byte differs.

Another version of zlib or zstd may compress differently; who applies a recipe verifies the digest of the blob.

Spec: RFC 1952 §2.3 (gzip member); RFC 8878 §3.1.1 (zstd frame header).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from ociexport.errors import LimitExceededError, quoted
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.system.zstd import zstd

if TYPE_CHECKING:
    from typing import Any

_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# A header with a file name has at most this; the field has no limit of its own.
_MAX_GZIP_HEADER_BYTES = 4096
# The likely ones first. Level 0 is no compression.
_GZIP_LEVELS = (6, 9, 1, 5, 4, 3, 2, 7, 8)
_GZIP_MEMORY_LEVELS = (8, 9)
# Levels from 20 on need hundreds of megabytes of memory.
# The zstd library compresses a tar a little differently after the first block if it has workers, or gets the tar as a
# whole. Only a level that makes the same first bytes is worth these trials. A whole tar is in memory, so it may not be
# large.
_MAX_WHOLE_BYTES = 16 * 1024**2
_SAME_BEGIN_BYTES = 4096
_ZSTD_LEVELS = (3, 19, 1, 9, 6, 10, 5, 7, 11, 12, 15, 2, 4, 8, 13, 14, 16, 17, 18)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Compression:
    """How a tar was compressed.

    Attributes:
        name: ``none``, ``gzip`` or ``zstd``.
        level: of zlib or zstd.
        memory_level: of zlib.
        workers: of zstd; its output differs between none and any number of them.
        has_checksum: whether the zstd frame ends in one.
        has_size: whether the zstd frame's header has the size of the tar.
        is_whole: whether zstd got the tar as a whole, not in pieces.
        header: of the gzip member, in hexadecimal digits.
    """

    name: str
    level: int = 0
    memory_level: int = 8
    workers: int = 0
    has_checksum: bool = False
    has_size: bool = False
    is_whole: bool = False
    header: str = ""

    def compress(self, tar: Iterable[bytes], size: int) -> Iterator[bytes]:
        """Yield the compressed bytes of ``tar``, which has ``size`` bytes."""
        if self.name == "none":
            yield from tar
            return
        if self.is_whole:
            yield self._new_zstd_compressor(size).compress(b"".join(tar), zstd.ZstdCompressor.FLUSH_FRAME)
            return
        compressor = self._new_compressor(size)
        checksum = length = 0
        if self.name == "gzip":
            yield bytes.fromhex(self.header)
        for chunk in tar:
            if self.name == "gzip":
                checksum, length = zlib.crc32(chunk, checksum), length + len(chunk)
            if piece := compressor.compress(chunk):
                yield piece
        yield compressor.flush()
        if self.name == "gzip":
            yield checksum.to_bytes(4, "little") + (length % 2**32).to_bytes(4, "little")

    def verify_fits(self, size: int) -> None:
        """Return if a tar of ``size`` bytes can be compressed so in little memory.

        Raises:
            LimitExceededError: it can't.
        """
        if self.is_whole and size > _MAX_WHOLE_BYTES:
            raise LimitExceededError(f"zstd: expected a tar of at most {_MAX_WHOLE_BYTES} bytes, got {size}")

    def _new_compressor(self, size: int) -> _Compressor:
        if self.name == "gzip":
            return zlib.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS, self.memory_level)
        return self._new_zstd_compressor(size)

    def _new_zstd_compressor(self, size: int) -> zstd.ZstdCompressor:
        parameter = zstd.CompressionParameter
        options: dict[int, int] = {
            parameter.compression_level: self.level,
            parameter.checksum_flag: 1 if self.has_checksum else 0,
        }
        if self.workers:
            options[parameter.nb_workers] = self.workers
        compressor = zstd.ZstdCompressor(options=options)
        if self.has_size:
            compressor.set_pledged_input_size(size)
        return compressor

    def to_json(self) -> dict[str, Any]:
        """Return the members that `parse_compression` reads."""
        if self.name == "gzip":
            return {"name": "gzip", "level": self.level, "memoryLevel": self.memory_level, "header": self.header}
        if self.name == "zstd":
            return {
                "name": "zstd",
                "level": self.level,
                "workers": self.workers,
                "checksum": self.has_checksum,
                "contentSize": self.has_size,
                "whole": self.is_whole,
            }
        return {"name": self.name}


PLAIN = Compression("none")


def parse_compression(document: JsonObject) -> Compression:
    """Return what `Compression.to_json` wrote.

    Raises:
        InvalidImageError: a member is missing, or has a value that no compressor takes.
    """
    name = document.text("name")
    if name == "none":
        return PLAIN
    if name == "gzip":
        header = document.text("header")
        try:
            is_right = len(header) <= 2 * _MAX_GZIP_HEADER_BYTES and bytes.fromhex(header).startswith(_GZIP_MAGIC)
        except ValueError:
            is_right = False
        if not is_right:
            raise document.error("header", f"expected a gzip header as hexadecimal digits, got {quoted(header)}")
        return Compression(
            name,
            _within(document, "level", _GZIP_LEVELS),
            memory_level=_within(document, "memoryLevel", _GZIP_MEMORY_LEVELS),
            header=header,
        )
    if name == "zstd":
        return Compression(
            name,
            _within(document, "level", _ZSTD_LEVELS),
            workers=_within(document, "workers", (0, 1)),
            has_checksum=document.boolean("checksum"),
            has_size=document.boolean("contentSize"),
            is_whole=document.boolean("whole"),
        )
    raise document.error("name", f"expected none, gzip or zstd, got {quoted(name)}")


def _within(document: JsonObject, key: str, values: tuple[int, ...]) -> int:
    value = document.integer(key)
    if value not in values:
        raise document.error(key, f"expected one of {', '.join(map(str, sorted(values)))}, got {value}")
    return value


def find_compression(
    open_blob: Callable[[], Iterator[bytes]], open_tar: Callable[[], Iterator[bytes]], tar_size: int
) -> Compression | None:
    """Return how the blob was compressed; None if it can't be made again.

    A trial ends at the first byte that differs, so many cost little.

    Args:
        open_blob: returns the blob's bytes, from its beginning.
        open_tar: returns the bytes of the tar in it, from its beginning, in small pieces.
        tar_size: of that tar in bytes.
    """
    head = _head(open_blob(), _MAX_GZIP_HEADER_BYTES)
    for candidate in _candidates(head):
        try:
            same = _same_bytes(candidate.compress(open_tar(), tar_size), open_blob())
            if same is None:
                return candidate
            for variant in _variants(candidate, tar_size) if same >= _SAME_BEGIN_BYTES else ():
                if _same_bytes(variant.compress(open_tar(), tar_size), open_blob()) is None:
                    return variant
        except zstd.ZstdError:
            continue  # this library was built without workers
    return None


def _candidates(head: bytes) -> Iterator[Compression]:
    if head.startswith(_GZIP_MAGIC):
        length = _gzip_header_length(head)
        if length is not None:
            for memory_level in _GZIP_MEMORY_LEVELS:
                for level in _GZIP_LEVELS:
                    yield Compression("gzip", level, memory_level=memory_level, header=head[:length].hex())
    elif head.startswith(_ZSTD_MAGIC):
        descriptor = (head[4:5] or b"\0")[0]
        has_checksum = bool(descriptor & 0x04)
        has_size = bool(descriptor >> 6 or descriptor & 0x20)
        for level in _ZSTD_LEVELS:
            yield Compression("zstd", level, has_checksum=has_checksum, has_size=has_size)
    else:
        yield PLAIN


def _variants(compression: Compression, tar_size: int) -> Iterator[Compression]:
    """Yield other ways of zstd that make the same first bytes."""
    if compression.name == "zstd":
        yield replace(compression, workers=1)
        if tar_size <= _MAX_WHOLE_BYTES:
            yield replace(compression, is_whole=True)


def _gzip_header_length(head: bytes) -> int | None:
    """Return the length of a gzip member's header; None if it is longer than ``head``."""
    position = 10
    if len(head) < position:
        return None
    flags = head[3]
    if flags & 0x04:
        position += 2 + int.from_bytes(head[10:12], "little")
    for flag in (0x08, 0x10):
        if flags & flag:
            end = head.find(b"\0", position)
            if end < 0:
                return None
            position = end + 1
    position += 2 if flags & 0x02 else 0
    return position if position <= len(head) else None


def _same_bytes(first: Iterator[bytes], second: Iterator[bytes]) -> int | None:
    """Return how many bytes both begin with; None if they are the same to their ends."""
    left, right = b"", b""
    same = 0
    while True:
        if not left:
            left = next((piece for piece in first if piece), b"")
        if not right:
            right = next((piece for piece in second if piece), b"")
        count = min(len(left), len(right))
        if not count:
            return None if len(left) == len(right) else same
        if left[:count] != right[:count]:
            return same + next(place for place in range(count) if left[place] != right[place])
        left, right = left[count:], right[count:]
        same += count


def _head(chunks: Iterator[bytes], count: int) -> bytes:
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) >= count:
            break
    return data[:count]
