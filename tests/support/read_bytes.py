"""How much a process reads."""

from __future__ import annotations

import os
from collections.abc import Callable


def bytes_read_by(act: Callable[[], object]) -> int:
    """Return how many bytes this process read with system calls meanwhile, those of this count included."""

    def bytes_so_far() -> int:
        descriptor = os.open("/proc/self/io", os.O_RDONLY)
        try:
            return int(os.pread(descriptor, 4096, 0).split()[1])
        finally:
            os.close(descriptor)

    before = bytes_so_far()
    act()
    return bytes_so_far() - before
