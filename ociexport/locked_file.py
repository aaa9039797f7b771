"""Files that processes and threads lock by what is under a name, and not by what was there."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress

from ociexport.errors import InvalidImageError

# What file systems say that have no locks; then two writers are the user's to keep apart.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})


def open_locked(path: str, *, shared: bool = False) -> int:
    """Return a descriptor of a file, made where missing, which no other process or thread has locked.

    Args:
        shared: others may have it too, if they share it.

    Raises:
        InvalidImageError: something else than a file has the name.
        FileNotFoundError: the directory is not there.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidImageError("expected a file, got something else", where=path)
            if is_still_there_once_locked(fd, path, shared=shared):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def is_still_there_once_locked(fd: int, path: str, *, shared: bool = False, dir_fd: int | None = None) -> bool:
    """Wait until no other has locked what ``fd`` is of, and tell whether that is what ``path`` names.

    While we waited, the other may have renamed or removed it. The lock goes with the descriptor.

    Args:
        dir_fd: of the directory that a relative ``path`` begins in.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            error.filename = path
            raise
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path, dir_fd=dir_fd, follow_symlinks=False))
    return False
