"""The names in a directory that has been open for a while: those that are there now.

btrfs shows through a descriptor what was there when it was opened, so that nobody who renames files while reading reads
for ever (Linux 6.6, "btrfs: fix infinite directory reads"); only a rewind, or a new descriptor, shows what came since.
"""

from __future__ import annotations

import os

_OPEN_AGAIN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def names_in(fd: int) -> list[str]:
    """Return all names in the directory ``fd``, in no order.

    Raises:
        OSError: they can't be read.
    """
    try:
        fresh_fd = os.open(b".", _OPEN_AGAIN, dir_fd=fd)
    except PermissionError:
        # Its mode was changed since it was opened, as an ordinary user's is in the end.
        os.lseek(fd, 0, os.SEEK_SET)
        return os.listdir(fd)
    try:
        return os.listdir(fresh_fd)
    finally:
        os.close(fresh_fd)
