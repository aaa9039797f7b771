"""Inodes: 256 bytes about each file.

Spec: Linux Documentation/filesystems/ext4/inodes.rst, special_inodes.rst.
"""

from __future__ import annotations

import struct

from ociexport.layers.tar.reader import DEVICE_TYPES, FILE_FORMATS, Entry, EntryType
from ociexport.rootfs.outputs.device_numbers import device_number
from ociexport.rootfs.outputs.ext4.checksums import crc32c, crc32c_of_rows
from ociexport.rootfs.outputs.ext4.extents import NO_EXTENTS
from ociexport.rootfs.outputs.ext4.layout import BLOCK_BYTES, INODE_BYTES

ROOT_INODE, RESIZE_INODE, JOURNAL_INODE = 2, 7, 8
FIRST_INODE = 11  # the ones before are reserved
EXTENTS_FLAG, INDEX_FLAG = 0x80000, 0x1000
# One more does not fit: i_links_count would be taken for that of a directory with very many directories.
MAX_LINKS = 65_000
# A directory with more links has this number, which means "many" (the feature dir_nlink).
_MANY_LINKS = 1
# A shorter target is in the inode itself.
MAX_INNER_TARGET_BYTES = 59
# Fields that the kernel and e2fsck expect beyond the first 128 bytes.
EXTRA_BYTES = 32
_SECTORS_PER_BLOCK = BLOCK_BYTES // 512

# mode, uid; size, atime, ctime, mtime, time of removal; gid, links; sectors, flags, version; places of the data;
# generation, block of attributes, upper half of the size, none; upper parts of sectors, block of attributes, uid and
# gid, lower part of the checksum, none; length of what follows, upper part of the checksum; the rest of ctime, mtime
# and atime, time of creation and its rest, upper part of the version, project; attributes.
_INODE = struct.Struct("<HH5IHH3I60s4I6HHH7I96s")

# 34 bits for seconds. Of the first and the last one, and of times beyond, the kernel keeps no nanoseconds
# (timestamp_truncate); so `unpack` to an ext4 disk gives the same.
_FIRST_SECOND, _LAST_SECOND = -(2**31), 2**34 - 2**31 - 1
_SECOND_NS = 1_000_000_000


def inode_numbered(
    mode: int,
    links: int,
    size: int,
    blocks: int,
    places: bytes,
    *,
    flags: int = EXTENTS_FLAG,
    owner: tuple[int, int] = (0, 0),
    mtime_ns: int = 0,
    xattr_block: int = 0,
    xattrs: bytes = b"",
) -> bytes:
    """Return an inode without its checksum.

    Args:
        mode: the kind of file included.
        blocks: with data, the extent tree and attributes.
        places: where the data is, at most 60 bytes.
        xattrs: those in the inode, at most 96 bytes.
    """
    uid, gid = owner
    time, rest = _time(mtime_ns)
    sectors = blocks * _SECTORS_PER_BLOCK
    return _INODE.pack(
        mode, uid & 0xFFFF,
        size & 0xFFFFFFFF, time, time, time, 0,
        gid & 0xFFFF, links,
        sectors & 0xFFFFFFFF, flags, 0,
        places,
        0, xattr_block, size >> 32, 0,
        sectors >> 32, 0, uid >> 16, gid >> 16, 0, 0,
        EXTRA_BYTES, 0,
        rest, rest, rest, time, rest, 0, 0,
        xattrs,
    )  # fmt: skip


def is_time_kept(mtime_ns: int) -> bool:
    """Whether a time can be stored as it is."""
    return _FIRST_SECOND < mtime_ns // _SECOND_NS < _LAST_SECOND


def _time(time_ns: int) -> tuple[int, int]:
    """Return a time as stored: the lower 32 bits of its seconds; its nanoseconds and the upper two bits."""
    seconds, nanoseconds = divmod(time_ns, _SECOND_NS)
    if not _FIRST_SECOND < seconds < _LAST_SECOND:
        seconds, nanoseconds = (_FIRST_SECOND if seconds < 0 else _LAST_SECOND), 0
    # The lower bits count as a signed number, to which the upper ones add multiples of 2**32.
    return seconds & 0xFFFFFFFF, nanoseconds << 2 | seconds + 2**31 >> 32


def file_inode(
    entry: Entry, *, links: int, size: int, blocks: int, places: bytes, flags: int, xattr_block: int, xattrs: bytes
) -> bytes:
    """Return the inode of a node of the image; see `inode_numbered`."""
    if entry.type is EntryType.DIRECTORY and links > MAX_LINKS:
        links = _MANY_LINKS
    return inode_numbered(
        FILE_FORMATS[entry.type] | entry.mode,
        links,
        size,
        blocks,
        places,
        flags=flags,
        owner=(entry.uid, entry.gid),
        mtime_ns=entry.mtime_ns,
        xattr_block=xattr_block,
        xattrs=xattrs,
    )


def places_without_blocks(entry: Entry) -> tuple[bytes, int]:
    """Return the 60 bytes and the flags of an inode that has no blocks with data."""
    if entry.type is EntryType.SYMLINK:
        return entry.link_name, 0
    if entry.type in DEVICE_TYPES:
        return _device(*entry.device), 0
    if entry.type is EntryType.FIFO:
        return b"", 0
    return NO_EXTENTS, EXTENTS_FLAG


def _device(major: int, minor: int) -> bytes:
    """Return the numbers of a device in the kernel's two forms, the old one where it suffices."""
    if major < 256 and minor < 256:
        return struct.pack("<II", major << 8 | minor, 0)
    return struct.pack("<II", 0, device_number((major, minor)))


def inode_seed(number: int, seed: int) -> int:
    """Return the CRC that all checksums of an inode and of its blocks begin from: its number and generation."""
    return crc32c(number.to_bytes(8, "little"), seed)


def inode_seeds(numbers: list[int], seed: int) -> bytes:
    """Return `inode_seed` of each number, four bytes each."""
    rows = struct.pack(f"<{len(numbers)}Q", *numbers)
    return crc32c_of_rows(rows, 8, seed.to_bytes(4, "little") * len(numbers))


def set_inode_checksums(inodes: bytearray, first: int, seed: int) -> None:
    """Set the checksums of inodes that stand together, the first of them numbered ``first``."""
    seeds = inode_seeds(list(range(first, first + len(inodes) // INODE_BYTES)), seed)
    crcs = crc32c_of_rows(inodes, INODE_BYTES, seeds)
    for place, byte in ((0x7C, 0), (0x7D, 1), (0x82, 2), (0x83, 3)):
        inodes[place::INODE_BYTES] = crcs[byte::4]
