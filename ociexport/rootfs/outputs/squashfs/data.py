"""Writes the data of all files: blocks, and fragments, which are blocks of many small files' content.

Files that are smaller than a block go into fragments, whole. What a larger file has after its last full block is a
block of its own. mksquashfs does the same. Files of equal content share what is stored.

Blocks are compressed in threads. They are written in the order of the files, so the number of threads does not matter.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from ociexport.errors import LimitExceededError, counted
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode
from ociexport.rootfs.outputs.squashfs.compression import Compression
from ociexport.rootfs.outputs.squashfs.content import (
    BLOCK_BYTES,
    SpooledBlock,
    blocks_of,
    checksum_of,
    count_blocks,
    have_same_content,
    is_zeros,
)
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.file_ranges import write_whole
from ociexport.system.threads import starting_threads

# The blocks of all files, missing ones included: an image of a few kilobytes can declare any number of them, and each
# takes four bytes of the inode table. This many are 8 TiB.
MAX_BLOCKS = 1 << 26
NO_FRAGMENT = 0xFFFFFFFF
_IS_STORED = 1 << 24
_FRAGMENT = struct.Struct("<QII")
_WORD = struct.Struct("<I")
# Enough work for a thread that passing it on does not matter.
_JOB_BYTES = 256 * 1024


class StoredBlocks:
    """Where a file of at least one block is stored.

    Attributes:
        start: of the first block in the image; None until it is written.
        words: for each block its size as stored, with a flag; or the number of missing blocks, which are all zeros.
        missing_bytes: how much of the file is in missing blocks.
    """

    __slots__ = ("missing_bytes", "start", "words")

    def __init__(self) -> None:
        self.start: int | None = None
        self.words: list[bytearray | int] = []
        self.missing_bytes = 0

    def add(self, word: int) -> None:
        """Add a block that is stored."""
        if not self.words or isinstance(last := self.words[-1], int):
            self.words.append(last := bytearray())
        last += _WORD.pack(word)

    def add_missing(self, size: int) -> None:
        """Add blocks that are not stored, of ``size`` bytes together."""
        count = count_blocks(size)
        if self.words and isinstance(last := self.words[-1], int):
            self.words[-1] = last + count
        else:
            self.words.append(count)
        self.missing_bytes += size


class StoredData(NamedTuple):
    """Where all data is.

    Args:
        blocks: of files of at least one block, by their nodes' numbers.
        fragments: the fragment of each smaller file, by its node's number; `NO_FRAGMENT` for all other nodes.
        offsets: in the fragment, by the node's number.
        fragment_table: start and size of each fragment.
        end: of the data, in the image.
    """

    blocks: dict[int, StoredBlocks]
    fragments: array[int]
    offsets: array[int]
    fragment_table: bytearray
    end: int


# A file and one of its blocks, or the size of missing ones; without a file, a fragment.
_Unit: TypeAlias = "tuple[StoredBlocks | None, SpooledBlock | bytes | int]"
# What is stored of a unit, the word that describes it, and its size.
_PackedUnit: TypeAlias = tuple[bytes, int, int]
_MISSING = 0


def write_data(image: FlatImage, fd: int, position: int, compression: Compression, threads: int) -> StoredData:
    """Write the data of all files at ``position``, compressed in up to ``threads`` threads.

    Raises:
        LimitExceededError: the files have too many blocks.
    """
    blocks = sum(count_blocks(node.entry.size) for node in image.nodes if node.extents is not None)
    if blocks > MAX_BLOCKS:
        raise LimitExceededError(
            f"files: squashfs: expected at most {counted(MAX_BLOCKS, 'block')} of {BLOCK_BYTES} bytes in all, "
            f"holes included, got {blocks}"
        )
    with ThreadPoolExecutor(max(1, threads), "squashfs") as pool:
        writer = _DataWriter(image, fd, position, compression, pool=pool, max_jobs=max(1, threads) + 2)
        for node in image.nodes:
            if node.extents is not None and node.entry.size:
                writer.add_file(node)
        return writer.finish()


class _DataWriter:
    def __init__(
        self,
        image: FlatImage,
        fd: int,
        position: int,
        compression: Compression,
        *,
        pool: ThreadPoolExecutor,
        max_jobs: int,
    ) -> None:
        self._image = image
        self._fd = fd
        self._position = position
        self._compression = compression
        self._pool = pool
        self._max_jobs = max_jobs
        # The next job, its size, and the jobs whose results are not written yet.
        self._units: list[_Unit] = []
        self._unit_bytes = 0
        self._jobs: deque[tuple[list[_Unit], Future[list[_PackedUnit]]]] = deque()
        # The next fragment.
        self._fragment: list[bytes] = []
        self._fragment_bytes = 0
        self._fragment_number = 0
        self._fragment_table = bytearray()
        count = len(image.nodes)
        self._fragments = array("I", (NO_FRAGMENT,)) * count
        self._offsets = array("I", (0,)) * count
        self._blocks: dict[int, StoredBlocks] = {}
        # Only files that are not alone in their size are compared.
        self._sizes = Counter(node.entry.size for node in image.nodes if node.extents is not None)
        self._seen: dict[int, FlatNode] = {}

    def add_file(self, node: FlatNode) -> None:
        """Store a file, or refer to an earlier one of the same content."""
        if node.entry.size < BLOCK_BYTES:
            self._add_small(node)
        else:
            self._add_large(node)

    def finish(self) -> StoredData:
        """Write what waits."""
        self._end_fragment()
        self._submit()
        while self._jobs:
            self._write_oldest()
        return StoredData(self._blocks, self._fragments, self._offsets, self._fragment_table, self._position)

    def _add_small(self, node: FlatNode) -> None:
        size = node.entry.size
        content = self._image.read(node, 0, size)
        if self._sizes[size] > 1:
            twin = self._seen.setdefault(_key(size, zlib.crc32(content)), node)
            if twin is not node and self._image.read(twin, 0, size) == content:
                self._fragments[node.number] = self._fragments[twin.number]
                self._offsets[node.number] = self._offsets[twin.number]
                return
        if self._fragment_bytes + size > BLOCK_BYTES:
            self._end_fragment()
        self._fragments[node.number] = self._fragment_number
        self._offsets[node.number] = self._fragment_bytes
        self._fragment.append(content)
        self._fragment_bytes += size

    def _end_fragment(self) -> None:
        if self._fragment:
            self._add_unit(None, b"".join(self._fragment), self._fragment_bytes)
            self._fragment = []
            self._fragment_bytes = 0
            self._fragment_number += 1

    def _add_large(self, node: FlatNode) -> None:
        size = node.entry.size
        if self._sizes[size] > 1:
            twin = self._seen.setdefault(_key(size, checksum_of(self._image, node)), node)
            if twin is not node and have_same_content(self._image, twin, node):
                self._blocks[node.number] = self._blocks[twin.number]
                return
        stored = self._blocks[node.number] = StoredBlocks()
        for block in blocks_of(node.extents or (), size):
            self._add_unit(stored, block, 0 if isinstance(block, int) else block.size)

    def _add_unit(self, owner: StoredBlocks | None, unit: SpooledBlock | bytes | int, size: int) -> None:
        self._units.append((owner, unit))
        self._unit_bytes += size
        if self._unit_bytes >= _JOB_BYTES:
            self._submit()

    def _submit(self) -> None:
        if len(self._jobs) >= self._max_jobs:
            self._write_oldest()
        with starting_threads():
            job = self._pool.submit(_packed_units, self._units, self._image.spool_fd, self._compression)
        self._jobs.append((self._units, job))
        self._units, self._unit_bytes = [], 0

    def _write_oldest(self) -> None:
        units, job = self._jobs.popleft()
        begin, parts = self._position, []
        for (owner, _), (data, word, size) in zip(units, job.result(), strict=True):
            if owner is None:
                self._fragment_table += _FRAGMENT.pack(self._position, word, 0)
            else:
                if owner.start is None:
                    owner.start = self._position
                if word == _MISSING:
                    owner.add_missing(size)
                else:
                    owner.add(word)
            parts.append(data)
            self._position += len(data)
        write_whole(self._fd, b"".join(parts), begin)


def _key(size: int, checksum: int) -> int:
    """Return both numbers in one, which takes a third of the memory of a pair."""
    return size << 32 | checksum


def _packed_units(units: list[_Unit], spool_fd: int, compression: Compression) -> list[_PackedUnit]:
    packed: list[_PackedUnit] = []
    for owner, unit in units:
        if isinstance(unit, int):
            packed.append((b"", _MISSING, unit))
            continue
        content = unit if isinstance(unit, bytes) else unit.read(spool_fd)
        if owner is not None and is_zeros(content):
            packed.append((b"", _MISSING, len(content)))
            continue
        data, is_compressed = compression.pack(content)
        packed.append((data, len(data) if is_compressed else len(data) | _IS_STORED, len(content)))
    return packed
