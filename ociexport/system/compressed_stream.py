"""CompressedStream: bytes compressed on their way to another stream, the same each time."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from ociexport.system.zstd_compression import new_zstd_compressor


class CompressedStream:
    """Writes bytes compressed to another stream; the same bytes give the same result.

    Gzip is zlib's: isal is faster, but what it writes depends on the processor.

    Args:
        out: not closed with this.
        name: ``gzip`` or ``zstd``.
    """

    def __init__(self, out: BinaryIO, name: str) -> None:
        self._out = out
        # 31: a window of 32 KiB, and gzip's header, in which zlib writes neither a time nor a name.
        self._compressor = zlib.compressobj(wbits=31) if name == "gzip" else new_zstd_compressor()

    def write(self, data: bytes, /) -> int:
        """Write the next bytes."""
        self._out.write(self._compressor.compress(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: what is held back belongs to a longer piece."""

    def end(self) -> None:
        """Write the end of the compressed data."""
        self._out.write(self._compressor.flush())
        self._out.flush()
