"""Directories: blocks of entries, and an index by hash where one block is not enough.

Spec: Linux Documentation/filesystems/ext4/directory.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from ociexport.errors import InvalidImageError, counted
from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.ext4.checksums import crc32c, crc32c_of_rows
from ociexport.rootfs.outputs.ext4.hashes import HALF_MD4, half_md4_of
from ociexport.rootfs.outputs.ext4.layout import BLOCK_BYTES

_ENTRY = struct.Struct("<IHBB")  # inode, length of the entry, length of the name, type
_TAIL_BYTES = 12
ENTRIES_BYTES = BLOCK_BYTES - _TAIL_BYTES  # of a block
_TAIL = _ENTRY.pack(0, _TAIL_BYTES, 0, 0xDE)
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_DOTS_BYTES = 24
# Blocks whose checksums are computed together.
_ROWS = 256
DIRECTORY_TYPE = 2
TYPES = {
    EntryType.FILE: 1,
    EntryType.DIRECTORY: DIRECTORY_TYPE,
    EntryType.CHARACTER_DEVICE: 3,
    EntryType.BLOCK_DEVICE: 4,
    EntryType.FIFO: 5,
    EntryType.SYMLINK: 7,
}

_INDEX_ENTRY = struct.Struct("<II")  # hash, block in the directory
_COUNTS = struct.Struct("<HH")  # most entries, entries
# The root's entries follow the two names and 8 bytes about the index; those of a node follow an empty entry.
_ROOT_HEAD, _NODE_HEAD = 32, 8
_INDEX_TAIL_BYTES = 8
_MOST_IN_ROOT = (BLOCK_BYTES - _ROOT_HEAD - _INDEX_TAIL_BYTES) // _INDEX_ENTRY.size
_MOST_IN_NODE = (BLOCK_BYTES - _NODE_HEAD - _INDEX_TAIL_BYTES) // _INDEX_ENTRY.size


# A name in a directory: its inode's number, the name, its type as in entries. A plain tuple, since there are many.
Name: TypeAlias = tuple[int, bytes, int]


def fits_one_block(names: Iterable[bytes]) -> bool:
    """Whether the names, apart from the two that each directory has, fit one block."""
    return sum([len(name) + 11 & ~3 for name in names]) <= ENTRIES_BYTES - _DOTS_BYTES


def entries_block(names: Sequence[Name]) -> bytes:
    """Return a block's entries, without what follows the last name; the last entry reaches to the block's end."""
    parts: list[bytes] = []
    used = 0
    last = len(names) - 1
    for index, (inode, name, kind) in enumerate(names):
        length = len(name) + 11 & ~3
        parts += (
            _ENTRY.pack(inode, length if index != last else ENTRIES_BYTES - used, len(name), kind),
            name,
            _PADDING[len(name) & 3],
        )
        used += length
    return b"".join(parts)


def dots(inode: int, parent: int) -> list[Name]:
    """Return the two names that each directory has."""
    return [(inode, b".", DIRECTORY_TYPE), (parent, b"..", DIRECTORY_TYPE)]


def with_checksums(blocks: Sequence[bytes], seeds: bytes) -> bytearray:
    """Return whole blocks of entries.

    Args:
        blocks: their entries.
        seeds: the CRC of each directory's inode number and generation, four bytes each.
    """
    whole = bytearray(len(blocks) * BLOCK_BYTES)
    for index, block in enumerate(blocks):
        begin = index * BLOCK_BYTES
        whole[begin : begin + len(block)] = block
        whole[begin + ENTRIES_BYTES : begin + ENTRIES_BYTES + len(_TAIL)] = _TAIL
    # Most blocks are nearly empty; those of like size are computed together.
    order = sorted(range(len(blocks)), key=lambda index: len(blocks[index]))
    for begin in range(0, len(order), _ROWS):
        chosen = order[begin : begin + _ROWS]
        width = len(blocks[chosen[-1]])
        rows = b"".join([blocks[index].ljust(width, b"\0") for index in chosen])
        own_seeds = b"".join([seeds[4 * index : 4 * index + 4] for index in chosen])
        crcs = crc32c_of_rows(rows, width, own_seeds, zeros=ENTRIES_BYTES - width)
        for place, index in enumerate(chosen):
            end = (index + 1) * BLOCK_BYTES
            whole[end - 4 : end] = crcs[4 * place : 4 * place + 4]
    return whole


_ROWS = 256


def indexed_directory(inode: int, parent: int, names: Sequence[Name], hash_seed: bytes, seed: bytes) -> bytearray:
    """Return all blocks of a directory with an index.

    Args:
        inode: its number.
        parent: that of the directory it is in.
        names: in it, without the two that each has.
        hash_seed: of the file system.
        seed: the CRC of the directory's inode number and generation, four bytes.
    """
    hashes = half_md4_of([name for _, name, _ in names], hash_seed)
    leaves: list[bytes] = []
    keys: list[int] = []  # the least hash in each leaf
    waiting: list[Name] = []
    used, last_hash = 0, -1
    for index in sorted(range(len(names)), key=hashes.__getitem__):
        name, hash_ = names[index], hashes[index][0]
        length = len(name[1]) + 11 & ~3
        if used + length > ENTRIES_BYTES:
            leaves.append(entries_block(waiting))
            waiting, used = [], 0
        if not waiting:
            keys.append(hash_ | 1 if hash_ == last_hash else hash_)  # 1: the leaf before has names of this hash too
        waiting.append(name)
        used, last_hash = used + length, hash_
    leaves.append(entries_block(waiting))
    verify_leaves(len(leaves))
    head = entries_block(dots(inode, parent))
    head = head[:16] + (BLOCK_BYTES - 12).to_bytes(2, "little") + head[18:]
    if len(leaves) <= _MOST_IN_ROOT:
        entries = [(key, 1 + index) for index, key in enumerate(keys)]
        blocks = _index_block(head + _about_index(0), _MOST_IN_ROOT, entries, seed)
    else:
        nodes = range(0, len(leaves), _MOST_IN_NODE)
        blocks = _index_block(
            head + _about_index(1), _MOST_IN_ROOT, [(keys[first], 1 + index) for index, first in enumerate(nodes)], seed
        )
        empty = _ENTRY.pack(0, BLOCK_BYTES, 0, 0)
        for first in nodes:
            end = min(first + _MOST_IN_NODE, len(leaves))
            entries = [(keys[index], 1 + len(nodes) + index) for index in range(first, end)]
            blocks += _index_block(empty, _MOST_IN_NODE, entries, seed)
    for begin in range(0, len(leaves), _ROWS):
        part = leaves[begin : begin + _ROWS]
        blocks += with_checksums(part, seed * len(part))
    return blocks


def verify_leaves(count: int) -> None:
    """Return if an index of two levels has room for so many blocks of names; another level needs a feature, largedir.

    Raises:
        InvalidImageError: it has not.
    """
    most = _MOST_IN_ROOT * _MOST_IN_NODE
    if count > most:
        raise InvalidImageError(f"names: expected at most {counted(most, 'block')} in an ext4 directory, got {count}")


def _about_index(levels: int) -> bytes:
    return struct.pack("<IBBBB", 0, HALF_MD4, 8, levels, 0)


def _index_block(head: bytes, most: int, entries: Sequence[tuple[int, int]], seed: bytes) -> bytearray:
    block = bytearray(head)
    for hash_, place in entries:
        block += _INDEX_ENTRY.pack(hash_, place)
    # The first entry has no hash: it is for all below the second.
    _COUNTS.pack_into(block, len(head), most, len(entries))
    crc = crc32c(block + bytes(_INDEX_TAIL_BYTES), int.from_bytes(seed, "little"))
    block = block.ljust(BLOCK_BYTES, b"\0")
    block[-4:] = crc.to_bytes(4, "little")
    return block
