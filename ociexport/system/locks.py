"""Locks on files that other processes may rename or remove: the lock is on the file that has the name now."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress

from ociexport.errors import InvalidImageError

# Errors of file systems without locks; on these the user must keep two writers apart.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_locked(
    path: str,
    *,
    shared: bool = False,
    is_written: bool = False,
    dir_fd: int | None = None,
    place: str | None = None,
    mode: int = 0o644,
) -> int:
    """Return a descriptor of a file that is locked for the caller; the file is made if it is missing.

    Args:
        path: of the file; relative to ``dir_fd`` if that is given.
        shared: whether others may hold a shared lock at the same time.
        is_written: whether the caller writes to it. A file with other hard links is then not used: this name is
            removed from it and given to a new file.
        dir_fd: descriptor of the directory that contains the file.
        place: the file's name in messages; by default ``path``.
        mode: of a file that is made.

    Raises:
        InvalidImageError: something other than a regular file has the name.
        FileNotFoundError: the directory does not exist.
    """
    place = place or path
    while True:
        with suppress(FileNotFoundError):
            # Opening a device can already have an effect.
            verify_is_regular(os.stat(path, dir_fd=dir_fd, follow_symlinks=False), place)
        fd = os.open(path, _OPEN, mode, dir_fd=dir_fd)
        try:
            verify_is_regular(os.fstat(fd), place)
            if is_still_there_once_locked(fd, path, shared=shared, dir_fd=dir_fd):
                if not is_written or os.fstat(fd).st_nlink == 1:
                    return fd
                os.unlink(path, dir_fd=dir_fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def verify_is_regular(status: os.stat_result, place: str, *, hint: str | None = None) -> None:
    """Return if ``status`` is of a regular file.

    Args:
        hint: for the user, if it is a link.

    Raises:
        InvalidImageError: it is something else.
    """
    if not stat.S_ISREG(status.st_mode):
        is_link = stat.S_ISLNK(status.st_mode)
        raise InvalidImageError(
            f"expected a file, got {kind_of_file(status)}", where=place, hint=hint if is_link else None
        )


def kind_of_file(status: os.stat_result) -> str:
    """Return the kind of a file, with its article: ``a directory``."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


def is_still_there_once_locked(fd: int, path: str, *, shared: bool = False, dir_fd: int | None = None) -> bool:
    """Lock the file of ``fd``, waiting for other holders; returns whether ``path`` still names that file.

    The previous holder may have renamed or removed it. Closing the descriptor releases the lock.

    Args:
        dir_fd: descriptor of the directory that a relative ``path`` starts from.
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
