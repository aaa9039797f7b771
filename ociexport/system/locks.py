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
    path: str, *, shared: bool = False, is_written: bool = False, dir_fd: int | None = None, place: str | None = None
) -> int:
    """Return a descriptor of a file, made where missing, which no other process or thread has locked.

    Args:
        path: of the file; from ``dir_fd`` on, where that is given.
        shared: others may have it too, if they share it.
        is_written: whether the caller writes to it. A file that has other names as well is then not used: it loses
            this name, and a new file gets it.
        dir_fd: of the directory that holds it.
        place: what messages call it; ``path`` where it is not given.

    Raises:
        InvalidImageError: something else than a file has the name.
        FileNotFoundError: the directory is not there.
    """
    place = place or path
    while True:
        with suppress(FileNotFoundError):
            # Opening alone does something to some devices.
            verify_is_regular(os.stat(path, dir_fd=dir_fd, follow_symlinks=False), place)
        fd = os.open(path, _OPEN, 0o644, dir_fd=dir_fd)
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
        hint: for the user, where it is a link.

    Raises:
        InvalidImageError: it is of something else.
    """
    if not stat.S_ISREG(status.st_mode):
        is_link = stat.S_ISLNK(status.st_mode)
        raise InvalidImageError(
            f"expected a file, got {kind_of_file(status)}", where=place, hint=hint if is_link else None
        )


def kind_of_file(status: os.stat_result) -> str:
    """Return what has a name, with its article."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


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
