"""Compresses blocks of up to a few hundred kilobytes, each on its own."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

# Level 3 takes twice the time for a hundredth less, and what it writes depends on the processor.
_ISAL_LEVEL = 2


def new_block_compressor(name: str, level: int | None) -> Callable[[bytes], bytes]:
    """Return a function that compresses one block, in several threads at a time if called so.

    Without a level, ``gzip`` is isal's: as small as zlib's level 1, in a fifth of the time. What isal writes differs
    between x86-64 (with SSE 4.2, or without) and AArch64, but not from one processor to the next of these. What zlib
    and zstd write is the same everywhere.

    Args:
        name: ``gzip`` for a zlib stream (RFC 1950), ``zstd`` for a frame without a checksum.
        level: None for the default.
    """
    if name == "zstd":
        from ociexport.system.zstd import zstd  # noqa: PLC0415 - start-up: only some runs need it

        return partial(zstd.compress, level=level)
    if level is not None:
        return partial(zlib.compress, level=level)
    from isal import isal_zlib  # noqa: PLC0415 - start-up: only some runs need it

    return partial(isal_zlib.compress, level=_ISAL_LEVEL)
