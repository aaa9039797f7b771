"""What EROFS compresses with, and which kernels read it.

Spec: Linux fs/erofs/erofs_fs.h, `struct z_erofs_deflate_cfgs` and `struct z_erofs_zstd_cfgs`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from ociexport.errors import UsageError, quoted
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.spec.lazy_dataclass import dataclass

# What is compressed at a time; any read decompresses at least so much.
EXTENT_BITS = 17
EXTENT_BYTES = 1 << EXTENT_BITS

# Kernels that read images without compression, and files with holes.
_FIRST_KERNEL, _HOLES_KERNEL = (5, 4), (5, 15)
_MAX_ZLIB_LEVEL, _MAX_ZSTD_LEVEL = 9, 22
_ZSTD_WINDOW_UNIT_BITS = 10


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One that EROFS has and Python can write.

    Args:
        number: in the image.
        config: what the superblock says of it.
        kernel: the first version that reads it.
        default_level: with which it compresses if no level is given.
        max_level: the highest one.
        compressor: returns the function that compresses an extent with a level.
    """

    number: int
    config: bytes
    kernel: tuple[int, int]
    default_level: int
    max_level: int
    compressor: Callable[[int], Callable[[memoryview], bytes]]


def _deflate(level: int) -> Callable[[memoryview], bytes]:
    """isal is faster than zlib, but what it writes depends on the processor."""

    def compress(data: memoryview) -> bytes:
        stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return stream.compress(data) + stream.flush()

    return compress


def _zstd(level: int) -> Callable[[memoryview], bytes]:
    from ociexport.system.zstd import zstd  # noqa: PLC0415 - start-up: only some images need it

    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.window_log: EXTENT_BITS,
        zstd.CompressionParameter.checksum_flag: 0,
    }
    return lambda data: zstd.compress(data, options=options)


_ALGORITHMS = {
    "deflate": Algorithm(2, struct.pack("<HB5x", 6, zlib.MAX_WBITS), (6, 6), 6, _MAX_ZLIB_LEVEL, _deflate),
    "zstd": Algorithm(
        3, struct.pack("<HBB4x", 6, 0, EXTENT_BITS - _ZSTD_WINDOW_UNIT_BITS), (6, 10), 3, _MAX_ZSTD_LEVEL, _zstd
    ),
}


def algorithm_of(options: DiskImageOptions) -> Algorithm | None:
    """Return the algorithm that ``options`` ask for; None for no compression.

    Raises:
        UsageError: EROFS does not have it, or the kernel that mounts the image can't read it.
    """
    kernel, name = options.kernel, options.compression
    if kernel is not None and kernel < _FIRST_KERNEL:
        raise UsageError(f"EROFS: expected a kernel of {_shown(_FIRST_KERNEL)} or newer, got {_shown(kernel)}")
    if name is None:
        return None
    algorithm = _ALGORITHMS.get(name)
    if algorithm is None:
        raise UsageError(f"EROFS: expected compression {' or '.join(_ALGORITHMS)}, got {quoted(name)}")
    if kernel is None:
        raise UsageError(
            f"EROFS with {name}: expected the version of the kernel that mounts the image, got none",
            hint=f"name it by --kernel; Linux reads {name} from {_shown(algorithm.kernel)} on",
        )
    if kernel < algorithm.kernel:
        others = [other for other, item in _ALGORITHMS.items() if item.kernel <= kernel]
        raise UsageError(
            f"EROFS with {name}: expected a kernel of {_shown(algorithm.kernel)} or newer, got {_shown(kernel)}",
            hint=f"this kernel reads {others[0]}" if others else "this kernel reads EROFS without compression",
        )
    if options.level is not None and not 1 <= options.level <= algorithm.max_level:
        raise UsageError(f"EROFS with {name}: expected a level from 1 to {algorithm.max_level}, got {options.level}")
    return algorithm


def has_holes(options: DiskImageOptions) -> bool:
    """Whether the kernel that mounts the image reads files with holes; if not, zeros are stored."""
    return options.kernel is None or options.kernel >= _HOLES_KERNEL


def _shown(kernel: tuple[int, int]) -> str:
    return f"{kernel[0]}.{kernel[1]}"
