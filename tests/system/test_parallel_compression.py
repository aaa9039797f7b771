"""parallel_compression: one stream that every reader takes, with the same bytes for any number of threads."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import subprocess
import zlib

import pytest

from ociexport.system.parallel_compression import LEVELS, compressed
from ociexport.system.zstd import zstd
from tests.support.system_parts import require

BLOCK = 512 * 1024
RANDOM = random.Random(1)
WORDS = [RANDOM.randbytes(50) for _ in range(2000)]
DATA = b"".join(RANDOM.choice(WORDS) for _ in range(1_600_000 // 50))
READERS = {"gzip": gzip.decompress, "zstd": zstd.decompress, "xz": lzma.decompress}


def packed(data: bytes, name: str, *, level: int | None = None, threads: int = 2, step: int = 100_000) -> bytes:
    out = io.BytesIO()
    with compressed(out, name, level, threads) as stream:
        for begin in range(0, len(data), step):
            stream.write(memoryview(data)[begin : begin + step])
    return out.getvalue()


@pytest.mark.parametrize("name", READERS)
def test_readers_take_it_and_threads_and_pieces_do_not_matter(name: str) -> None:
    results = {packed(DATA, name, threads=threads, step=step) for threads, step in ((1, 100_000), (3, 3_000_000))}
    (result,) = results
    assert READERS[name](result) == DATA
    for level in (LEVELS[name][0], LEVELS[name][-1] if name != "xz" else 1):
        assert READERS[name](packed(DATA[:200_000], name, level=level)) == DATA[:200_000]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_gzip_is_one_member_without_a_time(size: int) -> None:
    """init/initramfs.c: "junk at the end of compressed archive", where a member ends within the archive."""
    result = packed(DATA[:size], "gzip")
    reader = zlib.decompressobj(wbits=31)
    assert (reader.decompress(result), reader.eof, reader.unused_data) == (DATA[:size], True, b"")
    assert result[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"


def test_gzip_in_blocks_is_hardly_larger() -> None:
    assert len(packed(DATA, "gzip")) < 1.01 * len(gzip.compress(DATA, 6))


def test_xz_has_the_check_that_the_kernel_knows() -> None:
    """Documentation/staging/xz.rst: "the only supported integrity check is CRC32"."""
    assert packed(DATA[:1000], "xz")[6:8] == b"\0\x01"


def test_plain_bytes_pass() -> None:
    out = io.BytesIO()
    with compressed(out, None, None, 1) as stream:
        stream.write(b"plain")
    assert out.getvalue() == b"plain"


@pytest.mark.system
def test_programs_take_it() -> None:
    for name in READERS:
        require(name)
        unpacked = subprocess.run([name, "-dc"], input=packed(DATA, name), capture_output=True, check=True).stdout
        assert unpacked == DATA
