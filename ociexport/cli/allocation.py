"""How the C library of this process treats freed memory: a thing of the whole process, so the command's to say.

Spec: mallopt(3).
"""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 16 * 1024 * 1024
# Chunks of a mebibyte and more come from what was freed, not each from the system.
_LARGE_BYTES = 4 * 1024 * 1024


def reuse_freed_memory() -> None:
    """Have what is freed kept for the next chunk, up to 16 MiB; called before there are threads.

    An unpack makes and frees a chunk for each mebibyte. glibc gives each thread its own memory and returns what one
    has freed to the system, to fetch it again for the next chunk, page by page: a hundred thousand page faults for an
    image of 2 GB, a tenth of all system time. Another C library goes about it in its own way.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # The first two would otherwise follow what the program does; one alone set ends that for both.
    for setting, value in ((_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_ARENA_MAX, 1)):
        mallopt(setting, value)
