"""Ranges of open files: read, written and copied whole, at any offset."""

from __future__ import annotations

import os

# Data is copied in pieces of this size where the kernel can't do it.
_BUFFER_BYTES = 1024 * 1024


def copy_range(source_fd: int, source_offset: int, fd: int, offset: int, size: int) -> None:
    """Copy bytes between two files, or to a lower offset of the same one; file systems that can share blocks do so.

    Both ranges may overlap: the kernel refuses to copy these, and then they are copied from the beginning on.
    """
    while size:
        try:
            count = os.copy_file_range(source_fd, fd, size, source_offset, offset)
        except OSError:  # not on this kernel, file system or pair of files; a full disk raises again below
            break
        if not count:
            break
        source_offset, offset, size = source_offset + count, offset + count, size - count
    while size:
        chunk = read_whole(source_fd, min(size, _BUFFER_BYTES), source_offset)
        write_whole(fd, chunk, offset)
        source_offset, offset, size = source_offset + len(chunk), offset + len(chunk), size - len(chunk)


def write_whole(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``; after a short write on a full disk, the next write raises the error."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def read_whole(fd: int, size: int, offset: int) -> bytes:
    """Return ``size`` bytes from ``offset``, which the file has."""
    data = os.pread(fd, size, offset)
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            raise AssertionError("the file is shorter than the range")
        data += more
    return data
