"""Writes the hash tree with which the kernel verifies each block of a disk image as it is read (dm-verity).

The tree is the one that ``veritysetup format`` makes with the same salt. It is written after the disk image, or into a
file of its own, and begins with a superblock.

Spec: Documentation/admin-guide/device-mapper/verity.rst; cryptsetup's wiki, "DMVerity", "On-disk format".
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable, Iterator

from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.file_ranges import write_whole

BLOCK_BYTES = 4096
_SECTOR_BYTES = 512
_DIGEST_BYTES = 32
_DIGESTS_PER_BLOCK = BLOCK_BYTES // _DIGEST_BYTES
# Signature, version, kind of hash (1: the salt comes first), UUID, algorithm, block sizes, data blocks, salt.
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
_ALGORITHM = "sha256"
_CHUNK_BLOCKS = 256
_ZEROS = bytes(_CHUNK_BLOCKS * BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Verity:
    """The hash tree of a disk image.

    Args:
        root_hash: the digest that stands for the whole image, in hexadecimal.
        salt: of all its hashes, in hexadecimal; from the config's digest.
        uuid: of the tree; from the same digest.
        data_blocks: of the image, each of 4096 bytes.
        hash_offset: where the tree's superblock is, in bytes: in the image, or 0 in a file of its own.
    """

    root_hash: str
    salt: str
    uuid: str
    data_blocks: int
    hash_offset: int

    @property
    def is_appended(self) -> bool:
        """Whether the tree is in the same file as the image."""
        return self.hash_offset != 0

    def table(self, data: str, hashes: str) -> str:
        """Return the device-mapper table for devices that hold the image and the tree."""
        sectors = self.data_blocks * (BLOCK_BYTES // _SECTOR_BYTES)
        begin = self.hash_offset // BLOCK_BYTES + 1
        return (
            f"0 {sectors} verity 1 {data} {hashes} {BLOCK_BYTES} {BLOCK_BYTES} {self.data_blocks} {begin} "
            f"{_ALGORITHM} {self.root_hash} {self.salt}"
        )

    def kernel_arguments(self, file_system: str, data: str = "/dev/vda", hashes: str = "/dev/vdb") -> str:
        """Return the kernel's arguments that mount the image with nothing in between (CONFIG_DM_INIT).

        Args:
            file_system: its name in the kernel.
            data: the device that holds the image.
            hashes: the device that holds the tree, unless it is in the image.
        """
        table = self.table(data, data if self.is_appended else hashes)
        return f'dm-mod.create="root,,,ro,{table}" root=/dev/dm-0 rootfstype={file_system} ro'

    def systemd_arguments(self, data: str = "/dev/vda", hashes: str = "/dev/vdb") -> str:
        """Return the kernel's arguments for an initrd with systemd: systemd-veritysetup-generator(8)."""
        where = data if self.is_appended else hashes
        options = f" systemd.verity_root_options=hash-offset={self.hash_offset}" if self.is_appended else ""
        return (
            f"roothash={self.root_hash} systemd.verity_root_data={data} systemd.verity_root_hash={where}{options} "
            "root=/dev/mapper/root ro"
        )


def write_verity(fd: int, tree_fd: int | None, config_digest: Digest) -> Verity:
    """Write the hash tree of the file ``fd``, which is first padded to whole blocks.

    Args:
        fd: the disk image, open for reading and writing.
        tree_fd: an empty file for the tree, open for both too; None to write it at the end of ``fd``.
        config_digest: the salt and the UUID are made from it.
    """
    blocks = -(-os.fstat(fd).st_size // BLOCK_BYTES)
    size = blocks * BLOCK_BYTES
    os.ftruncate(fd, size)
    salt = bytes.fromhex(config_digest.encoded)
    uuid = _uuid_from(config_digest)
    tree_fd, offset = (fd, size) if tree_fd is None else (tree_fd, 0)
    superblock = _SUPERBLOCK.pack(
        b"verity", 1, 1, uuid, _ALGORITHM.encode(), BLOCK_BYTES, BLOCK_BYTES, blocks, len(salt), salt
    )
    write_whole(tree_fd, superblock.ljust(BLOCK_BYTES, b"\0"), offset)
    root = _write_tree(fd, blocks, tree_fd, offset + BLOCK_BYTES, salt)
    text = uuid.hex()
    return Verity(
        root_hash=root.hex(),
        salt=salt.hex(),
        uuid="-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])),
        data_blocks=blocks,
        hash_offset=offset,
    )


def _uuid_from(digest: Digest) -> bytes:
    uuid = bytearray(hashlib.sha256(f"dm-verity {digest}".encode()).digest()[:16])
    uuid[6] = uuid[6] & 0x0F | 0x80  # version 8, vendor-specific (RFC 9562, 5.8)
    uuid[8] = uuid[8] & 0x3F | 0x80
    return bytes(uuid)


def _write_tree(fd: int, blocks: int, tree_fd: int, offset: int, salt: bytes) -> bytes:
    """Write all levels, the one with the root's block first, and return the root hash."""
    counts = [blocks]  # of blocks in each level, the data's first
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // _DIGESTS_PER_BLOCK))
    source_fd, source_offset = fd, 0
    for level, count in enumerate(counts[:-1], start=1):
        begin = offset + sum(counts[level + 1 :]) * BLOCK_BYTES
        position = begin
        for digests in _digests(source_fd, source_offset, count, salt):
            write_whole(tree_fd, digests, position)
            position += len(digests)
        write_whole(tree_fd, bytes(-position % BLOCK_BYTES), position)
        source_fd, source_offset = tree_fd, begin
    return next(_digests(source_fd, source_offset, 1, salt))


def _digests(fd: int, offset: int, blocks: int, salt: bytes) -> Iterator[bytes]:
    """Yield the hashes of blocks one after another, many at a time."""
    hasher = hashlib.sha256(salt)
    zero = hasher.copy()
    zero.update(_ZEROS[:BLOCK_BYTES])
    of_zeros = zero.digest()
    end = offset + blocks * BLOCK_BYTES
    data_from = offset
    while offset < end:
        size = min(len(_ZEROS), end - offset)
        if data_from <= offset:
            data_from = _next_data(fd, offset, end)
        if data_from >= offset + size:  # a hole
            yield of_zeros * (size // BLOCK_BYTES)
        else:
            chunk = os.pread(fd, size, offset)
            if chunk == _ZEROS:
                yield of_zeros * _CHUNK_BLOCKS
            else:
                yield _digests_of(chunk, hasher.copy)
        offset += size


def _next_data(fd: int, offset: int, end: int) -> int:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        # Otherwise the file system does not tell.
        return end if error.errno == errno.ENXIO else offset


def _digests_of(chunk: bytes, new_hasher: Callable[[], hashlib._Hash]) -> bytes:
    # One call for each block is what this costs: `tests/rootfs/outputs/test_verity.py` holds it.
    view = memoryview(chunk)
    digests = []
    for begin in range(0, len(chunk), BLOCK_BYTES):
        hasher = new_hasher()
        hasher.update(view[begin : begin + BLOCK_BYTES])
        digests.append(hasher.digest())
    return b"".join(digests)
