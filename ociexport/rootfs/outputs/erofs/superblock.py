"""The superblock of EROFS.

Spec: Linux Documentation/filesystems/erofs.rst; fs/erofs/erofs_fs.h, `struct erofs_super_block`.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass

BLOCK_BITS = 12
BLOCK_BYTES = 1 << BLOCK_BITS
# Blocks have numbers of 32 bits, and the last number means that there is no block.
MAX_BLOCKS = 2**32 - 1
NO_BLOCK = 2**32 - 1

_OFFSET = 1024
_MAGIC = 0xE0F5_E1E2
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
_CHECKSUM_OFFSET = 4
_COMPAT_CHECKSUM, _COMPAT_MTIME = 0x1, 0x2
INCOMPAT_CHUNKED_FILE = 0x4
# Compressed data at the end of its blocks, after zeros; what follows the superblock tells the algorithms.
INCOMPAT_COMPRESSED = 0x1 | 0x2
INCOMPAT_FRAGMENTS = 0x20


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the superblock says of the whole image.

    Args:
        identity: what the UUID is made from.
        blocks: of the whole file.
        inodes: how many there are.
        root_nid: the root's node number.
        meta_block: where node numbers count from.
        xattr_block: where numbers of shared attributes count from.
        time_ns: the time of modification of compact inodes.
        incompat: features without which a kernel can't read the image.
        algorithms: bits of the compression algorithms.
        packed_nid: the node number of the inode that contains small files; 0 for none.
        compression_configs: what follows the superblock itself.
    """

    identity: Digest
    blocks: int
    inodes: int
    root_nid: int
    meta_block: int
    xattr_block: int
    time_ns: int
    incompat: int = 0
    algorithms: int = 0
    packed_nid: int = 0
    compression_configs: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the first block of the image."""
        seconds, nanoseconds = divmod(self.time_ns, 10**9)
        block = bytearray(BLOCK_BYTES)
        _SUPERBLOCK.pack_into(
            block, _OFFSET,
            _MAGIC, 0, _COMPAT_CHECKSUM | _COMPAT_MTIME, BLOCK_BITS, 0, self.root_nid, self.inodes,
            seconds, nanoseconds, self.blocks, self.meta_block, self.xattr_block,
            uuid_of(self.identity), bytes(16), self.incompat, self.algorithms, 0, 0, 0, 0, 0, self.packed_nid,
        )  # fmt: skip
        begin = _OFFSET + _SUPERBLOCK.size
        block[begin : begin + len(self.compression_configs)] = self.compression_configs
        struct.pack_into("<I", block, _OFFSET + _CHECKSUM_OFFSET, crc32c(block[_OFFSET:]))
        return bytes(block)


def uuid_of(identity: Digest) -> bytes:
    """Return a UUID for the image of a config, other than those of other things with the same digest.

    Spec: RFC 9562, "UUID Version 8".
    """
    value = bytearray(hashlib.sha256(b"ociexport erofs\0" + str(identity).encode()).digest()[:16])
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return bytes(value)


@lru_cache(maxsize=1)
def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def crc32c(data: bytes | bytearray) -> int:
    """Return the CRC-32C of ``data`` as the kernel stores it: all bits are set at first, and none is inverted at last.

    Spec: RFC 3720, appendix B.4, for the polynomial.
    """
    table, value = _crc32c_table(), 0xFFFF_FFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value
