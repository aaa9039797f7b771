"""What Linux has and Python's `os` has not: two names change places in one step, and one file system is synced.

Spec: renameat2(2), RENAME_EXCHANGE; syncfs(2).
"""

from __future__ import annotations

import ctypes
import errno
import os

_RENAME_EXCHANGE = 2
# What kernels and file systems say that can't: no such call, no such flag, not on this file system.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


def exchange_names(directory_fd: int, first: bytes, second: bytes) -> bool:
    """Let two names in one directory change places; returns False where this system can't.

    Raises:
        OSError: it could, but not with these.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(directory_fd, first, directory_fd, second, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), first, None, second)


def sync_file_system(fd: int) -> None:
    """Return when all that was written to the file system of ``fd`` is on its disk.

    Raises:
        OSError: something could not be written.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
