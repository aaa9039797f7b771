"""The data of large files that was written to its place in the image first: what later layers hid is removed.

If that was little, zeros remain where it was. If it was more, the data of the remaining files moves together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import itemgetter

from ociexport.rootfs.disk.linux import free_range
from ociexport.rootfs.outputs.erofs.superblock import BLOCK_BITS, BLOCK_BYTES
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode, PlacedExtent
from ociexport.system.file_ranges import copy_range, write_whole

# Zeros may take this part of the placed data.
_MAX_ZEROS_PART = 20
_BUFFER_BYTES = 1024 * 1024


def settle_placed_data(image: FlatImage, fd: int) -> int:
    """Keep the placed data of the files that remain, and return the first block after it; all that follows is zeros.

    Places depend on the layers only, not on how their data arrived.

    Args:
        fd: the image file; without effect if it is not the one that ``image`` has data in.
    """
    if image.image_fd != fd:
        return 1
    placed = sorted(
        [(one.spool_offset, node) for node in image.nodes if (one := node.placed) is not None], key=itemgetter(0)
    )
    gaps: list[tuple[int, int]] = []
    end = BLOCK_BYTES
    for offset, node in placed:
        if offset > end:
            gaps.append((end, offset - end))
        end = offset + _block_bytes(node)
    os.ftruncate(fd, end)
    if sum(size for _, size in gaps) * _MAX_ZEROS_PART > end:
        end = _move_together(fd, placed)
        os.ftruncate(fd, end)
    else:
        for offset, size in gaps:
            clear_range(fd, offset, size)
    return end >> BLOCK_BITS


def clear_range(fd: int, offset: int, size: int) -> None:
    """Make a range of a file zeros; file systems that can free its blocks do so."""
    if free_range(fd, offset, size):
        return
    zeros = memoryview(bytes(min(size, _BUFFER_BYTES)))
    for position in range(offset, offset + size, _BUFFER_BYTES):
        write_whole(fd, zeros[: offset + size - position], position)


def _move_together(fd: int, placed: Sequence[tuple[int, FlatNode]]) -> int:
    """Move data to the beginning, in its order, and return its end; what is before the first gap stays."""
    end = BLOCK_BYTES
    for offset, node in placed:
        size = _block_bytes(node)
        if offset > end:
            copy_range(fd, offset, fd, end, size)
            node.extents = (PlacedExtent(0, node.entry.size, end),)
        end += size
    return end


def _block_bytes(node: FlatNode) -> int:
    return node.entry.size + -node.entry.size % BLOCK_BYTES
