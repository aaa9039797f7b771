"""The content of directories in EROFS: blocks of entries, the names behind them, all in the order of the names.

Spec: Linux Documentation/filesystems/erofs.rst, "Directories"; fs/erofs/erofs_fs.h, `struct erofs_dirent`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from operator import itemgetter

from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.erofs.superblock import BLOCK_BYTES
from ociexport.rootfs.outputs.flat_image import FlatNode

_DIRENT = struct.Struct("<QHBx")
_FILE_TYPES = {
    EntryType.FILE: 1,
    EntryType.DIRECTORY: 2,
    EntryType.CHARACTER_DEVICE: 3,
    EntryType.BLOCK_DEVICE: 4,
    EntryType.FIFO: 5,
    EntryType.SYMLINK: 7,
}
_Names = list[tuple[bytes, FlatNode]]


def directory_bytes(node: FlatNode) -> int:
    """Return the size of a directory: all its blocks but the last are full."""
    blocks = used = 0
    for blocks, (_, used) in enumerate(_blocks(node)):  # noqa: B007 - the last ones are used
        pass
    return blocks * BLOCK_BYTES + used


def directory_blocks(node: FlatNode, nid_of: Callable[[int], int]) -> Iterator[bytes]:
    """Yield the blocks of a directory, each but the last one of full size.

    Args:
        nid_of: returns the number in the image of a node, by its `FlatNode.number`.
    """
    waiting: bytes | None = None
    for names, _ in _blocks(node):
        if waiting is not None:
            yield waiting.ljust(BLOCK_BYTES, b"\0")
        name_offset = _DIRENT.size * len(names)
        entries = []
        for name, child in names:
            entries.append(_DIRENT.pack(nid_of(child.number), name_offset, _FILE_TYPES[child.entry.type]))
            name_offset += len(name)
        waiting = b"".join([*entries, *(name for name, _ in names)])
    if waiting is not None:
        yield waiting


def _blocks(node: FlatNode) -> Iterator[tuple[_Names, int]]:
    """Yield the names in each block, and the bytes that they take."""
    names = [(b".", node), (b"..", node.parent), *(node.children or ())]
    names.sort(key=itemgetter(0))  # the kernel searches for the two first as for all others
    begin = used = 0
    for position, (name, _) in enumerate(names):
        taken = _DIRENT.size + len(name)
        if used + taken > BLOCK_BYTES:
            yield names[begin:position], used
            begin, used = position, 0
        used += taken
    yield names[begin:], used
