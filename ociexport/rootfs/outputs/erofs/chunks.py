"""Files with holes in EROFS: chunks of equal size, each somewhere in the image or nowhere.

Spec: Linux Documentation/filesystems/erofs.rst, "Chunk-based files".
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from ociexport.rootfs.outputs.erofs.superblock import BLOCK_BITS, BLOCK_BYTES, NO_BLOCK
from ociexport.rootfs.outputs.flat_image import Extent
from ociexport.spec.lazy_dataclass import dataclass

# The format has 5 bits for the size of chunks; all files are smaller than the largest chunk.
_MAX_CHUNK_BITS = BLOCK_BITS + 31
# A map is made in memory, and takes 4 bytes a chunk.
_MAX_CHUNKS = 4 * 1024 * 1024
CHUNK_BYTES_IN_MAP = 4


@dataclass(frozen=True, slots=True)
class Chunks:
    """How a file is divided.

    Args:
        bits: of the size of a chunk.
        count: of all chunks.
        blocks: of the chunks that contain data.
    """

    bits: int
    count: int
    blocks: int

    @property
    def map_bytes(self) -> int:
        """The size of the map."""
        return self.count * CHUNK_BYTES_IN_MAP


def plan_chunks(size: int, extents: Sequence[Extent]) -> Chunks | None:
    """Return the division that takes the least space; None if the file takes no more space as one piece."""
    if len(extents) == 1 and extents[0].size == size:
        return None
    best, best_cost = None, _blocks_of(size) * BLOCK_BYTES
    for bits in range(BLOCK_BITS, _MAX_CHUNK_BITS + 1):
        count = -(-size >> bits)
        if count > _MAX_CHUNKS:
            continue
        blocks = sum(_blocks_of(min(end << bits, size) - (begin << bits)) for begin, end in _runs(extents, bits))
        cost = blocks * BLOCK_BYTES + count * CHUNK_BYTES_IN_MAP
        if cost < best_cost:
            best, best_cost = Chunks(bits, count, blocks), cost
        if count <= 1 or blocks * BLOCK_BYTES >= best_cost:  # larger chunks take no fewer blocks
            break
    return best


def chunk_map(chunks: Chunks, extents: Sequence[Extent], first_block: int) -> array[int]:
    """Return the first block of each chunk, if the first with data begins at ``first_block``."""
    found = array("I", [NO_BLOCK]) * chunks.count
    block, blocks_in_chunk = first_block, 1 << chunks.bits - BLOCK_BITS
    for begin, end in _runs(extents, chunks.bits):
        for number in range(begin, end):
            found[number] = block
            block += blocks_in_chunk
    return found


def placed_extents(chunks: Chunks, extents: Sequence[Extent], first_block: int) -> Iterator[tuple[Extent, int]]:
    """Yield each extent, and the offset in the image at which its data belongs."""
    offset = first_block * BLOCK_BYTES
    runs = _runs(extents, chunks.bits)
    begin = end = 0  # of the run, in the file
    for extent in extents:
        while extent.offset >= end:
            offset += end - begin
            begin, end = (number << chunks.bits for number in next(runs))
        yield extent, offset + extent.offset - begin


def _runs(extents: Sequence[Extent], bits: int) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of each run of chunks that contain data."""
    begin = end = 0
    for extent in extents:
        first, after = extent.offset >> bits, (extent.offset + extent.size - 1 >> bits) + 1
        if first > end:
            if end > begin:
                yield begin, end
            begin = first
        end = max(end, after)
    if end > begin:
        yield begin, end


def _blocks_of(size: int) -> int:
    return -(-size // BLOCK_BYTES)
