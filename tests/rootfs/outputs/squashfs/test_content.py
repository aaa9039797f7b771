"""A file's blocks in a squashfs: what has data, what is missing, and which files are equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ociexport.rootfs.outputs.flat_image import Extent
from ociexport.rootfs.outputs.squashfs.content import (
    BLOCK_BYTES,
    SpooledBlock,
    blocks_of,
    checksum_of,
    have_same_content,
    is_zeros,
)
from tests.rootfs.outputs.test_flat_image import paths_of
from tests.support.disk_images import flattened
from tests.support.memory_source import MemorySource, member, tar_of
from tests.support.sparse_members import sparse_member

# Holes and data in turn, most of them near the bounds of blocks.
SIZES = st.one_of(st.integers(1, 5), st.integers(BLOCK_BYTES - 2, BLOCK_BYTES + 2), st.integers(1, 5 * BLOCK_BYTES))


@given(st.lists(st.tuples(st.booleans(), SIZES), min_size=1, max_size=8))
def test_blocks_are_the_file(runs: list[tuple[bool, int]]) -> None:
    extents, offset, spool_offset = [], 0, 7
    for has_data, size in runs:
        if has_data:
            extents.append(Extent(offset, size, spool_offset))
            spool_offset += size
        offset += size
    at, covered = 0, []
    for block in blocks_of(extents, offset):
        assert at % BLOCK_BYTES == 0
        if isinstance(block, int):
            assert block % BLOCK_BYTES == 0 or at + block == offset
            at += block
            continue
        assert block.size == min(BLOCK_BYTES, offset - at)
        assert all(part.offset >= 0 and part.offset + part.size <= block.size for part in block.parts)
        covered += [Extent(at + part.offset, part.size, part.spool_offset) for part in block.parts]
        assert isinstance(block, SpooledBlock)
        assert block.parts
        at += block.size
    assert at == offset
    assert _joined(covered) == _joined(extents)


def _joined(extents: list[Extent]) -> list[Extent]:
    joined: list[Extent] = []
    for extent in extents:
        last = joined[-1] if joined else None
        if last is not None and (last.offset + last.size, last.spool_offset + last.size) == (
            extent.offset,
            extent.spool_offset,
        ):
            joined[-1] = Extent(last.offset, last.size + extent.size, last.spool_offset)
        else:
            joined.append(extent)
    return joined


def test_only_zeros_are_zeros() -> None:
    assert [is_zeros(block) for block in (bytes(BLOCK_BYTES), bytes(5), bytes(4) + b"x", b"x" + bytes(4))] == [
        True, True, False, False,
    ]  # fmt: skip


def test_equal_files_are_found_wherever_they_have_holes() -> None:
    size = 3 * BLOCK_BYTES + 1
    content = b"data" + bytes(2 * BLOCK_BYTES) + b"more" + bytes(BLOCK_BYTES - 7)
    assert len(content) == size
    members = [
        member("plain", content),
        sparse_member("sparse", size, {0: b"data", 2 * BLOCK_BYTES + 4: b"more"}),
        sparse_member("later", size, {0: b"data", 2 * BLOCK_BYTES + 5: b"more"}),
        sparse_member("next block", size, {0: b"data", BLOCK_BYTES + 4: b"more"}),
        sparse_member("hole", size, {}),
        member("zeros", bytes(size)),
    ]
    with flattened(MemorySource([tar_of(members)])) as image:
        found = paths_of(image)
        equal = {
            (one, other)
            for one in found
            for other in found
            if one != b"." != other and one < other and have_same_content(image, found[one], found[other])
        }
        by_checksum = {
            (one, other)
            for one in found
            for other in found
            if one != b"." != other
            and one < other
            and checksum_of(image, found[one]) == checksum_of(image, found[other])
        }
    assert equal == by_checksum == {(b"plain", b"sparse"), (b"hole", b"zeros")}
