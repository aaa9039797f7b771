"""Writes an EROFS image: data first, of which most may be in the image already, then inodes."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator

from ociexport.errors import InvalidImageError
from ociexport.rootfs.outputs.erofs.chunks import Chunks, chunk_map, placed_extents
from ociexport.rootfs.outputs.erofs.compression import algorithm_of, has_holes
from ociexport.rootfs.outputs.erofs.directories import directory_blocks
from ociexport.rootfs.outputs.erofs.inodes import CHUNKED, COMPRESSED, INLINE, encode_inode
from ociexport.rootfs.outputs.erofs.placed import settle_placed_data
from ociexport.rootfs.outputs.erofs.plan import Plan
from ociexport.rootfs.outputs.erofs.superblock import (
    BLOCK_BITS,
    BLOCK_BYTES,
    INCOMPAT_CHUNKED_FILE,
    INCOMPAT_COMPRESSED,
    INCOMPAT_FRAGMENTS,
    MAX_BLOCKS,
    Superblock,
)
from ociexport.rootfs.outputs.erofs.xattrs import body_count
from ociexport.rootfs.outputs.flat_image import FlatImage, FlatNode
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.outputs.spool_copies import Copies, copying
from ociexport.spec.digest import Digest
from ociexport.system.collector import collection_paused
from ociexport.system.file_ranges import write_whole

# Inodes are written in pieces of about this size.
_PIECE_BYTES = 1024 * 1024


def write_erofs(image: FlatImage, fd: int, options: DiskImageOptions) -> None:
    """Write ``image`` as EROFS.

    Linux mounts it from 5.4 on, from 5.15 on if it has files with holes and ``options.kernel`` is not older, and from
    6.6 or 6.10 on if it is compressed, which needs ``options.kernel``. See `DiskImageWriter`.
    """
    _write(image, fd, options, image.config.digest, inline_files=True)


def write_layer_erofs(image: FlatImage, fd: int, options: DiskImageOptions, diff_id: Digest) -> None:
    """Write one layer as EROFS, in the form of the files that containerd's erofs snapshotter keeps.

    All data of files is in blocks of its own: mkfs.erofs can then merge the layers of an image without copying it.

    Args:
        image: the layer as overlayfs has it: what hides a file is a character device 0:0, and a directory that hides
            what is below it has the attribute ``trusted.overlay.opaque``.
        diff_id: of the layer; the UUID is made from it.
    """
    _write(image, fd, options, diff_id, inline_files=False)


@collection_paused()
def _write(image: FlatImage, fd: int, options: DiskImageOptions, identity: Digest, *, inline_files: bool) -> None:
    algorithm = algorithm_of(options)
    compressed = None
    if algorithm is not None:
        from ociexport.rootfs.outputs.erofs.clusters import CompressedFiles  # noqa: PLC0415 - start-up: threads

        compressed = CompressedFiles(image, fd, 1, algorithm, options)
    plan = Plan(
        image,
        compressed.end_block if compressed is not None else settle_placed_data(image, fd),
        compressed=compressed,
        inline_files=inline_files,
        has_holes=has_holes(options),
    )
    meta_block = plan.data_blocks
    xattr_block = meta_block + plan.metadata_blocks
    blocks = xattr_block + -(-len(plan.xattrs.shared) // BLOCK_BYTES)
    if blocks > MAX_BLOCKS:
        raise InvalidImageError(f"image: expected at most {MAX_BLOCKS} blocks for EROFS, got {blocks}")
    with copying(image.spool_fd, fd) as copies:
        _write_data(image, plan, fd, copies)
        _write_inodes(image, plan, fd, meta_block * BLOCK_BYTES)
    write_whole(fd, plan.xattrs.shared, xattr_block * BLOCK_BYTES)
    has_packed = len(plan.nodes) > len(image.nodes)
    superblock = Superblock(
        identity=identity,
        blocks=blocks,
        inodes=len(plan.nodes),
        root_nid=plan.nid_of(0),
        meta_block=meta_block,
        xattr_block=xattr_block,
        time_ns=plan.time_ns,
        incompat=(INCOMPAT_CHUNKED_FILE if plan.chunks else 0)
        | (INCOMPAT_COMPRESSED if algorithm is not None else 0)
        | (INCOMPAT_FRAGMENTS if has_packed else 0),
        algorithms=1 << algorithm.number if algorithm is not None else 0,
        packed_nid=plan.nid_of(len(image.nodes)) if has_packed else 0,
        compression_configs=algorithm.config if algorithm is not None else b"",
    )
    write_whole(fd, superblock.to_bytes(), 0)
    os.truncate(fd, blocks * BLOCK_BYTES)


def _write_data(image: FlatImage, plan: Plan, fd: int, copies: Copies) -> None:
    """Give to ``copies`` the data that stands in the spool, and write the other data that has blocks."""
    for node in image.nodes:
        number = node.number
        layout, size = plan.layouts[number], plan.sizes[number]
        if not size or (layout == INLINE and size < BLOCK_BYTES) or plan.is_written(number):
            continue
        offset = plan.places[number] << BLOCK_BITS
        if node.extents is None:
            whole = size - plan.tail_bytes(number)
            data = b"".join(_own_data(node, plan))[:whole]
            write_whole(fd, data, offset)
        elif layout == CHUNKED:
            for extent, place in placed_extents(plan.chunks[number], node.extents, plan.places[number]):
                copies.add(extent.spool_offset, place, extent.size)
        else:
            whole = size - plan.tail_bytes(number)
            for extent in node.extents:
                if extent.offset < whole:
                    count = min(extent.size, whole - extent.offset)
                    copies.add(extent.spool_offset, offset + extent.offset, count)


def _own_data(node: FlatNode, plan: Plan) -> Iterator[bytes]:
    """Yield the blocks of a directory, or the target of a link."""
    return iter((node.entry.link_name,)) if node.children is None else directory_blocks(node, plan.nid_of)


def _write_inodes(image: FlatImage, plan: Plan, fd: int, begin: int) -> None:
    """Write the area of inodes, which begins at the offset ``begin``."""
    piece, written = bytearray(), 0
    for number in sorted(range(len(plan.nodes)), key=plan.offsets.__getitem__):
        if len(piece) >= _PIECE_BYTES:
            write_whole(fd, piece, begin + written)
            written += len(piece)
            piece = bytearray()
        node = plan.nodes[number]
        layout, size, place = plan.layouts[number], plan.sizes[number], plan.places[number]
        body = plan.xattrs.body_of(number)
        behind = b""
        if layout == CHUNKED:
            chunks = plan.chunks[number]
            behind = _map_of(chunks, node, place)
            place = chunks.bits - BLOCK_BITS
        elif layout == INLINE:
            behind = _tail(image, plan, node, size)
        elif layout == COMPRESSED:
            behind = plan.map_behind(number)
        piece += bytes(plan.offsets[number] - written - len(piece))
        piece += encode_inode(node, plan.form_of(number), body_count(body), size, place)
        piece += body
        piece += behind
    write_whole(fd, piece, begin + written)


def _tail(image: FlatImage, plan: Plan, node: FlatNode, size: int) -> bytes:
    """Return the data behind an inode."""
    if node.extents is None:
        return deque(_own_data(node, plan), maxlen=1)[0]
    tail = size % BLOCK_BYTES
    first = node.extents[0] if node.extents else None
    if first is not None and first.size == size:  # nearly every file; `FlatImage.read` takes longer than the system
        data = os.pread(image.spool_fd, tail, first.spool_offset + size - tail)
        if len(data) == tail:
            return data
    return image.read(node, size - tail, tail)


def _map_of(chunks: Chunks, node: FlatNode, first_block: int) -> bytes:
    places = chunk_map(chunks, node.extents or (), first_block)
    if sys.byteorder == "big":
        places.byteswap()
    return places.tobytes()
