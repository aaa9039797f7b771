"""Where everything goes in an EROFS image: data in blocks, inodes with what belongs behind each."""

from __future__ import annotations

from array import array

from ociexport.errors import InvalidImageError, quoted_path
from ociexport.layers.tar.reader import DEVICE_TYPES, IMPLIED_DIRECTORY, EntryType, verify_device
from ociexport.rootfs.outputs.device_numbers import device_number
from ociexport.rootfs.outputs.erofs.chunks import Chunks, plan_chunks
from ociexport.rootfs.outputs.erofs.clusters import CompressedFiles, map_padding
from ociexport.rootfs.outputs.erofs.directories import directory_bytes
from ociexport.rootfs.outputs.erofs.inodes import (
    CHUNKED,
    COMPACT_BYTES,
    COMPRESSED,
    EXTENDED_BYTES,
    INLINE,
    PLAIN,
    form_of,
    is_compact,
    usual_time_ns,
)
from ociexport.rootfs.outputs.erofs.space import SLOT_BYTES, MetadataSpace
from ociexport.rootfs.outputs.erofs.superblock import BLOCK_BITS, BLOCK_BYTES, MAX_BLOCKS, NO_BLOCK
from ociexport.rootfs.outputs.erofs.xattrs import XattrTable
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode

# All maps of files with holes together. No honest image has so many holes; a small hostile one could ask for terabytes.
_MAX_MAP_BYTES = 1024**3
_XATTR_HEADER_BYTES = 12


class Plan:
    """The places of all nodes, by `FlatNode.number`.

    Args:
        image: what is written.
        first_block: where data may begin.
        compressed: the data of files, if it is compressed.
        inline_files: whether the end of a file's data may stand behind its inode.
        has_holes: whether holes are kept; if not, they become zeros.

    Attributes:
        nodes: those of the image, and the file that contains small ones, if there is one.
        xattrs: the attributes of all nodes.
        time_ns: the time of modification of compact inodes.
        offsets: of inodes, in the area of inodes.
        layouts: of data.
        places: see `encode_inode`; for a file with chunks, the first block with its data.
        sizes: in bytes.
        compact: whether each inode is a short one.
        chunks: how files with holes are divided.
        data_blocks: the block after all data.

    Raises:
        InvalidImageError: the image has what the format can't store.
    """

    def __init__(
        self,
        image: FlatImage,
        first_block: int,
        *,
        compressed: CompressedFiles | None = None,
        inline_files: bool = True,
        has_holes: bool = True,
    ) -> None:
        self.nodes = [*image.nodes]
        if compressed is not None and compressed.packed_bytes:
            self.nodes.append(_packed_node(image, compressed))
        count = len(self.nodes)
        self.xattrs = XattrTable(image.nodes, image.losses)
        self.time_ns = usual_time_ns(image.nodes)
        self.offsets = array("Q", bytes(8 * count))
        self.layouts = bytearray(count)
        self.places = array("I", bytes(4 * count))
        self.sizes = array("Q", bytes(8 * count))
        self.compact = bytearray(count)
        self.chunks: dict[int, Chunks] = {}
        self.data_blocks = first_block
        self._compressed = compressed
        self._inline_files = inline_files
        self._has_holes = has_holes
        self._map_bytes = 0
        self._space = MetadataSpace()
        self._space.place(SLOT_BYTES)  # no inode has the number 0, which some programs take for none
        for node in self.nodes:
            try:
                self._add(node)
            except InvalidImageError as error:
                error.add_place(quoted_path(node.path))
                raise

    @property
    def metadata_blocks(self) -> int:
        """The size of the area of inodes."""
        # fsck.erofs 1.5 reads the header of attributes behind each inode, also of one without attributes.
        is_end_read = (
            not self.xattrs.shared and self._space.end + _XATTR_HEADER_BYTES > self._space.blocks * BLOCK_BYTES
        )
        return self._space.blocks + is_end_read

    def nid_of(self, number: int) -> int:
        """Return the number in the image of a node."""
        return self.offsets[number] // SLOT_BYTES

    def form_of(self, number: int) -> int:
        """Return the first number of the inode of a node."""
        return form_of(self.layouts[number], compact=bool(self.compact[number]))

    def tail_bytes(self, number: int) -> int:
        """Return the size of the data behind the inode of a node."""
        return self.sizes[number] % BLOCK_BYTES if self.layouts[number] == INLINE else 0

    def is_written(self, number: int) -> bool:
        """Whether the data of a node was written before."""
        if self._compressed is None:
            return self.nodes[number].placed is not None
        return self._compressed.has(number)

    def map_behind(self, number: int) -> bytes:
        """Return what stands behind the inode of a compressed file and its attributes."""
        if self._compressed is None:
            raise AssertionError("no file is compressed")
        before = self._inode_bytes(number) + len(self.xattrs.body_of(number))
        return bytes(map_padding(before)) + b"".join(self._compressed.map_of(number, self.sizes[number]))

    def _inode_bytes(self, number: int) -> int:
        return COMPACT_BYTES if self.compact[number] else EXTENDED_BYTES

    def _add(self, node: FlatNode) -> None:
        number, entry = node.number, node.entry
        size = 0
        if node.is_directory:
            size = directory_bytes(node)
        elif entry.type is EntryType.FILE:
            size = entry.size
        elif entry.type is EntryType.SYMLINK:
            size = len(entry.link_name)
        elif entry.type in DEVICE_TYPES:
            verify_device(entry)
            self.places[number] = device_number(entry.device)
        self.sizes[number] = size
        self.compact[number] = is_compact(node, size, self.time_ns)
        behind = self._inode_bytes(number) + len(self.xattrs.body_of(number))
        if entry.type is EntryType.FILE or size:
            behind += self._place_data(node, size, behind)
        self.offsets[number] = self._space.place(behind)

    def _place_data(self, node: FlatNode, size: int, behind: int) -> int:
        """Give a node's data its blocks, and return how many bytes of it stand behind the inode."""
        number, placed = node.number, node.placed
        if placed is not None:
            self.layouts[number], self.places[number] = PLAIN, placed.spool_offset >> BLOCK_BITS
            return 0
        if self._compressed is not None and self._compressed.has(number):
            return self._place_compressed(self._compressed, number, size, behind)
        chunks = plan_chunks(size, node.extents) if node.extents is not None and size and self._has_holes else None
        if chunks is not None:
            self._map_bytes += chunks.map_bytes
            if self._map_bytes > _MAX_MAP_BYTES:
                raise InvalidImageError(f"holes: expected maps of at most {_MAX_MAP_BYTES} bytes in all, got more")
            self.layouts[number], self.chunks[number] = CHUNKED, chunks
            self.places[number] = self._take_blocks(chunks.blocks)
            return chunks.map_bytes
        blocks, tail = size >> BLOCK_BITS, size % BLOCK_BYTES
        if behind + tail > BLOCK_BYTES or not (self._inline_files or node.extents is None):
            blocks, tail = blocks + (tail > 0), 0
        self.layouts[number] = INLINE if tail else PLAIN
        self.places[number] = self._take_blocks(blocks)
        return tail

    def _place_compressed(self, compressed: CompressedFiles, number: int, size: int, behind: int) -> int:
        if not compressed.is_compressed(number, size):
            self.layouts[number], self.places[number] = PLAIN, compressed.first_block(number)
            return 0
        self.layouts[number], self.places[number] = COMPRESSED, compressed.block_count(number, size)
        return map_padding(behind) + compressed.map_bytes(number, size)

    def _take_blocks(self, count: int) -> int:
        if not count:
            return NO_BLOCK
        first = self.data_blocks
        self.data_blocks += count
        if self.data_blocks > MAX_BLOCKS:
            raise InvalidImageError(f"data: expected at most {MAX_BLOCKS} blocks for EROFS, got more")
        return first


def _packed_node(image: FlatImage, compressed: CompressedFiles) -> FlatNode:
    entry = IMPLIED_DIRECTORY._replace(type=EntryType.FILE, mode=0, size=compressed.packed_bytes)
    node = FlatNode(compressed.packed_number, entry, image.root)
    node.extents = ()
    return node
