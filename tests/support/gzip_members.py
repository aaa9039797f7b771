"""Gzip members and zstd frames of every kind of block, one after another."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Sequence

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def gzip_member(content: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY, flush_every: int = 0) -> bytes:
    """Return a gzip member; level 0 gives stored blocks, Z_FIXED fixed ones, ``flush_every`` shorter ones."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, 31, 9, strategy)
    step = flush_every or max(1, len(content))
    parts = []
    for start in range(0, len(content), step):
        parts.append(compressor.compress(content[start : start + step]))
        if flush_every:
            parts.append(compressor.flush(zlib.Z_SYNC_FLUSH))
    return b"".join(parts) + compressor.flush()


def pieces_of(content: bytes, size: int) -> list[bytes]:
    """Return the content in pieces of ``size`` bytes."""
    return [content[start : start + size] for start in range(0, len(content), size)]


def in_members(content: bytes, size: int) -> bytes:
    """Return gzip with a member for each piece, as estargz and bgzip write."""
    return b"".join(gzip.compress(piece, 1, mtime=0) for piece in pieces_of(content, size))


def in_frames(content: bytes, size: int) -> bytes:
    """Return zstd with a frame for each piece, as zstd:chunked and pzstd write, and a skippable frame at the end."""
    frames: Sequence[bytes] = [zstd.compress(piece, 1) for piece in pieces_of(content, size)]
    return b"".join(frames) + b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
