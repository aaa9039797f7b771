"""Writes an image's root filesystem as an ext4 file system: no root, no mount, no other program.

It has what mke2fs makes by default, but for block numbers of 64 bits, which only more than 16 TiB needs: 4 KiB blocks,
extents, 256-byte inodes, a journal, checksums of all metadata, indexes of large directories, and room to grow. It has
no lost+found, which e2fsck makes when it needs it: the tree is the image's. Everything in it derives from the image, so
that it is always the same.

The steps:

1. Count the blocks that the files need, and choose the smallest file system that has them and the free space.
2. Write directories, attributes, targets of links, data and the journal, in that order, from the first free block on.
3. Write the inodes, in the order of the image's nodes; then bitmaps, descriptors and superblocks.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ociexport.errors import UsageError
from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.ext4.census import Census
from ociexport.rootfs.outputs.ext4.contents import ContentWriter
from ociexport.rootfs.outputs.ext4.directories import dots, entries_block, with_checksums
from ociexport.rootfs.outputs.ext4.extents import (
    Piece,
    allocate,
    block_runs,
    extent_root,
    extent_tree,
)
from ociexport.rootfs.outputs.ext4.inodes import (
    EXTENTS_FLAG,
    FIRST_INODE,
    INDEX_FLAG,
    JOURNAL_INODE,
    MAX_INNER_TARGET_BYTES,
    RESIZE_INODE,
    ROOT_INODE,
    file_inode,
    inode_numbered,
    inode_seed,
    inode_seeds,
    places_without_blocks,
    set_inode_checksums,
)
from ociexport.rootfs.outputs.ext4.layout import BLOCK_BYTES, BLOCKS_PER_GROUP, INODE_BYTES, Allocator, geometry_for
from ociexport.rootfs.outputs.ext4.special_inodes import (
    SpecialFile,
    journal_file,
    resize_file,
)
from ociexport.rootfs.outputs.ext4.superblock import SUPERBLOCK_OFFSET, GroupMetadata, Identity, Usage, superblock
from ociexport.rootfs.outputs.ext4.xattrs import stored_xattrs, xattr_block
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.outputs.kernel_xattrs import kernel_mode
from ociexport.rootfs.outputs.spool_copies import Copies, copying
from ociexport.system.file_ranges import write_whole

# Free space if none is asked for: so much, and at least this part of the data.
_LEAST_FREE_BYTES, _FREE_PART = 16 * 1024 * 1024, 20
# mke2fs makes an inode for so many bytes (here, of free space), and more of them in a small file system.
_BYTES_PER_INODE, _SMALL_BYTES_PER_INODE, _SMALL_INODES = 16_384, 4096, 32_768
_DIRECTORIES_AT_ONCE = 256
_INODES_AT_ONCE = 2048
_ONE_BLOCK = [(0, 1)]


def write_ext4(image: FlatImage, fd: int, options: DiskImageOptions) -> None:
    """Write ``image`` as an ext4 file system; see `DiskImageWriter`.

    Raises:
        InvalidImageError: a file has more than 65,000 names, is 16 TiB or larger, or has attributes that are larger
            than a block; or ``lost+found`` is not a directory, which e2fsck requires.
    """
    if options.compression not in (None, "none"):
        raise UsageError(f"ext4: expected no compression, which the format does not have, got {options.compression}")
    _Writer(image, fd, options).run()


class _Writer:
    def __init__(self, image: FlatImage, fd: int, options: DiskImageOptions) -> None:
        self._image = image
        self._fd = fd
        self._identity = Identity.of(image.config.digest)
        self._census = Census(image, self._identity)
        # One is the resize inode's; and e2fsck needs a block and an inode to make lost+found.
        needed = self._census.blocks + 2
        if options.free_bytes is None:
            free_blocks = max(_LEAST_FREE_BYTES // BLOCK_BYTES, needed // _FREE_PART)
        else:
            free_blocks = -(-options.free_bytes // BLOCK_BYTES)
        free_bytes = free_blocks * BLOCK_BYTES
        few_inodes = min(free_bytes // _SMALL_BYTES_PER_INODE, _SMALL_INODES)
        inodes = self._census.inodes + 1 + max(free_bytes // _BYTES_PER_INODE, few_inodes)
        self._geometry, self._journal_blocks = geometry_for(needed, free_blocks, inodes, options.journal)
        self._allocator = Allocator(self._geometry)
        self._special: dict[int, SpecialFile] = {}
        # By the numbers of nodes: the first block; how many, with those of the extent tree; the root of the tree, if
        # it is not one piece from the file's beginning.
        self._first_blocks = array("I", [0]) * len(image.nodes)
        self._block_counts = array("Q", [0]) * len(image.nodes)
        self._roots: dict[int, bytes] = {}
        self._xattr_blocks: dict[int, int] = {}
        self._directory_bytes: dict[int, int] = {}  # of those with an index

    def run(self) -> None:
        """Write everything."""
        os.ftruncate(self._fd, self._geometry.blocks * BLOCK_BYTES)
        if self._geometry.reserved_blocks:
            self._write_special(RESIZE_INODE, resize_file(self._geometry, self._allocator))
        self._write_directories()
        self._write_xattr_blocks()
        self._write_targets()
        with copying(self._image.spool_fd, self._fd) as copies:
            self._write_contents(copies)
            journal = None
            if self._journal_blocks:
                file, places, size = journal_file(self._journal_blocks, self._allocator, self._identity.seed)
                self._write_special(JOURNAL_INODE, file)
                journal = places, size
            self._write_inodes()
            self._write_groups(journal)

    def _write_blocks(self, pieces: Iterable[Piece], content: bytes | bytearray) -> None:
        view = memoryview(content)
        for logical, block, count in pieces:
            begin = logical * BLOCK_BYTES
            write_whole(self._fd, view[begin : begin + count * BLOCK_BYTES], block * BLOCK_BYTES)

    def _write_special(self, number: int, file: SpecialFile) -> None:
        for place, content in file.blocks:
            write_whole(self._fd, content, place * BLOCK_BYTES)
        self._special[number] = file

    def _place(self, node: FlatNode, pieces: Sequence[Piece]) -> None:
        """Remember where a file's data is, and write its extent tree."""
        number = node.number
        if len(pieces) == 1 and pieces[0].logical == 0:
            _, self._first_blocks[number], self._block_counts[number] = pieces[0]
            return
        self._block_counts[number] = sum([piece.length for piece in pieces])
        seed = inode_seed(self._census.inode_of(node), self._identity.seed)
        self._roots[number], tree = extent_tree(pieces, self._allocator, seed)
        self._block_counts[number] += len(tree)
        for place, content in tree:
            write_whole(self._fd, content, place * BLOCK_BYTES)

    def _write_directories(self) -> None:
        census = self._census
        large = census.large_directories
        small = (node for node in self._image.nodes if node.is_directory and node.number not in large)
        for batch in _batches(small, _DIRECTORIES_AT_ONCE):
            numbers = [census.inode_of(node) for node in batch]
            contents = [
                entries_block(dots(number, census.inode_of(node.parent)) + census.names_in(node))
                for number, node in zip(numbers, batch, strict=True)
            ]
            pieces = allocate([(0, len(batch))], self._allocator)
            self._write_blocks(pieces, with_checksums(contents, inode_seeds(numbers, self._identity.seed)))
            for logical, block, count in pieces:
                for index in range(count):
                    self._place(batch[logical + index], [Piece(0, block + index, 1)])
        while large:
            number, content = large.popitem()
            pieces = allocate([(0, len(content) // BLOCK_BYTES)], self._allocator)
            self._write_blocks(pieces, content)
            self._place(self._image.nodes[number], pieces)
            self._directory_bytes[number] = len(content)

    def _write_xattr_blocks(self) -> None:
        for number, xattrs in self._census.xattrs.items():
            if attributes := stored_xattrs(xattrs).in_block:
                ((place, _),) = self._allocator.take(1)
                write_whole(self._fd, xattr_block(attributes, place, self._identity.seed), place * BLOCK_BYTES)
                self._xattr_blocks[number] = place

    def _write_targets(self) -> None:
        for node in self._image.nodes:
            target = node.entry.link_name
            if node.entry.type is EntryType.SYMLINK and len(target) > MAX_INNER_TARGET_BYTES:
                pieces = allocate(_ONE_BLOCK, self._allocator)
                self._write_blocks(pieces, target)
                self._place(node, pieces)

    def _write_contents(self, copies: Copies) -> None:
        writer = ContentWriter(self._image.spool_fd, self._fd, copies)
        # In the order of the spool, which is then read once.
        for node in sorted([node for node in self._image.nodes if node.extents], key=_spool_offset):
            extents = node.extents or ()
            pieces = allocate(block_runs(extents), self._allocator)
            self._place(node, pieces)
            writer.write(extents, pieces)
        writer.flush()

    def _write_inodes(self) -> None:
        census, geometry = self._census, self._geometry
        for first in range(1, census.inodes + 1, _INODES_AT_ONCE):
            last = min(first + _INODES_AT_ONCE - 1, census.inodes)
            inodes = bytearray().join([self._inode(number) for number in range(first, last + 1)])
            set_inode_checksums(inodes, first, self._identity.seed)
            view = memoryview(inodes)
            position = first - 1
            while view:
                group, index = divmod(position, geometry.inodes_per_group)
                count = min(len(view) // INODE_BYTES, geometry.inodes_per_group - index)
                offset = geometry.tables[group] * BLOCK_BYTES + index * INODE_BYTES
                write_whole(self._fd, view[: count * INODE_BYTES], offset)
                view, position = view[count * INODE_BYTES :], position + count

    def _inode(self, number: int) -> bytes:
        if number in self._special:
            return self._special[number].inode
        if number < FIRST_INODE and number != ROOT_INODE:
            return inode_numbered(0, 0, 0, 0, b"", flags=0)
        node = self._census.node_of(number)
        entry = node.entry
        place = node.number
        blocks = self._block_counts[place]
        if not blocks:
            places, flags = places_without_blocks(entry)
        else:
            flags = EXTENTS_FLAG | INDEX_FLAG if place in self._directory_bytes else EXTENTS_FLAG
            places = self._roots.get(place) or extent_root([Piece(0, self._first_blocks[place], blocks)])
        xattrs = self._census.xattrs.get(place)
        xattr_place = self._xattr_blocks.get(place, 0)
        if node.is_directory:
            size = self._directory_bytes.get(place, BLOCK_BYTES)
        else:
            size = len(entry.link_name) if entry.type is EntryType.SYMLINK else entry.size
        return file_inode(
            entry if not entry.xattrs else entry._replace(mode=kernel_mode(entry)),
            links=node.links,
            size=size,
            blocks=blocks + (xattr_place != 0),
            places=places,
            flags=flags,
            xattr_block=xattr_place,
            xattrs=stored_xattrs(xattrs).in_inode if xattrs else b"",
        )

    def _write_groups(self, journal: tuple[bytes, int] | None) -> None:
        geometry = self._geometry
        directories = [0] * -(-self._census.inodes // geometry.inodes_per_group)
        for node in self._image.nodes:
            if node.is_directory:
                directories[(self._census.inode_of(node) - 1) // geometry.inodes_per_group] += 1
        usage = Usage(self._allocator.position, self._census.inodes, directories, journal)
        metadata = GroupMetadata(geometry, usage, self._identity.seed)
        for place, bitmap in metadata.bitmaps:
            write_whole(self._fd, bitmap, place * BLOCK_BYTES)
        for group in geometry.backups:
            begin = group * BLOCKS_PER_GROUP * BLOCK_BYTES
            block = superblock(geometry, usage, self._identity, metadata.free_blocks, group)
            write_whole(self._fd, metadata.descriptors, begin + BLOCK_BYTES)
            write_whole(self._fd, block, begin if group else SUPERBLOCK_OFFSET)


def _spool_offset(node: FlatNode) -> int:
    return node.extents[0].spool_offset if node.extents else 0


def _batches(nodes: Iterable[FlatNode], size: int) -> Iterator[list[FlatNode]]:
    iterator = iter(nodes)
    while batch := list(islice(iterator, size)):
        yield batch
