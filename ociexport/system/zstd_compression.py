"""Compressors for one zstd frame, by one thread or by several."""

from __future__ import annotations

from typing import Protocol

# What one thread compresses at a time. The library's own choice is four windows, which takes much memory.
_ZSTD_JOB_BYTES = 2 * 1024 * 1024
# Each takes about 8 MiB.
_MAX_ZSTD_THREADS = 4


class Compressor(Protocol):
    """The common interface of the standard library's compressors; see `zlib.compressobj`."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def new_zstd_compressor() -> Compressor:
    """Return a compressor for one zstd frame, at the library's own level."""
    from ociexport.system.zstd import zstd  # noqa: PLC0415 - start-up: only some runs need it

    return zstd.ZstdCompressor()


def new_parallel_zstd_compressor(level: int | None, threads: int) -> Compressor:
    """Return a compressor for one zstd frame with a checksum; it gives the same bytes for any number of threads.

    Args:
        level: 1 to 22; None for the library's own.
        threads: how many compress besides the caller's, at least 1: with none the bytes would be others.
    """
    from ociexport.system.zstd import zstd  # noqa: PLC0415 - start-up: only some runs need it

    parameter = zstd.CompressionParameter
    return zstd.ZstdCompressor(
        options={
            parameter.compression_level: zstd.COMPRESSION_LEVEL_DEFAULT if level is None else level,
            parameter.nb_workers: min(threads, _MAX_ZSTD_THREADS, parameter.nb_workers.bounds()[1]),
            parameter.job_size: _ZSTD_JOB_BYTES,
            parameter.checksum_flag: 1,
        }
    )
