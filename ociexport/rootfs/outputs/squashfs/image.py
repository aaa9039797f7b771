"""Writes a whole squashfs: data, then the tables, then the superblock, which says where each is.

Spec: Linux Documentation/filesystems/squashfs.rst, "3. SQUASHFS FILESYSTEM DESIGN".
"""

from __future__ import annotations

import os
import struct
import sys
from array import array

from ociexport.rootfs.outputs.flat_image import FlatImage
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.outputs.squashfs.compression import Compression, parse_compression
from ociexport.rootfs.outputs.squashfs.content import BLOCK_BYTES
from ociexport.rootfs.outputs.squashfs.data import StoredData, write_data
from ociexport.rootfs.outputs.squashfs.inodes import InodeTable
from ociexport.rootfs.outputs.squashfs.metadata import indexed_table
from ociexport.rootfs.outputs.squashfs.xattrs import XattrTable
from ociexport.system.file_ranges import write_whole

_MAGIC = 0x73717368
_VERSION = (4, 0)
_SUPERBLOCK = struct.Struct("<5I6H8Q")
# The image is as reproducible as its content, so it has no time of its own.
_CREATED_SECONDS = 0
_DUPLICATES_SHARED, _EXPORTABLE, _LEVEL_STATED = 0x40, 0x80, 0x400
# Inodes, data, fragments, attributes and ids are stored as they are.
_NOT_COMPRESSED = 0x1 | 0x2 | 0x8 | 0x100 | 0x800
_STORED_OPTIONS = struct.Struct("<H")
_IS_STORED = 0x8000
# Block devices have whole sectors of up to this size.
_PADDED_TO_BYTES = 4096
_FRAGMENT_BYTES = 16


def write_squashfs(image: FlatImage, fd: int, options: DiskImageOptions) -> None:
    """Write ``image`` as squashfs 4.0 into the empty file ``fd``.

    Times have whole seconds from 1970 to 2106; earlier and later ones become the nearest of these, and are counted. So
    are attributes that squashfs can't store: ACLs.

    Raises:
        InvalidImageError: the image has more different owners and groups than squashfs can store.
        UsageError: the compression is not one of gzip, zstd and none, or its level is out of range.
        OSError: the disk failed.
    """
    compression = parse_compression(options)
    stated = compression.stated_options
    head = _STORED_OPTIONS.pack(len(stated) | _IS_STORED) + stated if stated else b""
    data = write_data(image, fd, _SUPERBLOCK.size + len(head), compression, options.threads)
    superblock = _write_tables(image, fd, data, compression)
    write_whole(fd, superblock + head, 0)


def _write_tables(image: FlatImage, fd: int, data: StoredData, compression: Compression) -> bytes:
    """Write all that comes after the data; return the superblock."""
    xattrs = XattrTable(compression, image.losses)
    table = InodeTable(image, data, xattrs, compression)
    inodes_at = data.end
    directories_at = inodes_at + len(table.inodes.finish())
    fragments_begin = directories_at + len(table.directories.finish())
    fragments, fragments_at = indexed_table(data.fragment_table, compression, fragments_begin)
    exports_begin = fragments_begin + len(fragments)
    exports, exports_at = indexed_table(_little_endian(table.references), compression, exports_begin)
    ids_begin = exports_begin + len(exports)
    ids, ids_at = indexed_table(struct.pack(f"<{len(table.ids)}I", *table.ids), compression, ids_begin)
    xattrs_begin = ids_begin + len(ids)
    attributes, xattrs_at = xattrs.packed_at(xattrs_begin)
    end = xattrs_begin + len(attributes)

    write_whole(fd, table.inodes.packed, inodes_at)
    write_whole(fd, table.directories.packed, directories_at)
    write_whole(fd, fragments + exports + ids + attributes, fragments_begin)
    os.ftruncate(fd, end + -end % _PADDED_TO_BYTES)
    return _SUPERBLOCK.pack(
        _MAGIC,
        len(image.nodes),
        _CREATED_SECONDS,
        BLOCK_BYTES,
        len(data.fragment_table) // _FRAGMENT_BYTES,
        compression.number,
        BLOCK_BYTES.bit_length() - 1,
        _DUPLICATES_SHARED
        | _EXPORTABLE
        | (_LEVEL_STATED if compression.stated_options else 0)
        | (0 if compression.compress else _NOT_COMPRESSED),
        len(table.ids),
        *_VERSION,
        table.references[image.root.number],
        end,
        ids_at,
        xattrs_at,
        inodes_at,
        directories_at,
        fragments_at,
        exports_at,
    )


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()
