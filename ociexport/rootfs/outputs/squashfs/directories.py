"""The list of names in a directory, and the index that finds a name in a long one.

A list is made of runs. A run has a header, and names whose inodes lie in the same metadata block.

Spec: Linux Documentation/filesystems/squashfs.rst, "3.3 Directories".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.flat_image import FlatNode
from ociexport.rootfs.outputs.squashfs.metadata import METADATA_BYTES
from ociexport.spec.named_tuple import NamedTuple

# The number of each type; its extended form has a number that is larger by 7.
TYPE_NUMBERS = {
    EntryType.DIRECTORY: 1,
    EntryType.FILE: 2,
    EntryType.SYMLINK: 3,
    EntryType.BLOCK_DEVICE: 4,
    EntryType.CHARACTER_DEVICE: 5,
    EntryType.FIFO: 6,
}
# Number of names minus 1, start of the inodes' block, and a number to which those of the inodes are relative.
_RUN = struct.Struct("<III")
# Offset in the inodes' block, number, type, and length of the name minus 1.
_NAME = struct.Struct("<HhHH")
_MAX_NAMES_IN_RUN = 256
# The inode counts them in 16 bits. Names after the last one are found too, by reading on from it.
_MAX_INDEXED = 0xFFFF


class IndexedName(NamedTuple):
    """An entry of a directory's index: a run that is the first in its metadata block.

    Args:
        offset: of the run, in the list.
        name: the first one of the run.
    """

    offset: int
    name: bytes


def inode_number(node: FlatNode) -> int:
    """Return the number of a node's inode; they begin at 1."""
    return node.number + 1


def list_names(
    children: Sequence[tuple[bytes, FlatNode]], references: Sequence[int], begin: int
) -> tuple[bytearray, list[IndexedName]]:
    """Return a directory's list, and its index.

    Args:
        children: sorted by name.
        references: to the inodes, by their nodes' numbers.
        begin: offset of the list in the table of directories, before compression.
    """
    listed = bytearray()
    index: list[IndexedName] = []
    indexed_block = begin // METADATA_BYTES
    run_at, count, run_block, run_number = 0, 0, -1, 0
    for name, node in children:
        reference, number = references[node.number], inode_number(node)
        block, offset = reference >> 16, reference & 0xFFFF
        own_block = (begin + len(listed)) // METADATA_BYTES
        begins_block = own_block != indexed_block and len(index) < _MAX_INDEXED
        if (
            begins_block
            or block != run_block
            or count == _MAX_NAMES_IN_RUN
            or not -0x8000 <= number - run_number <= 0x7FFF
        ):
            if count:
                _RUN.pack_into(listed, run_at, count - 1, run_block, run_number)
            run_at, count, run_block, run_number = len(listed), 0, block, number
            listed += bytes(_RUN.size)
            if begins_block:
                index.append(IndexedName(run_at, name))
                indexed_block = own_block
        listed += _NAME.pack(offset, number - run_number, TYPE_NUMBERS[node.entry.type], len(name) - 1)
        listed += name
        count += 1
    if count:
        _RUN.pack_into(listed, run_at, count - 1, run_block, run_number)
    return listed, index
