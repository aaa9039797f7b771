"""Frames of zstd with any window."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def frame_of(window_log: int, content: bytes) -> bytes:
    """Return a frame that declares a window, and not the size of its content, as ``zstd --long`` writes to a pipe."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    return bytes(compressor.compress(content[:100]) + compressor.compress(content[100:]) + compressor.flush())
