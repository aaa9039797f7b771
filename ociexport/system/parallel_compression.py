"""Bytes compressed by several threads on their way to another stream; the same bytes for any number of threads.

Gzip is compressed in blocks, each with the end of the block before it as its dictionary, so the result is hardly
larger. It is one member, because the kernel takes the end of a member for the end of an initramfs archive. It is
zlib's: isal is faster, but what it writes depends on the processor.

Spec: RFC 1951 §3.2.3; RFC 1952 §2.3.
"""

from __future__ import annotations

import lzma
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from ociexport.system.threads import starting_threads
from ociexport.system.zstd_compression import Compressor, new_parallel_zstd_compressor

# The levels of each format.
LEVELS = {"gzip": range(1, 10), "zstd": range(1, 23), "xz": range(10)}

_BLOCK_BYTES = 512 * 1024
_DICTIONARY_BYTES = 32 * 1024
# No flags, no time; the file system is unknown.
_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_DEFAULT_LEVEL = 6


class ByteSink(Protocol):
    """Takes bytes one after another."""

    def write(self, data: bytes | memoryview, /) -> object: ...


@contextmanager
def compressed(out: BinaryIO, name: str | None, level: int | None, threads: int) -> Iterator[ByteSink]:
    """Give what writes bytes compressed to ``out``; when the ``with`` block ends well, all are written and flushed.

    Args:
        out: not closed with this.
        name: ``gzip``, ``zstd`` or ``xz``; None to write the bytes as they are.
        level: one of `LEVELS`; None for the format's usual one.
        threads: how many compress.
    """
    if name is None:
        yield out
    elif name == "gzip":
        gzip = _ParallelGzip(out, level, threads)
        try:
            yield gzip
            gzip.end()
        finally:
            gzip.close()
    else:
        # The kernel knows no other check of xz.
        xz = lzma.LZMACompressor(check=lzma.CHECK_CRC32, preset=level) if name == "xz" else None
        compressor = xz or new_parallel_zstd_compressor(level, threads)
        yield _Compressed(out, compressor)
        out.write(compressor.flush())
    out.flush()


class _Compressed:
    def __init__(self, out: BinaryIO, compressor: Compressor) -> None:
        self._out = out
        self._compressor = compressor

    def write(self, data: bytes | memoryview, /) -> int:
        self._out.write(self._compressor.compress(data))
        return len(data)


class _ParallelGzip:
    """Writes one gzip member. `end` writes the last of it, `close` ends the threads.

    Args:
        out: not closed with this.
        level: 1 to 9.
        threads: how many compress.
    """

    def __init__(self, out: BinaryIO, level: int | None, threads: int) -> None:
        self._out = out
        self._level = _DEFAULT_LEVEL if level is None else level
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gzip")
        self._blocks: deque[Future[bytes]] = deque()
        self._waiting = bytearray()
        self._dictionary = b""
        self._crc = 0
        self._size = 0
        out.write(_HEADER)

    def write(self, data: bytes | memoryview, /) -> int:
        """Write the next bytes."""
        self._waiting += data
        while len(self._waiting) > _BLOCK_BYTES:
            block = bytes(memoryview(self._waiting)[:_BLOCK_BYTES])
            del self._waiting[:_BLOCK_BYTES]
            self._begin(block, is_last=False)
        return len(data)

    def end(self) -> None:
        """Write the end of the compressed data."""
        self._begin(bytes(self._waiting), is_last=True)
        while self._blocks:
            self._write_first()
        self._out.write((self._crc & 0xFFFFFFFF).to_bytes(4, "little"))
        self._out.write((self._size & 0xFFFFFFFF).to_bytes(4, "little"))

    def close(self) -> None:
        """End the threads; what was not written is lost."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, block: bytes, *, is_last: bool) -> None:
        with starting_threads():
            self._blocks.append(self._pool.submit(_deflated, block, self._dictionary, self._level, is_last=is_last))
        self._dictionary = block[-_DICTIONARY_BYTES:]
        self._crc = zlib.crc32(block, self._crc)
        self._size += len(block)
        while len(self._blocks) > 2 * self._threads:
            self._write_first()

    def _write_first(self) -> None:
        self._out.write(self._blocks.popleft().result())


def _deflated(block: bytes, dictionary: bytes, level: int, *, is_last: bool) -> bytes:
    compressor = zlib.compressobj(level, wbits=-zlib.MAX_WBITS, zdict=dictionary)
    # The end of a flushed block is at a whole byte, so the next one can follow.
    return compressor.compress(block) + compressor.flush(zlib.Z_FINISH if is_last else zlib.Z_SYNC_FLUSH)
