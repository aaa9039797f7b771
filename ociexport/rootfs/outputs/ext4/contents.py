"""Copies the data of files from the spool into their blocks.

Most files are small and follow each other, in the spool as in the file system. They are collected in memory, so that
a read and a write serve hundreds of them. Large data is copied by the kernel, in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ociexport.rootfs.outputs.ext4.extents import Piece
from ociexport.rootfs.outputs.ext4.layout import BLOCK_BYTES
from ociexport.rootfs.outputs.flat_image import Extent
from ociexport.rootfs.outputs.spool_copies import Copies
from ociexport.system.file_ranges import write_whole

_BUFFER_BYTES = 512 * 1024
# Data from this size on is copied by the kernel.
_LARGE_BYTES = 128 * 1024


class ContentWriter:
    """Writes data to growing offsets; between them, the file is zeros already.

    Args:
        spool_fd: has the data.
        fd: the disk image.
        copies: makes large copies.
    """

    def __init__(self, spool_fd: int, fd: int, copies: Copies) -> None:
        self._spool_fd = spool_fd
        self._fd = fd
        self._copies = copies
        self._waiting = bytearray()
        self._end = 0  # of what waits, in the disk image
        self._window = memoryview(b"")
        self._window_offset = 0  # in the spool

    def write(self, extents: Sequence[Extent], pieces: Sequence[Piece]) -> None:
        """Write a file's data.

        Args:
            extents: the data in the spool.
            pieces: the blocks it has.
        """
        if len(extents) == len(pieces) == 1:  # nearly all files
            offset, size, spool_offset = extents[0]
            self._copy(spool_offset, pieces[0].block * BLOCK_BYTES + offset % BLOCK_BYTES, size)
            return
        following = iter(pieces)
        begin = end = place = 0
        for offset, size, spool_offset in extents:
            position, stop = offset, offset + size
            while position < stop:
                while position >= end:
                    logical, block, count = next(following)
                    begin, end, place = logical * BLOCK_BYTES, (logical + count) * BLOCK_BYTES, block * BLOCK_BYTES
                length = min(stop, end) - position
                self._copy(spool_offset + position - offset, place + position - begin, length)
                position += length

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            write_whole(self._fd, self._waiting, self._end - len(self._waiting))
            self._waiting = bytearray()

    def _copy(self, spool_offset: int, offset: int, size: int) -> None:
        if size >= _LARGE_BYTES:
            self._copies.add(spool_offset, offset, size)
            return
        gap = offset - self._end
        if not 0 <= gap < BLOCK_BYTES or len(self._waiting) + gap + size > _BUFFER_BYTES:
            self.flush()
        if self._waiting:
            self._waiting += bytes(gap)
        begin = spool_offset - self._window_offset
        if begin < 0 or begin + size > len(self._window):
            self._window = memoryview(os.pread(self._spool_fd, _BUFFER_BYTES, spool_offset))
            self._window_offset, begin = spool_offset, 0
        data = self._window[begin : begin + size]
        if len(data) < size:
            raise AssertionError("the spool is shorter than its extents")
        self._waiting += data
        self._end = offset + size
