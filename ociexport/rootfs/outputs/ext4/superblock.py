"""The superblock, the descriptors of groups and the bitmaps.

Spec: Linux Documentation/filesystems/ext4/super.rst, group_descr.rst, bitmaps.rst.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from ociexport.rootfs.outputs.ext4.checksums import ALL_ONES, crc32c, crc32c_of_rows
from ociexport.rootfs.outputs.ext4.hashes import HALF_MD4
from ociexport.rootfs.outputs.ext4.inodes import EXTRA_BYTES, FIRST_INODE, JOURNAL_INODE
from ociexport.rootfs.outputs.ext4.layout import (
    BLOCK_BYTES,
    BLOCKS_PER_GROUP,
    INODE_BYTES,
    LOG_GROUPS_PER_FLEX,
    Geometry,
)
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass

SUPERBLOCK_BYTES = 1024
# Before it in the first block; a copy begins its block.
SUPERBLOCK_OFFSET = 1024
_MAGIC = 0xEF53
# Features, by what a system does that does not know one: mounts all the same, does not mount, mounts read-only.
_HAS_JOURNAL, _EXT_ATTR, _RESIZE_INODE, _DIR_INDEX = 0x4, 0x8, 0x10, 0x20
_INCOMPATIBLE = 0x2 | 0x40 | 0x200  # filetype, extents, flex_bg
# sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
_READ_ONLY_COMPATIBLE = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400
_REVISION = 1
_LOG_BLOCK_SIZE = 2  # of 1,024 bytes
_CLEAN = 1
_CONTINUE_AFTER_ERRORS = 1
_NEVER_BY_MOUNTS = 0xFFFF
_MOUNT_WITH_XATTRS_AND_ACLS = 0x4 | 0x8
_HASHES_ARE_UNSIGNED = 0x2
_JOURNAL_BACKUP = 1
_CRC32C = 1
_INODES_UNINITIALISED, _TABLE_ZEROED = 0x1, 0x4
_GROUPS_AT_ONCE = 256
# Places of both bitmaps and the table; free blocks, free inodes, directories, flags; none; checksums of both bitmaps,
# inodes never used, checksum.
_DESCRIPTOR = struct.Struct("<3I4HI4H")


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes file systems different from each other; derived from the image, so that it is always the same.

    Args:
        uuid: 16 bytes.
        hash_seed: for the hashes of names, 16 bytes.
        seed: the CRC of the UUID, which all checksums but the superblock's begin from.
    """

    uuid: bytes
    hash_seed: bytes
    seed: int

    @classmethod
    def of(cls, config: Digest) -> Identity:
        """Return the identity for the image with this config; the UUID is of version 8 (RFC 9562)."""
        random = hashlib.sha256(f"ext4 {config}".encode()).digest()
        uuid = bytearray(random[:16])
        uuid[6] = uuid[6] & 0x0F | 0x80
        uuid[8] = uuid[8] & 0x3F | 0x80
        return cls(bytes(uuid), random[16:], crc32c(uuid))


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in use.

    Args:
        position: all data blocks below it.
        inodes: so many, the first ones.
        directories: how many are in each group, by its number; none in groups that are missing at the end.
        journal: the journal's places and size, as in its inode; None without a journal.
    """

    position: int
    inodes: int
    directories: Sequence[int]
    journal: tuple[bytes, int] | None


class GroupMetadata:
    """The bitmaps and descriptors of all groups.

    Attributes:
        bitmaps: those that are not all zeros, by their places. Groups without inodes in use are marked as such, and
            have no bitmap of inodes.
        descriptors: of all groups.
        free_blocks: in all.
    """

    def __init__(self, geometry: Geometry, usage: Usage, seed: int) -> None:
        self._geometry = geometry
        self._usage = usage
        self._seed = seed
        self.bitmaps: list[tuple[int, bytes]] = []
        self.free_blocks = 0
        descriptors = bytearray()
        for first in range(0, geometry.groups, _GROUPS_AT_ONCE):
            count = min(_GROUPS_AT_ONCE, geometry.groups - first)
            bitmaps = self._block_bitmaps(first, count)
            crcs = crc32c_of_rows(bitmaps, BLOCK_BYTES, seed.to_bytes(4, "little") * count)
            for index in range(count):
                bitmap = bytes(bitmaps[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES])
                descriptors += self._descriptor(first + index, bitmap, crcs[4 * index : 4 * index + 2])
        self.descriptors = bytes(descriptors)

    def _block_bitmaps(self, first: int, count: int) -> bytearray:
        geometry = self._geometry
        begin, end = first * BLOCKS_PER_GROUP, (first + count) * BLOCKS_PER_GROUP
        bitmaps = bytearray(count * BLOCK_BYTES)
        used = [*geometry.used_runs, (geometry.blocks, end)]  # there are no blocks after the last
        used += [(start, min(stop, self._usage.position)) for start, stop in geometry.free_runs]
        for start, stop in used:
            _set_bits(bitmaps, max(start, begin) - begin, min(stop, end) - begin)
        return bitmaps

    def _descriptor(self, group: int, block_bitmap: bytes, block_crc: bytes) -> bytes:
        geometry, usage = self._geometry, self._usage
        free_blocks = BLOCKS_PER_GROUP - int.from_bytes(block_bitmap, "little").bit_count()
        self.free_blocks += free_blocks
        if free_blocks < BLOCKS_PER_GROUP:
            self.bitmaps.append((geometry.block_bitmaps[group], block_bitmap))
        inodes = geometry.inodes_per_group
        used_inodes = min(max(0, usage.inodes - group * inodes), inodes)
        inode_crc = 0
        if used_inodes:
            inode_bitmap = bytearray(b"\xff" * BLOCK_BYTES)
            inode_bitmap[: inodes // 8] = ((1 << used_inodes) - 1).to_bytes(inodes // 8, "little")
            self.bitmaps.append((geometry.inode_bitmaps[group], bytes(inode_bitmap)))
            inode_crc = crc32c(inode_bitmap[: inodes // 8], self._seed) & 0xFFFF
        fields = (
            geometry.block_bitmaps[group],
            geometry.inode_bitmaps[group],
            geometry.tables[group],
            free_blocks,
            inodes - used_inodes,
            usage.directories[group] if group < len(usage.directories) else 0,
            _TABLE_ZEROED if used_inodes else _TABLE_ZEROED | _INODES_UNINITIALISED,
            0,
            int.from_bytes(block_crc, "little"),
            inode_crc,
            inodes - used_inodes,
        )
        crc = crc32c(group.to_bytes(4, "little") + _DESCRIPTOR.pack(*fields, 0), self._seed)
        return _DESCRIPTOR.pack(*fields, crc & 0xFFFF)


def superblock(geometry: Geometry, usage: Usage, identity: Identity, free_blocks: int, group: int) -> bytes:
    """Return the superblock as it stands in ``group``; all times in it are 0."""
    compatible = _EXT_ATTR | _DIR_INDEX
    if geometry.reserved_blocks:
        compatible |= _RESIZE_INODE
    if usage.journal is not None:
        compatible |= _HAS_JOURNAL
    inodes = geometry.inodes_per_group * geometry.groups
    block = bytearray(SUPERBLOCK_BYTES)
    for offset, form, *values in (
        (0x00, "5I", inodes, geometry.blocks, 0, free_blocks, inodes - usage.inodes),
        (0x14, "3I", 0, _LOG_BLOCK_SIZE, _LOG_BLOCK_SIZE),
        (0x20, "3I", BLOCKS_PER_GROUP, BLOCKS_PER_GROUP, geometry.inodes_per_group),
        (0x34, "5H", 0, _NEVER_BY_MOUNTS, _MAGIC, _CLEAN, _CONTINUE_AFTER_ERRORS),
        (0x4C, "I", _REVISION),
        (0x54, "IHH", FIRST_INODE, INODE_BYTES, group),
        (0x5C, "3I", compatible, _INCOMPATIBLE, _READ_ONLY_COMPATIBLE),
        (0x68, "16s", identity.uuid),
        (0xCE, "H", geometry.reserved_blocks),
        (0xEC, "16sB", identity.hash_seed, HALF_MD4),
        (0x100, "I", _MOUNT_WITH_XATTRS_AND_ACLS),
        (0x15C, "2HI", EXTRA_BYTES, EXTRA_BYTES, _HASHES_ARE_UNSIGNED),
        (0x174, "2B", LOG_GROUPS_PER_FLEX, _CRC32C),
    ):
        struct.pack_into(f"<{form}", block, offset, *values)
    if usage.journal is not None:
        places, size = usage.journal
        struct.pack_into("<I", block, 0xE0, JOURNAL_INODE)
        struct.pack_into("<B", block, 0xFD, _JOURNAL_BACKUP)
        struct.pack_into("<60sII", block, 0x10C, places, size >> 32, size & 0xFFFFFFFF)
    struct.pack_into("<I", block, 0x3FC, crc32c(block[:0x3FC], ALL_ONES))
    return bytes(block)


def _set_bits(bitmap: bytearray, begin: int, end: int) -> None:
    if begin >= end:
        return
    first, last = begin >> 3, end - 1 >> 3
    head, tail = 0xFF << (begin & 7) & 0xFF, 0xFF >> (7 - (end - 1 & 7))
    if first == last:
        bitmap[first] |= head & tail
        return
    bitmap[first] |= head
    bitmap[last] |= tail
    bitmap[first + 1 : last] = b"\xff" * (last - first - 1)
