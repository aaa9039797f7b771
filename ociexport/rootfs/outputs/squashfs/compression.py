"""How blocks of a squashfs are compressed."""

from __future__ import annotations

import struct
from collections.abc import Callable

from ociexport.errors import UsageError, quoted
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.block_compression import new_block_compressor

_NONE = "none"
# By the name of the algorithm: its number in the superblock, the greatest level, and the level that readers assume if
# the image does not state one.
_ALGORITHMS = {"gzip": (1, 9, 9), "zstd": (6, 22, 15)}
# The same bytes on all processors; those of isal's gzip differ between x86-64 and Arm. Linux 4.14 and newer read it.
_DEFAULT = "zstd"
_DEFAULT_ZSTD_LEVEL = 3
_ZLIB_WINDOW_BITS = 15


@dataclass(frozen=True, slots=True)
class Compression:
    """An algorithm and its level.

    Args:
        number: of the algorithm, as in the superblock.
        stated_options: what the image states about the level; readers don't need it.
        compress: compresses one block; None if blocks are stored as they are.
    """

    number: int
    stated_options: bytes
    compress: Callable[[bytes], bytes] | None

    def pack(self, data: bytes) -> tuple[bytes, bool]:
        """Return a block as it is stored, and whether it is compressed; one that would not shrink is not."""
        if self.compress is not None:
            packed = self.compress(data)
            if len(packed) < len(data):
                return packed, True
        return data, False


def parse_compression(options: DiskImageOptions) -> Compression:
    """Return the compression that the user asked for.

    Raises:
        UsageError: squashfs, or this writer of it, does not have it.
    """
    name, level = options.compression or _DEFAULT, options.level
    if name == _NONE:
        if level is not None:
            raise UsageError(f"compression level {level}: expected none without compression")
        return Compression(_ALGORITHMS["gzip"][0], b"", None)
    if name not in _ALGORITHMS:
        raise UsageError(f"compression {quoted(name)}: expected gzip, zstd or none for squashfs")
    number, max_level, assumed_level = _ALGORITHMS[name]
    if level is not None and not 1 <= level <= max_level:
        raise UsageError(f"compression level {level}: expected 1 to {max_level} for {name}")
    if level is None and name == "zstd":
        level = _DEFAULT_ZSTD_LEVEL
    stated = b""
    if level is not None and level != assumed_level:
        stated = struct.pack("<I", level) if name == "zstd" else struct.pack("<IHH", level, _ZLIB_WINDOW_BITS, 0)
    return Compression(number, stated, new_block_compressor(name, level))
