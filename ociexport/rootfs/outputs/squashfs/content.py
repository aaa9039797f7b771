"""A file's content in blocks, of which those that are all zeros are not stored."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from ociexport.rootfs.outputs.flat_image import Extent, FlatImage, FlatNode
from ociexport.spec.named_tuple import NamedTuple

BLOCK_BYTES = 128 * 1024
_ZERO_BLOCK = bytes(BLOCK_BYTES)


class SpooledBlock(NamedTuple):
    """A block of a file with data in the spool.

    Args:
        size: in bytes; less than `BLOCK_BYTES` only at the file's end.
        parts: the data in it, by its offset in the block; the rest is zeros.
    """

    size: int
    parts: tuple[Extent, ...]

    def read(self, spool_fd: int) -> bytes:
        """Return the block's content."""
        first = self.parts[0]
        if first.size == self.size:
            return _pread(spool_fd, first)
        content = bytearray(self.size)
        for part in self.parts:
            content[part.offset : part.offset + part.size] = _pread(spool_fd, part)
        return bytes(content)


def _pread(fd: int, part: Extent) -> bytes:
    data = os.pread(fd, part.size, part.spool_offset)
    if len(data) != part.size:
        raise AssertionError("the spool is shorter than its extents")
    return data


def count_blocks(size: int) -> int:
    """Return the number of blocks that ``size`` bytes take."""
    return -(-size // BLOCK_BYTES)


def blocks_of(extents: Sequence[Extent], size: int) -> Iterator[SpooledBlock | int]:
    """Yield a file's blocks in order: those with data, and the number of bytes in the missing ones between them."""
    number, begin = 0, 0
    while begin < size:
        while number < len(extents) and extents[number].offset + extents[number].size <= begin:
            number += 1
        if number == len(extents):
            yield size - begin
            return
        missing = extents[number].offset - begin
        if missing >= BLOCK_BYTES:
            missing -= missing % BLOCK_BYTES
            yield missing
            begin += missing
            continue
        end = min(begin + BLOCK_BYTES, size)
        yield SpooledBlock(end - begin, tuple(_parts_within(extents, number, begin, end)))
        begin = end


def _parts_within(extents: Sequence[Extent], number: int, begin: int, end: int) -> Iterator[Extent]:
    while number < len(extents) and extents[number].offset < end:
        offset, size, spool_offset = extents[number]
        first, last = max(offset, begin), min(offset + size, end)
        yield Extent(first - begin, last - first, spool_offset + first - offset)
        number += 1


def is_zeros(block: bytes) -> bool:
    """Whether a block is all zeros."""
    return not block[0] and block == (_ZERO_BLOCK if len(block) == BLOCK_BYTES else bytes(len(block)))


def checksum_of(image: FlatImage, node: FlatNode) -> int:
    """Return a number that is equal for files of equal content, wherever they have holes, and seldom for others."""
    checksum = 0
    for number, content in _data_of(image, node):
        checksum = zlib.crc32(content, zlib.crc32(b"%d" % number, checksum))
    return checksum


def have_same_content(image: FlatImage, one: FlatNode, other: FlatNode) -> bool:
    """Whether two files have the same content, wherever they have holes."""
    if one.entry.size != other.entry.size:
        return False
    return all(ours == theirs for ours, theirs in zip_longest(_data_of(image, one), _data_of(image, other)))


def _data_of(image: FlatImage, node: FlatNode) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each block that is not all zeros."""
    number = 0
    for block in blocks_of(node.extents or (), node.entry.size):
        if isinstance(block, int):
            number += count_blocks(block)
            continue
        content = block.read(image.spool_fd)
        if not is_zeros(content):
            yield number, content
        number += 1
