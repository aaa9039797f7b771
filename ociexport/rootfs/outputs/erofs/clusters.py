"""Compressed files in EROFS: each is divided into extents, and each extent takes as many blocks as its compressed form.

A file smaller than an extent has no blocks of its own. All such files follow one another in one more file, which the
tree does not contain, so that they are compressed together.

Spec: Linux fs/erofs/erofs_fs.h, `struct z_erofs_map_header` and `struct z_erofs_lcluster_index`.
"""

from __future__ import annotations

import struct
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from ociexport.errors import InvalidImageError
from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.erofs.chunks import plan_chunks
from ociexport.rootfs.outputs.erofs.compression import EXTENT_BYTES, Algorithm
from ociexport.rootfs.outputs.erofs.superblock import BLOCK_BITS, BLOCK_BYTES, MAX_BLOCKS
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.system.file_ranges import write_whole
from ociexport.system.threads import starting_threads

# Compressed blocks are written in pieces of about this size.
_PIECE_BYTES = 1024 * 1024
_ALIGNMENT = 8
_HEADER = struct.Struct("<4xHBB")
_HEADER_BYTES = _HEADER.size + 8  # nothing stands in the second half
_BIG_CLUSTERS = 0x2
_PACKED = 1 << 63
_INDEX, _DISTANCES = struct.Struct("<HHI"), struct.Struct("<HHHH")
INDEX_BYTES = _INDEX.size
_PLAIN_TYPE, _HEAD_TYPE, _NONHEAD_TYPE = 0, 1, 2
_BLOCK_COUNT = 1 << 11


class CompressedFiles:
    """The data of files, compressed and written.

    Args:
        image: what is written.
        fd: the image file.
        first_block: where data may begin.
        algorithm: what compresses; its level is in ``options``.

    Attributes:
        end_block: the block after all data.
        packed_bytes: the size of the file that contains small ones.
        packed_number: its number, after those of all nodes.
    """

    def __init__(
        self, image: FlatImage, fd: int, first_block: int, algorithm: Algorithm, options: DiskImageOptions
    ) -> None:
        self.end_block = first_block
        self.packed_bytes = 0
        self.packed_number = len(image.nodes)
        self._image = image
        self._fd = fd
        self._algorithm = algorithm
        self._piece = bytearray()
        # Of each extent: its first block, and how many blocks it takes; 0 if it is stored as it is.
        self._blocks = array("I")
        self._counts = bytearray()
        # By number of the node: its first extent; or its place among small files.
        self._extents: dict[int, int] = {}
        self._packed: dict[int, int] = {}
        self._write_all(options)

    def has(self, number: int) -> bool:
        """Whether the data of a node is here."""
        return number in self._packed or number in self._extents

    def is_compressed(self, number: int, size: int) -> bool:
        """Whether the data of a file takes fewer blocks than before, or none."""
        first = self._extents.get(number)
        return first is None or any(self._counts[first : first + _extent_count(size)])

    def first_block(self, number: int) -> int:
        """Return the first block of a file that is not smaller than before; the others follow it."""
        return self._blocks[self._extents[number]]

    def block_count(self, number: int, size: int) -> int:
        """Return how many blocks the data of a file takes."""
        if number in self._packed:
            return 0
        first, last_blocks = self._extents[number], -(-(size % EXTENT_BYTES or EXTENT_BYTES) // BLOCK_BYTES)
        counts = self._counts[first : first + _extent_count(size)]
        plain = counts.count(0) * (EXTENT_BYTES // BLOCK_BYTES)
        if not counts[-1]:
            plain += last_blocks - EXTENT_BYTES // BLOCK_BYTES
        return sum(counts) + plain

    def map_bytes(self, number: int, size: int) -> int:
        """Return the size of what `map_of` yields."""
        if number in self._packed:
            return _HEADER.size
        return _HEADER_BYTES + INDEX_BYTES * (-(-size // BLOCK_BYTES) + 1)

    def map_of(self, number: int, size: int) -> Iterator[bytes]:
        """Yield what stands behind the inode of a file, aligned to 8 bytes, and tells where its data is."""
        if number in self._packed:
            yield struct.pack("<Q", self._packed[number] | _PACKED)
            return
        yield _HEADER.pack(_BIG_CLUSTERS, self._algorithm.number, 0).ljust(_HEADER_BYTES, b"\0")
        first = self._extents[number]
        for position in range(_extent_count(size)):
            clusters = -(-min(size - position * EXTENT_BYTES, EXTENT_BYTES) // BLOCK_BYTES)
            yield _indexes(clusters, self._blocks[first + position], self._counts[first + position])
        yield bytes(INDEX_BYTES)  # kernels look at what follows the last extent

    def _write_all(self, options: DiskImageOptions) -> None:
        level = self._algorithm.default_level if options.level is None else options.level
        compress = self._algorithm.compressor(level)
        waiting: deque[tuple[memoryview, Future[bytes]]] = deque()
        with ThreadPoolExecutor(options.threads, thread_name_prefix="compress") as threads, starting_threads():
            try:
                for extent in self._all_extents():
                    waiting.append((extent, threads.submit(compress, extent)))
                    if len(waiting) > 2 * options.threads:
                        self._store(*waiting.popleft())
                while waiting:
                    self._store(*waiting.popleft())
            finally:
                for _, future in waiting:
                    future.cancel()
        self._flush()

    def _all_extents(self) -> Iterator[memoryview]:
        """Yield the extents of large files, then those of all small files together."""
        small: list[FlatNode] = []
        extents = 0
        for node in self._image.nodes:
            size = node.entry.size
            if node.entry.type is not EntryType.FILE or not size or not node.extents:
                continue
            if size < EXTENT_BYTES:
                self._packed[node.number] = self.packed_bytes
                self.packed_bytes += size
                small.append(node)
            elif plan_chunks(size, node.extents) is None:
                self._extents[node.number] = extents
                extents += _extent_count(size)
                for chunk in self._image.chunks(node, EXTENT_BYTES):
                    yield memoryview(chunk)
        self._extents[self.packed_number] = extents
        packed = bytearray()
        for node in small:
            packed += self._image.read(node, 0, node.entry.size)
            if len(packed) >= EXTENT_BYTES:
                yield memoryview(bytes(packed[:EXTENT_BYTES]))
                del packed[:EXTENT_BYTES]
        if packed:
            yield memoryview(bytes(packed))

    def _store(self, extent: memoryview, future: Future[bytes]) -> None:
        """Write an extent: compressed data at the end of its blocks, after zeros, by which kernels find its begin."""
        compressed = future.result()
        count, plain_count = (-(-len(data) // BLOCK_BYTES) for data in (compressed, extent))
        self._blocks.append(self.end_block)
        if count < plain_count and compressed[0]:
            self._counts.append(count)
            self._piece += bytes(-len(compressed) % BLOCK_BYTES)
            self._piece += compressed
        else:
            count = plain_count
            self._counts.append(0)
            self._piece += extent
            self._piece += bytes(-len(extent) % BLOCK_BYTES)
        self.end_block += count
        if self.end_block > MAX_BLOCKS:
            raise InvalidImageError(f"data: expected at most {MAX_BLOCKS} blocks for EROFS, got more")
        if len(self._piece) >= _PIECE_BYTES:
            self._flush()

    def _flush(self) -> None:
        write_whole(self._fd, self._piece, (self.end_block << BLOCK_BITS) - len(self._piece))
        self._piece = bytearray()


def map_padding(behind: int) -> int:
    """Return how many bytes align a map that would begin after ``behind`` bytes from the begin of the inode."""
    return -behind % _ALIGNMENT


def _extent_count(size: int) -> int:
    return -(-size // EXTENT_BYTES)


def _indexes(clusters: int, block: int, count: int) -> bytes:
    """Return the index of an extent: an entry for each block of data, and in the first ones, where the data is."""
    if not count:
        return b"".join(_INDEX.pack(_PLAIN_TYPE, 0, block + position) for position in range(clusters))
    entries = [_INDEX.pack(_HEAD_TYPE, 0, block)]
    if clusters > 1:
        entries.append(_DISTANCES.pack(_NONHEAD_TYPE, 0, count | _BLOCK_COUNT, clusters - 1))
    entries += [_DISTANCES.pack(_NONHEAD_TYPE, 0, back, clusters - back) for back in range(2, clusters)]
    return b"".join(entries)
