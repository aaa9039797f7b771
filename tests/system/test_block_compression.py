"""Blocks are compressed in the format that other programs read."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from ociexport.system.block_compression import new_block_compressor
from ociexport.system.zstd import zstd


@pytest.mark.parametrize(
    ("name", "level", "read"),
    [("gzip", None, zlib.decompress), ("gzip", 9, zlib.decompress), ("zstd", 3, zstd.decompress)],
)
def test_a_block_is_compressed_in_the_format_of_its_name(
    name: str, level: int | None, read: Callable[[bytes], bytes]
) -> None:
    block = b"".join(b"%d" % number for number in range(20_000))
    packed = new_block_compressor(name, level)(block)
    assert len(packed) < len(block) // 2
    assert read(packed) == block
