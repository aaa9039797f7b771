"""Inodes of EROFS: short ones where nothing is lost, long ones for all others.

Spec: Linux Documentation/filesystems/erofs.rst, "Inode metadata space"; fs/erofs/erofs_fs.h,
`struct erofs_inode_compact` and `struct erofs_inode_extended`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable

from ociexport.layers.tar.reader import FILE_FORMATS
from ociexport.rootfs.outputs.flat_image import FlatNode
from ociexport.rootfs.outputs.kernel_xattrs import kernel_mode

# Layouts of data: blocks only, compressed, blocks with the end behind the inode, chunks.
PLAIN, COMPRESSED, INLINE, CHUNKED = 0, 1, 2, 4

_COMPACT = struct.Struct("<HHHHI4xIIHH4x")
_EXTENDED = struct.Struct("<HHH2xQIIIIqII16x")
COMPACT_BYTES, EXTENDED_BYTES = _COMPACT.size, _EXTENDED.size
_EXTENDED_BIT = 1
_MAX_COMPACT_SIZE = 2**32 - 1
_MAX_COMPACT_NUMBER = 2**16 - 1


def usual_time_ns(nodes: Iterable[FlatNode]) -> int:
    """Return the time of modification that most nodes have; the earliest of several such, and never before 1970.

    All compact inodes have the same time, that of the superblock.
    """
    counts = Counter(node.entry.mtime_ns for node in nodes if node.entry.mtime_ns >= 0)
    return min(counts.items(), key=lambda item: (-item[1], item[0]), default=(0, 0))[0]


def is_compact(node: FlatNode, size: int, time_ns: int) -> bool:
    """Whether a compact inode has room for all of a node's metadata."""
    entry = node.entry
    return (
        entry.mtime_ns == time_ns
        and entry.uid <= _MAX_COMPACT_NUMBER
        and entry.gid <= _MAX_COMPACT_NUMBER
        and node.links <= _MAX_COMPACT_NUMBER
        and size <= _MAX_COMPACT_SIZE
    )


def form_of(layout: int, *, compact: bool) -> int:
    """Return the first number of an inode, which tells its own form and that of its data."""
    return layout << 1 | (0 if compact else _EXTENDED_BIT)


def encode_inode(node: FlatNode, form: int, xattr_count: int, size: int, place: int) -> bytes:
    """Return the inode of a node.

    Args:
        form: from `form_of`.
        xattr_count: tells the size of the attributes behind it.
        size: of the file, directory or link.
        place: the first block, a device's number or the format of chunks.
    """
    entry = node.entry
    mode = FILE_FORMATS[entry.type] | (kernel_mode(entry) if entry.xattrs else entry.mode)
    number = node.number + 1  # what 32-bit programs see
    if not form & _EXTENDED_BIT:
        return _COMPACT.pack(form, xattr_count, mode, node.links, size, place, number, entry.uid, entry.gid)
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    return _EXTENDED.pack(
        form, xattr_count, mode, size, place, number, entry.uid, entry.gid, seconds, nanoseconds, node.links
    )
