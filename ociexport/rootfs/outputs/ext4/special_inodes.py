"""Files of an ext4 file system that have no names: the journal, and the inode that keeps room for growth.

Spec: Linux Documentation/filesystems/ext4/journal.rst, special_inodes.rst; resize inode: e2fsprogs lib/ext2fs/res_gdt.c
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ociexport.rootfs.outputs.ext4.extents import allocate, extent_tree
from ociexport.rootfs.outputs.ext4.inodes import (
    JOURNAL_INODE,
    inode_numbered,
    inode_seed,
)
from ociexport.rootfs.outputs.ext4.layout import BLOCK_BYTES, BLOCKS_PER_GROUP, Allocator, Geometry

_FILE_MODE = 0o100600
_PLACES = BLOCK_BYTES // 4  # places of blocks in an indirect block
_DIRECT_BLOCKS = 12
_JOURNAL_MAGIC, _JOURNAL_SUPERBLOCK = 0xC03B3998, 4


class SpecialFile:
    """An inode and the blocks it has.

    Args:
        inode: without its checksum.
        blocks: content by place; what is missing is zeros.
    """

    def __init__(self, inode: bytes, blocks: Sequence[tuple[int, bytes]]) -> None:
        self.inode = inode
        self.blocks = blocks


def journal_file(count: int, allocator: Allocator, seed: int) -> tuple[SpecialFile, bytes, int]:
    """Return an empty journal of ``count`` blocks, and its places and size as the superblock repeats them."""
    pieces = allocate([(0, count)], allocator)
    places, tree = extent_tree(pieces, allocator, inode_seed(JOURNAL_INODE, seed))
    content = struct.pack(
        ">12I16sI",
        _JOURNAL_MAGIC, _JOURNAL_SUPERBLOCK, 0,  # no transaction's number
        BLOCK_BYTES, count, 1,  # the first block of the log
        1, 0,  # the number that the first transaction will have; nothing to replay
        0, 0, 0, 0,  # no error, no features
        b"", 1,  # one file system uses it
    )  # fmt: skip
    size = count * BLOCK_BYTES
    inode = inode_numbered(_FILE_MODE, 1, size, count + len(tree), places)
    return SpecialFile(inode, [*tree, (pieces[0].block, content)]), places, size


def resize_file(geometry: Geometry, allocator: Allocator) -> SpecialFile:
    """Return the inode whose blocks are those reserved for more descriptors of groups.

    A block of places names each reserved block in the first group, which in turn names its copies in other groups.
    """
    ((top, _),) = allocator.take(1)
    places = [0] * _PLACES
    blocks = []
    for index in range(geometry.reserved_blocks):
        number = geometry.descriptor_blocks + index
        block = 1 + number
        places[number % _PLACES] = block
        copies = [block + group * BLOCKS_PER_GROUP for group in geometry.backups[1:]]
        blocks.append((block, struct.pack(f"<{len(copies)}I", *copies)))
    blocks.append((top, struct.pack(f"<{_PLACES}I", *places)))
    size = (_PLACES * _PLACES + _PLACES + _DIRECT_BLOCKS) * BLOCK_BYTES
    used = 1 + geometry.reserved_blocks * len(geometry.backups)
    doubly_indirect = bytes(4 * (_DIRECT_BLOCKS + 1)) + top.to_bytes(4, "little")
    inode = inode_numbered(_FILE_MODE, 1, size, used, doubly_indirect, flags=0)
    return SpecialFile(inode, blocks)
