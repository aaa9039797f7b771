"""Metadata of a squashfs: a stream in blocks of 8 KiB, each compressed; tables are such streams with an index.

Spec: Linux Documentation/filesystems/squashfs.rst, "3. SQUASHFS FILESYSTEM DESIGN".
"""

from __future__ import annotations

import struct

from ociexport.rootfs.outputs.squashfs.compression import Compression

METADATA_BYTES = 8192
_HEADER = struct.Struct("<H")
_IS_STORED = 0x8000


class MetadataStream:
    """A stream of metadata; what has been written is kept compressed.

    Attributes:
        packed: the finished blocks.
        block_starts: where each block begins in `packed`, the unfinished one included.
        size: bytes written, before compression.
    """

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._waiting = bytearray()
        self.packed = bytearray()
        self.block_starts = [0]
        self.size = 0

    @property
    def reference(self) -> int:
        """Where the next byte comes: the start of its block, and in the low 16 bits its offset in the block."""
        return len(self.packed) << 16 | len(self._waiting)

    def write(self, data: bytes | bytearray) -> None:
        """Append bytes."""
        self._waiting += data
        self.size += len(data)
        while len(self._waiting) >= METADATA_BYTES:
            self._end_block(METADATA_BYTES)

    def finish(self) -> bytearray:
        """End the last block, and return all of them."""
        if self._waiting:
            self._end_block(len(self._waiting))
        return self.packed

    def _end_block(self, size: int) -> None:
        data, is_compressed = self._compression.pack(bytes(self._waiting[:size]))
        del self._waiting[:size]
        self.packed += _HEADER.pack(len(data) if is_compressed else len(data) | _IS_STORED)
        self.packed += data
        self.block_starts.append(len(self.packed))


def indexed_table(data: bytes | bytearray, compression: Compression, position: int) -> tuple[bytes, int]:
    """Return a table as it is stored at ``position``, and where in the file its index begins.

    The blocks come first, then the positions of all of them.
    """
    stream = MetadataStream(compression)
    stream.write(data)
    packed = stream.finish()
    starts = stream.block_starts[:-1]
    index = struct.pack(f"<{len(starts)}Q", *(position + start for start in starts))
    return bytes(packed + index), position + len(packed)
