"""Extent trees: which blocks of the file system have a file's data.

Spec: Linux Documentation/filesystems/ext4/ifork.rst, "Extent Tree".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from ociexport.rootfs.outputs.ext4.checksums import crc32c
from ociexport.rootfs.outputs.ext4.layout import BLOCK_BYTES, Allocator
from ociexport.rootfs.outputs.flat_image import Extent
from ociexport.spec.named_tuple import NamedTuple

_MAGIC = 0xF30A
_HEADER = struct.Struct("<HHHHI")  # magic, entries, most entries, depth, generation
_LEAF = struct.Struct("<IHHI")  # block in the file, length, upper and lower half of the place
_INDEX = struct.Struct("<IIHxx")  # block in the file, lower and upper half of the place
_ROOT_BYTES = 60
_ROOT_ENTRIES = 4
_BLOCK_ENTRIES = (BLOCK_BYTES - _HEADER.size) // _LEAF.size
_CHECKED_BYTES = _HEADER.size + _BLOCK_ENTRIES * _LEAF.size
# A longer one would mean blocks without data.
_MAX_BLOCKS = 32_768

NO_EXTENTS = _HEADER.pack(_MAGIC, 0, _ROOT_ENTRIES, 0, 0).ljust(_ROOT_BYTES, b"\0")


class Piece(NamedTuple):
    """Blocks of a file that stand together in the file system.

    Args:
        logical: the first, counted in the file.
        block: the first, counted in the file system.
        length: how many.
    """

    logical: int
    block: int
    length: int


def block_runs(extents: Sequence[Extent]) -> list[tuple[int, int]]:
    """Return the blocks of a file that have data: (first, number); the others are holes."""
    runs: list[tuple[int, int]] = []
    for offset, size, _ in extents:
        begin = offset // BLOCK_BYTES
        end = (offset + size + BLOCK_BYTES - 1) // BLOCK_BYTES
        if runs:
            last, count = runs[-1]
            if begin <= last + count:
                runs[-1] = (last, end - last)
                continue
        runs.append((begin, end - begin))
    return runs


def most_tree_blocks(runs: Iterable[tuple[int, int]]) -> int:
    """Return how many blocks the extent tree takes if nothing interrupts the runs."""
    level = sum([-(-count // _MAX_BLOCKS) for _, count in runs])
    blocks = 0
    while level > _ROOT_ENTRIES:
        level = -(-level // _BLOCK_ENTRIES)
        blocks += level
    return blocks


def allocate(runs: Iterable[tuple[int, int]], allocator: Allocator) -> list[Piece]:
    """Take blocks for a file's runs."""
    pieces: list[Piece] = []
    for first, count in runs:
        logical = first
        for block, size in allocator.take(count):
            if size <= _MAX_BLOCKS:
                pieces.append(Piece(logical, block, size))
                logical += size
                continue
            for begin in range(0, size, _MAX_BLOCKS):
                pieces.append(Piece(logical + begin, block + begin, min(_MAX_BLOCKS, size - begin)))
            logical += size
    return pieces


def extent_root(pieces: Sequence[Piece]) -> bytes:
    """Return the root, which is in the inode, for at most four pieces."""
    return _node(_leaves(pieces), _ROOT_ENTRIES, 0).ljust(_ROOT_BYTES, b"\0")


def extent_tree(pieces: Sequence[Piece], allocator: Allocator, seed: int) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the root, and the other blocks of the tree by their places.

    Args:
        pieces: in the order of the file.
        allocator: gives the places.
        seed: the CRC of the inode's number and generation.
    """
    level = [(piece.logical, entry) for piece, entry in zip(pieces, _leaves(pieces), strict=True)]
    depth = 0
    blocks: list[tuple[int, bytes]] = []
    while len(level) > _ROOT_ENTRIES:
        above = []
        for begin in range(0, len(level), _BLOCK_ENTRIES):
            part = level[begin : begin + _BLOCK_ENTRIES]
            content = _node([entry for _, entry in part], _BLOCK_ENTRIES, depth).ljust(_CHECKED_BYTES, b"\0")
            ((place, _),) = allocator.take(1)
            blocks.append((place, content + crc32c(content, seed).to_bytes(4, "little")))
            above.append((part[0][0], _INDEX.pack(part[0][0], place, 0)))
        level, depth = above, depth + 1
    return _node([entry for _, entry in level], _ROOT_ENTRIES, depth).ljust(_ROOT_BYTES, b"\0"), blocks


def _leaves(pieces: Sequence[Piece]) -> list[bytes]:
    return [_LEAF.pack(piece.logical, piece.length, 0, piece.block) for piece in pieces]


def _node(entries: list[bytes], most: int, depth: int) -> bytes:
    return _HEADER.pack(_MAGIC, len(entries), most, depth, 0) + b"".join(entries)
