"""What a file system needs to hold an image: numbers for its files, blocks for their data. Nothing is written yet."""

from __future__ import annotations

from ociexport.errors import InvalidImageError, counted, quoted_path
from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.ext4.directories import TYPES, Name, fits_one_block, indexed_directory
from ociexport.rootfs.outputs.ext4.extents import block_runs, most_tree_blocks
from ociexport.rootfs.outputs.ext4.inodes import (
    FIRST_INODE,
    MAX_INNER_TARGET_BYTES,
    MAX_LINKS,
    ROOT_INODE,
    inode_seed,
    is_time_kept,
)
from ociexport.rootfs.outputs.ext4.layout import BLOCK_BYTES
from ociexport.rootfs.outputs.ext4.superblock import Identity
from ociexport.rootfs.outputs.ext4.xattrs import storable_xattrs, stored_xattrs
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode, naming

# Block numbers within a file have 32 bits, and the last one is reserved.
_MAX_FILE_BYTES = (2**32 - 1) * BLOCK_BYTES

# Where e2fsck puts files that have lost their names; it makes the directory when it needs it.
LOST_AND_FOUND = b"lost+found"


class Census:
    """The files of an image, counted.

    Attributes:
        inodes: in use, the reserved ones included; they are the first ones.
        blocks: for the data of all files, their extent trees and their attributes.
        xattrs: those that Linux accepts and that fit, by the numbers of their nodes.
        large_directories: the content of those that take more than one block, by the numbers of their nodes.

    Raises:
        InvalidImageError: ext4 can't hold one of the files.
    """

    def __init__(self, image: FlatImage, identity: Identity) -> None:
        self._image = image
        self._identity = identity
        own = dict(image.root.children or ()).get(LOST_AND_FOUND)
        if own is not None and not own.is_directory:
            raise InvalidImageError(
                "expected a directory, as e2fsck requires of every ext4 file system, got "
                f"{'an' if own.entry.type.value[0] in 'aeiou' else 'a'} {own.entry.type.value}",
                where=quoted_path(LOST_AND_FOUND),
            )
        # The root's number is reserved; the others follow the reserved ones.
        self._offset = FIRST_INODE - 1
        self.inodes = self._offset + len(image.nodes) - 1
        self.blocks = 0
        self.xattrs: dict[int, dict[bytes, bytes]] = {}
        self.large_directories: dict[int, bytearray] = {}
        for node in image.nodes:
            self._count(node)

    def inode_of(self, node: FlatNode) -> int:
        """Return the number of a node's inode."""
        return node.number + self._offset if node.number else ROOT_INODE

    def node_of(self, inode: int) -> FlatNode:
        """Return the node whose inode has this number, which is not a reserved one but the root's."""
        return self._image.nodes[0 if inode == ROOT_INODE else inode - self._offset]

    def names_in(self, node: FlatNode) -> list[Name]:
        """Return the names in a directory, without the two that each directory has."""
        return [(self.inode_of(child), name, TYPES[child.entry.type]) for name, child in node.children or ()]

    def _count(self, node: FlatNode) -> None:
        entry = node.entry
        self._image.losses.times += not is_time_kept(entry.mtime_ns)
        if node.is_directory:
            self.blocks += self._directory_blocks(node)
        elif node.extents is not None:
            if entry.size > _MAX_FILE_BYTES:
                with naming(node):
                    raise InvalidImageError(
                        f"size: expected at most {counted(_MAX_FILE_BYTES, 'byte')} in an ext4 file, got {entry.size}"
                    )
            if node.extents:
                runs = block_runs(node.extents)
                self.blocks += sum([count for _, count in runs]) + most_tree_blocks(runs)
        elif entry.type is EntryType.SYMLINK and len(entry.link_name) > MAX_INNER_TARGET_BYTES:
            self.blocks += 1
        if node.links > MAX_LINKS and not node.is_directory:
            with naming(node):
                raise InvalidImageError(f"hard links: expected at most {MAX_LINKS} names in ext4, got {node.links}")
        if entry.xattrs:
            with naming(node):
                kept = storable_xattrs(entry, self._image.losses)
            if kept:
                self.blocks += bool(stored_xattrs(kept).in_block)
                self.xattrs[node.number] = kept

    def _directory_blocks(self, node: FlatNode) -> int:
        if fits_one_block([name for name, _ in node.children or ()]):
            return 1
        number = self.inode_of(node)
        with naming(node):
            content = indexed_directory(
                number,
                self.inode_of(node.parent),
                self.names_in(node),
                self._identity.hash_seed,
                inode_seed(number, self._identity.seed).to_bytes(4, "little"),
            )
        self.large_directories[node.number] = content
        blocks = len(content) // BLOCK_BYTES
        return blocks + most_tree_blocks([(0, blocks)])
