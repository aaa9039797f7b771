"""The inodes and the directories.

A directory's list refers to inodes by their place in the compressed table, and its inode refers to the list. So the
inodes of what is in a directory come first, then its list, then its own inode. Each inode has the short form if all of
it fits.

Spec: Linux Documentation/filesystems/squashfs.rst, "3.2 Inodes".
"""

from __future__ import annotations

import struct
from array import array

from ociexport.errors import InvalidImageError, counted, quoted_path
from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.device_numbers import device_number
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode
from ociexport.rootfs.outputs.kernel_xattrs import kernel_mode
from ociexport.rootfs.outputs.squashfs.compression import Compression
from ociexport.rootfs.outputs.squashfs.data import StoredBlocks, StoredData
from ociexport.rootfs.outputs.squashfs.directories import TYPE_NUMBERS, IndexedName, inode_number, list_names
from ociexport.rootfs.outputs.squashfs.metadata import METADATA_BYTES, MetadataStream
from ociexport.rootfs.outputs.squashfs.xattrs import NO_XATTRS, XattrTable

_EXTENDED = 7
_MAX_U16, _MAX_U32 = 0xFFFF, 0xFFFFFFFF
# Their number has 16 bits in the superblock.
MAX_IDS = _MAX_U16
# Readers expect a list's size to be larger by this: "." and ".." are not in it.
_UNLISTED_BYTES = 3
# Type, mode, numbers of the owner and the group in the table of ids, mtime in seconds, number of the inode.
_COMMON = struct.Struct("<HHHHII")
# Start of the list's block, links, size of the list, offset in the block, number of the directory above.
_DIRECTORY = struct.Struct("<IIHHI")
# Links, size of the list, start of its block, number of the directory above, entries in the index, offset, xattrs.
_EXTENDED_DIRECTORY = struct.Struct("<IIIIHHI")
# Offset in the list, start of the block in the table of directories, length of the name minus 1.
_INDEX = struct.Struct("<III")
# Start of the blocks, fragment, offset in it, size of the file.
_FILE = struct.Struct("<IIII")
# Start of the blocks, size of the file, bytes in missing blocks, links, fragment, offset in it, xattrs.
_EXTENDED_FILE = struct.Struct("<QQQIIII")
_TWO, _ONE = struct.Struct("<II"), struct.Struct("<I")
_NO_REFERENCE = 0xFFFFFFFF_FFFFFFFF
_MISSING_WORDS = bytes(METADATA_BYTES)
_NS = 1_000_000_000


class InodeTable:
    """All inodes, and all directories.

    Attributes:
        inodes: the table of inodes.
        directories: the table of directories.
        references: to the inodes, by their nodes' numbers.
        ids: owners and groups, by their numbers in the table of ids.
    """

    def __init__(self, image: FlatImage, data: StoredData, xattrs: XattrTable, compression: Compression) -> None:
        """Write all of them.

        Raises:
            InvalidImageError: there are too many ids, or the tables are too large.
        """
        self._image = image
        self._data = data
        self._xattrs = xattrs
        self.inodes = MetadataStream(compression)
        self.directories = MetadataStream(compression)
        self.references = array("Q", (_NO_REFERENCE,)) * len(image.nodes)
        self.ids: dict[int, int] = {}
        # Nodes come after the directory that they are in, so the other way round what is in it comes first.
        for node in reversed(image.nodes):
            if node.children is not None:
                self._add_directory(node, node.children)

    def _add_directory(self, node: FlatNode, children: list[tuple[bytes, FlatNode]]) -> None:
        for _, child in children:
            if self.references[child.number] == _NO_REFERENCE:
                self._add_other(child)
        start, offset = self.directories.reference >> 16, self.directories.reference & 0xFFFF
        block_number = self.directories.size // METADATA_BYTES
        self._verify_fits(node, max(start, len(self.inodes.packed)))
        listed, index = list_names(children, self.references, self.directories.size)
        size = len(listed) + _UNLISTED_BYTES
        self._verify_fits(node, size)
        self.directories.write(listed)
        xattrs = self._xattrs.number_of(node)
        above = inode_number(node.parent) if node.parent is not node else len(self._image.nodes) + 1
        if index or xattrs != NO_XATTRS or size > _MAX_U16:
            body = _EXTENDED_DIRECTORY.pack(node.links, size, start, above, len(index), offset, xattrs)
            self._write(node, _EXTENDED, body + self._packed_index(index, block_number, offset))
        else:
            self._write(node, 0, _DIRECTORY.pack(start, node.links, size, offset, above))

    def _verify_fits(self, node: FlatNode, number: int) -> None:
        if number > _MAX_U32:
            raise InvalidImageError(f"{_shown(node)}: squashfs: expected at most 4 GiB of inodes and names, got more")

    def _packed_index(self, index: list[IndexedName], block_number: int, offset: int) -> bytes:
        packed = bytearray()
        for run_at, name in index:
            start = self.directories.block_starts[block_number + (offset + run_at) // METADATA_BYTES]
            packed += _INDEX.pack(run_at, start, len(name) - 1)
            packed += name
        return bytes(packed)

    def _add_other(self, node: FlatNode) -> None:
        entry = node.entry
        xattrs = self._xattrs.number_of(node)
        if entry.type is EntryType.FILE:
            self._add_file(node, xattrs)
            return
        if entry.type is EntryType.SYMLINK:
            body = _TWO.pack(node.links, len(entry.link_name)) + entry.link_name
        elif entry.type is EntryType.FIFO:
            body = _ONE.pack(node.links)
        else:
            body = _TWO.pack(node.links, device_number(entry.device))
        if xattrs == NO_XATTRS:
            self._write(node, 0, body)
        else:
            self._write(node, _EXTENDED, body + _ONE.pack(xattrs))

    def _add_file(self, node: FlatNode, xattrs: int) -> None:
        size, blocks = node.entry.size, self._data.blocks.get(node.number)
        fragment, offset = self._data.fragments[node.number], self._data.offsets[node.number]
        start = missing_bytes = 0
        if blocks is not None:
            start, missing_bytes = blocks.start or 0, blocks.missing_bytes
        if node.links > 1 or xattrs != NO_XATTRS or missing_bytes or max(start, size) > _MAX_U32:
            body = _EXTENDED_FILE.pack(start, size, missing_bytes, node.links, fragment, offset, xattrs)
            self._write(node, _EXTENDED, body)
        else:
            self._write(node, 0, _FILE.pack(start, fragment, offset, size))
        if blocks is not None:
            self._write_words(blocks)

    def _write_words(self, blocks: StoredBlocks) -> None:
        for words in blocks.words:
            if isinstance(words, bytearray):
                self.inodes.write(words)
                continue
            left = 4 * words
            while left:
                count = min(left, len(_MISSING_WORDS))
                self.inodes.write(_MISSING_WORDS[:count])
                left -= count

    def _write(self, node: FlatNode, extended: int, body: bytes) -> None:
        entry = node.entry
        self.references[node.number] = self.inodes.reference
        common = _COMMON.pack(
            TYPE_NUMBERS[entry.type] + extended,
            kernel_mode(entry) if entry.xattrs else entry.mode,
            self._id_number(node, entry.uid),
            self._id_number(node, entry.gid),
            self._seconds(entry.mtime_ns),
            inode_number(node),
        )
        self.inodes.write(common + body)

    def _id_number(self, node: FlatNode, number: int) -> int:
        found = self.ids.get(number)
        if found is None:
            found = self.ids[number] = len(self.ids)
            if found >= MAX_IDS:
                raise InvalidImageError(
                    f"{_shown(node)}: squashfs: expected at most {counted(MAX_IDS, 'id')} of owners and groups in all, "
                    "got more"
                )
        return found

    def _seconds(self, mtime_ns: int) -> int:
        seconds = mtime_ns // _NS
        if 0 <= seconds <= _MAX_U32:
            return seconds
        self._image.losses.times += 1
        return 0 if seconds < 0 else _MAX_U32


def _shown(node: FlatNode) -> str:
    """Return the path of a node for a message."""
    names: list[bytes] = []
    while node.parent is not node:
        above = node.parent
        names.append(next(name for name, child in above.children or () if child is node))
        node = above
    return quoted_path(b"/".join(reversed(names)) or b".")
