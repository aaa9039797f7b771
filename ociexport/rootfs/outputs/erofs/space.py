"""Gives places to inodes: nothing that has to be in one block crosses into the next."""

from __future__ import annotations

from ociexport.rootfs.outputs.erofs.superblock import BLOCK_BYTES

SLOT_BYTES = 32
_SLOTS_IN_BLOCK = BLOCK_BYTES // SLOT_BYTES
# Blocks with room left that later inodes may fill. With more of them, neighbours in a directory would be far apart.
_MAX_OPEN_BLOCKS = 64


class MetadataSpace:
    """The area of inodes, filled from its start.

    Attributes:
        blocks: how many the area has.
        end: of the last place, in bytes.
    """

    def __init__(self) -> None:
        self.blocks = self.end = 0
        # By free slots, the blocks that have so many; bit N of the mask is set if there are blocks with N.
        self._open: list[list[int]] = [[] for _ in range(_SLOTS_IN_BLOCK + 1)]
        self._mask = 0
        self._open_count = 0

    def place(self, size: int) -> int:
        """Return the offset for ``size`` bytes, at a slot's begin.

        What fits in one block is put into one. Anything larger begins with a block.
        """
        offset = self._find(-(-size // SLOT_BYTES))
        self.end = max(self.end, offset + size)
        return offset

    def _find(self, slots: int) -> int:
        wanted = self._mask >> slots
        if slots > _SLOTS_IN_BLOCK or not wanted:
            block = self.blocks
            count, used = divmod(slots, _SLOTS_IN_BLOCK)
            self.blocks += count + (used > 0)
            if used:
                self._keep(block + count, _SLOTS_IN_BLOCK - used)
            return block * BLOCK_BYTES
        free = slots + (wanted & -wanted).bit_length() - 1
        block = self._take(free)
        self._keep(block, free - slots)
        return block * BLOCK_BYTES + (_SLOTS_IN_BLOCK - free) * SLOT_BYTES

    def _keep(self, block: int, free: int) -> None:
        if not free:
            return
        self._open[free].append(block)
        self._mask |= 1 << free
        self._open_count += 1
        if self._open_count > _MAX_OPEN_BLOCKS:
            self._take((self._mask & -self._mask).bit_length() - 1)

    def _take(self, free: int) -> int:
        blocks = self._open[free]
        block = blocks.pop(0)
        if not blocks:
            self._mask &= ~(1 << free)
        self._open_count -= 1
        return block
