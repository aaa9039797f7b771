"""EROFS: places of inodes, chunks of files with holes, blocks of directories, for any input."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.layers.tar.reader import IMPLIED_DIRECTORY
from ociexport.rootfs.outputs.erofs.chunks import chunk_map, placed_extents, plan_chunks
from ociexport.rootfs.outputs.erofs.inodes import PLAIN, encode_inode, form_of, is_compact, usual_time_ns
from ociexport.rootfs.outputs.erofs.space import SLOT_BYTES, MetadataSpace
from ociexport.rootfs.outputs.erofs.superblock import BLOCK_BITS, BLOCK_BYTES, NO_BLOCK, crc32c
from ociexport.rootfs.outputs.flat_image import Extent, FlatNode


@given(st.lists(st.integers(SLOT_BYTES, 3 * BLOCK_BYTES), max_size=300))
def test_places_neither_overlap_nor_cross_blocks_without_need(sizes: list[int]) -> None:
    space = MetadataSpace()
    places = [(space.place(size), size) for size in sizes]
    end = 0
    for offset, size in sorted(places):
        assert offset >= end
        assert offset % SLOT_BYTES == 0
        end = offset + size
        assert offset // BLOCK_BYTES == (end - 1) // BLOCK_BYTES or (size > BLOCK_BYTES and offset % BLOCK_BYTES == 0)
    assert end <= space.blocks * BLOCK_BYTES


@st.composite
def sparse_files(draw: st.DrawFn) -> tuple[int, list[Extent]]:
    extents, offset, spooled = [], 0, 0
    for _ in range(draw(st.integers(0, 8))):
        offset += draw(st.integers(0, 40_000))
        size = draw(st.integers(1, 20_000))
        extents.append(Extent(offset, size, spooled))
        offset, spooled = offset + size, spooled + size
    return offset + draw(st.integers(0, 100_000)), extents


@given(sparse_files())
def test_chunks_give_the_content_back(file: tuple[int, list[Extent]]) -> None:
    size, extents = file
    chunks = plan_chunks(size, extents)
    flat_bytes = -(-size // BLOCK_BYTES) * BLOCK_BYTES
    if chunks is None:
        return
    assert chunks.blocks * BLOCK_BYTES + chunks.map_bytes < flat_bytes
    spool = os.urandom(sum(extent.size for extent in extents))
    stored = bytearray(chunks.blocks * BLOCK_BYTES)
    for extent, place in placed_extents(chunks, extents, 7):
        begin = place - 7 * BLOCK_BYTES
        assert begin + extent.size <= len(stored)
        stored[begin : begin + extent.size] = spool[extent.spool_offset :][: extent.size]
    content, expected = b"", bytearray(size)
    for block in chunk_map(chunks, extents, 7):
        place = (block - 7) * BLOCK_BYTES
        content += bytes(1 << chunks.bits) if block == NO_BLOCK else stored[place : place + (1 << chunks.bits)]
    for extent in extents:
        expected[extent.offset : extent.offset + extent.size] = spool[extent.spool_offset :][: extent.size]
    assert content[:size] == expected
    assert chunks.count == -(-size >> chunks.bits)


def test_file_without_holes_has_no_chunks_and_one_with_a_large_hole_has_few() -> None:
    assert plan_chunks(10_000, [Extent(0, 10_000, 0)]) is None
    assert plan_chunks(4097, [Extent(0, 10, 0)]) is not None
    large = plan_chunks(2**40, [Extent(0, 1, 0)])
    assert large is not None
    assert large.map_bytes + (large.blocks << BLOCK_BITS) < 10_000_000


def test_checksum_is_that_of_the_specification() -> None:
    # RFC 3720, B.4 has the inverted values.
    assert crc32c(bytes(32)) ^ 0xFFFF_FFFF == 0x8A91_36AA
    assert crc32c(bytes(range(32))) ^ 0xFFFF_FFFF == 0x46DD_794E


@pytest.mark.parametrize(
    ("change", "links", "size", "compact"),
    [
        ({}, 65_535, 2**32 - 1, True),
        ({"uid": 65_535, "gid": 65_535}, 1, 0, True),
        ({}, 65_536, 0, False),
        ({}, 1, 2**32, False),
        ({"uid": 65_536}, 1, 0, False),
        ({"gid": 65_536}, 1, 0, False),
        ({"mtime_ns": 1}, 1, 0, False),
    ],
)
def test_short_inodes_are_used_only_where_nothing_is_lost(
    change: dict[str, Any], links: int, size: int, compact: bool
) -> None:
    node = FlatNode(0, IMPLIED_DIRECTORY._replace(**change), None)
    node.links = links
    assert is_compact(node, size, 0) is compact
    encoded = encode_inode(node, form_of(PLAIN, compact=compact), 0, size, 0)
    assert len(encoded) == (32 if compact else 64)


def test_all_short_inodes_have_the_time_that_most_files_have() -> None:
    nodes = [FlatNode(0, IMPLIED_DIRECTORY._replace(mtime_ns=time), None) for time in (-5, -5, -5, 9, 9, 7, 7, 8)]
    assert usual_time_ns(nodes) == 7
    assert usual_time_ns(nodes[:3]) == 0
