"""Where everything is in the file system: groups, their metadata, and the blocks that are left for data.

The blocks are divided into groups. A superblock and the descriptors of all groups begin the first group; copies begin
group 1 and the groups whose numbers are powers of 3, 5 and 7. Bitmaps and inode tables of sixteen groups stand together
at the first of them. Blocks are given out in order, so what is in use is known by one number.

Spec: Linux Documentation/filesystems/ext4/overview.rst (blockgroup.rst, "Flexible Block Groups"), special_inodes.rst.
"""

from __future__ import annotations

from bisect import bisect_right

from ociexport.errors import UsageError, counted

BLOCK_BYTES = 4096
BLOCKS_PER_GROUP = 8 * BLOCK_BYTES  # one bitmap is one block
INODE_BYTES = 256
INODES_PER_BLOCK = BLOCK_BYTES // INODE_BYTES
_MAX_INODES_PER_GROUP = 8 * BLOCK_BYTES
_GROUPS_PER_FLEX = 16
LOG_GROUPS_PER_FLEX = 4
DESCRIPTOR_BYTES = 32
_DESCRIPTORS_PER_BLOCK = BLOCK_BYTES // DESCRIPTOR_BYTES
# Block numbers have 32 bits: the feature 64bit, which old boot loaders lack, is needed above 16 TiB only.
_MAX_BLOCKS = 2**32 - 1
# Descriptors can be added up to 1,024 times the size, as with mke2fs, and at least up to this many blocks (256 GiB).
_GROWTH, _LEAST_GROWN_BLOCKS = 1024, 2**26
# As many as one indirect block of the resize inode can name.
_MAX_RESERVED_BLOCKS = BLOCK_BYTES // 4
# mke2fs makes no group with less room than this.
_LEAST_DATA_BLOCKS = 50
# The kernel keeps 2 % of all blocks, but no more than this, for its own metadata (ext4_calculate_resv_clusters).
_MAX_KERNEL_RESERVE = 4096


class Geometry:
    """A file system of one size.

    Args:
        blocks: wanted; the last group gets some more if it would be too small.
        inodes: wanted.

    Attributes:
        blocks: in all.
        groups: in all.
        inodes_per_group: in each.
        descriptor_blocks: with the descriptors of all groups.
        reserved_blocks: for more descriptors, when the file system grows.
        backups: the groups with a superblock, the first one included.
        block_bitmaps: the block of each group's bitmap; ``inode_bitmaps`` and ``tables`` (first block) likewise.
        free_runs: what is left for data: (first block, end).
        data_blocks: how many these are.
        lacking_blocks: how many more its metadata needs; not 0 only with very many inodes.

    Raises:
        UsageError: this format can't have so many blocks.
    """

    def __init__(self, blocks: int, inodes: int) -> None:
        if blocks > _MAX_BLOCKS:
            raise UsageError(f"ext4: expected less than 16 TiB in all, got {counted(blocks * BLOCK_BYTES, 'byte')}")
        self.groups = max(_divided(blocks, BLOCKS_PER_GROUP), _divided(inodes, _MAX_INODES_PER_GROUP))
        self.inodes_per_group = _divided(_divided(inodes, self.groups), INODES_PER_BLOCK) * INODES_PER_BLOCK
        self.table_blocks = self.inodes_per_group // INODES_PER_BLOCK
        self.descriptor_blocks = _divided(self.groups, _DESCRIPTORS_PER_BLOCK)
        grown = min(max(blocks * _GROWTH, _LEAST_GROWN_BLOCKS), _MAX_BLOCKS)
        grown_blocks = _divided(_divided(grown, BLOCKS_PER_GROUP), _DESCRIPTORS_PER_BLOCK)
        self.reserved_blocks = max(0, min(grown_blocks - self.descriptor_blocks, _MAX_RESERVED_BLOCKS))
        self.backups = [group for group in range(self.groups) if has_superblock(group)]
        last = self.groups - 1
        least = _LEAST_DATA_BLOCKS + (self.head_blocks if has_superblock(last) else 0)
        if last % _GROUPS_PER_FLEX == 0:
            least += 2 + self.table_blocks
        self.blocks = max(blocks, last * BLOCKS_PER_GROUP + least)
        self.block_bitmaps: list[int] = []
        self.inode_bitmaps: list[int] = []
        self.tables: list[int] = []
        self.used_runs = [self.head_of(group) for group in self.backups]
        self.lacking_blocks = 0
        self._place()
        self.used_runs = _joined(self.used_runs)
        self.free_runs = list(_between(self.used_runs, self.blocks))
        self.data_blocks = sum(end - begin for begin, end in self.free_runs)

    @property
    def head_blocks(self) -> int:
        """How many blocks a superblock and what follows it take."""
        return 1 + self.descriptor_blocks + self.reserved_blocks

    @property
    def kernel_reserve(self) -> int:
        """How many free blocks the kernel does not count as available."""
        return min(self.blocks // 50, _MAX_KERNEL_RESERVE)

    def head_of(self, group: int) -> tuple[int, int]:
        """Return the blocks of a group's superblock and descriptors."""
        begin = group * BLOCKS_PER_GROUP
        return begin, begin + self.head_blocks

    def _place(self) -> None:
        heads = list(self.used_runs)
        for first in range(0, self.groups, _GROUPS_PER_FLEX):
            count = min(_GROUPS_PER_FLEX, self.groups - first)
            position = first * BLOCKS_PER_GROUP
            for places, size in (
                (self.block_bitmaps, 1),
                (self.inode_bitmaps, 1),
                (self.tables, self.table_blocks),
            ):
                for _ in range(count):
                    position = _fitting(heads, position, size)
                    places.append(position)
                    self.used_runs.append((position, position + size))
                    position += size
            self.lacking_blocks = max(self.lacking_blocks, position - self.blocks)


class Allocator:
    """Gives out the blocks of a file system in order.

    Attributes:
        position: the next block; all that are free below it are in use.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._runs = geometry.free_runs
        self._index = 0
        self.position, self._end = self._runs[0]

    def take(self, count: int) -> list[tuple[int, int]]:
        """Return ``count`` blocks as runs of (first block, number)."""
        first = self.position
        if first + count <= self._end:  # nearly always
            self.position += count
            return [(first, count)]
        taken = []
        while count:
            if self.position == self._end:
                self._index += 1
                self.position, self._end = self._runs[self._index]
            size = min(count, self._end - self.position)
            taken.append((self.position, size))
            self.position += size
            count -= size
        return taken


def geometry_for(needed_blocks: int, free_blocks: int, inodes: int, journal: bool) -> tuple[Geometry, int]:
    """Return the smallest file system for this much data, and how many blocks its journal has.

    Args:
        needed_blocks: for data, apart from the journal.
        free_blocks: that are to be available afterwards.
        inodes: in use and free.
        journal: whether it has one.
    """
    blocks = needed_blocks + free_blocks
    while True:
        geometry = Geometry(blocks, inodes)
        journal_blocks = default_journal_blocks(geometry.blocks) if journal else 0
        # Where metadata interrupts a file, its extent tree may need another block, or two.
        needed = needed_blocks + journal_blocks + 2 * len(geometry.free_runs)
        missing = needed + free_blocks + geometry.kernel_reserve - geometry.data_blocks
        missing = max(missing, geometry.lacking_blocks)
        if missing <= 0:
            return geometry, journal_blocks
        blocks = geometry.blocks + missing


# mke2fs's sizes: below so many blocks, the journal has so many.
_JOURNAL_SIZES = (
    (2_048, 0),
    (32_768, 1_024),
    (262_144, 4_096),
    (524_288, 8_192),
    (4_194_304, 16_384),
    (8_388_608, 32_768),
    (16_777_216, 65_536),
    (33_554_432, 131_072),
    (_MAX_BLOCKS + 1, 262_144),
)


def default_journal_blocks(blocks: int) -> int:
    """Return how many blocks mke2fs gives to the journal of a file system of so many; 0 for none."""
    return _JOURNAL_SIZES[bisect_right(_JOURNAL_SIZES, blocks, key=lambda row: row[0])][1]


def has_superblock(group: int) -> bool:
    """Whether a group begins with a superblock: 0, 1, and the powers of 3, 5 and 7."""
    if group <= 1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def _fitting(heads: list[tuple[int, int]], position: int, size: int) -> int:
    """Return the first place from ``position`` on where ``size`` blocks touch no head."""
    index = max(0, bisect_right(heads, position, key=lambda head: head[0]) - 1)
    for begin, end in heads[index:]:
        if position + size <= begin:
            break
        position = max(position, end)
    return position


def _joined(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(runs):
        if joined and joined[-1][1] == begin:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined


def _between(runs: list[tuple[int, int]], blocks: int) -> list[tuple[int, int]]:
    ends = [end for _, end in runs]
    begins = [begin for begin, _ in runs[1:]] + [blocks]
    return [(end, begin) for end, begin in zip(ends, begins, strict=True) if end < begin]


def _divided(number: int, by: int) -> int:
    return -(-number // by)
