"""Writing the content of files, with their holes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ociexport.layers.tar.reader import Entry
from ociexport.layers.tar.sparse import SparseSegments, located_parts

# The block size of nearly all file systems: a smaller hole would save nothing.
_HOLE_BYTES = 4096
_ZERO_BLOCK = bytes(_HOLE_BYTES)


def write_all(fd: int, chunk: memoryview) -> None:
    """Write the whole chunk; after a short write on a full disk, the next write raises the error."""
    written = os.write(fd, chunk)
    while written < len(chunk):
        written += os.write(fd, chunk[written:])


def write_segments(fd: int, entry: Entry, data: Iterator[memoryview]) -> None:
    """Write the data of a sparse file at the offsets of its segments; the rest become holes."""
    for offset, part in located_parts(entry.segments or SparseSegments(), data):
        os.lseek(fd, offset, os.SEEK_SET)
        write_all(fd, part)
    os.ftruncate(fd, entry.size)


def write_with_holes(fd: int, data: Iterator[memoryview]) -> None:
    """Write a file with a hole in place of each block of zeros."""
    offset = 0
    for chunk in data:
        content = bytes(chunk)
        runs = _runs_of_data(content, offset) if _ZERO_BLOCK in content else [(0, len(content))]
        for start, end in runs:
            os.lseek(fd, offset + start, os.SEEK_SET)
            write_all(fd, chunk[start:end])
        offset += len(content)
    os.ftruncate(fd, offset)


def _runs_of_data(content: bytes, offset: int) -> Iterator[tuple[int, int]]:
    """Yield start and end in ``content`` of each run of blocks that are not all zeros.

    Args:
        offset: of ``content`` in the file; blocks are aligned in the file.
    """
    run_start = None
    start = 0
    while start < len(content):
        end = min(start + _HOLE_BYTES - (offset + start) % _HOLE_BYTES, len(content))
        if content.count(0, start, end) == end - start:
            if run_start is not None:
                yield run_start, start
            run_start = None
        elif run_start is None:
            run_start = start
        start = end
    if run_start is not None:
        yield run_start, len(content)
