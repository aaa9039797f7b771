"""Copies of a file, for hard links beyond the number that a file system allows for one file (link(2), EMLINK).

File systems that can share data between files do so (ioctl_ficlone(2)).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ociexport.rootfs.disk.file_data import write_with_holes
from ociexport.rootfs.disk.linux import OPEN_FILE
from ociexport.rootfs.disk.readable import made_readable
from ociexport.rootfs.disk.xattrs import confirm_owner, read_xattrs
from ociexport.spec.digest import CHUNK_BYTES

_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE = 0x40049409
# Errors of a file system that shares no data, or not between these files.
_UNSHARED = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.ETXTBSY}
)


def copy_file(source_fd: int, source_name: bytes, directory_fd: int, name: bytes) -> int:
    """Copy a regular file with its holes and all its metadata; return the inode number of the copy.

    Args:
        source_fd: the directory of the file.
        source_name: of the file in it.
        directory_fd: the directory of the copy.
        name: of the copy, which does not exist yet.
    """
    status = os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode)
    with _readable(source_fd, source_name, status) as original:
        copy = os.open(name, _CREATE_FILE, 0o600, dir_fd=directory_fd)
        try:
            if not _is_cloned(original, copy):
                write_with_holes(copy, _chunks(original))
            made = os.fstat(copy)
            # As for every new file: the owner first, since chown drops setuid and capabilities.
            if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
                os.fchown(copy, status.st_uid, status.st_gid)
            for attribute, value in read_xattrs(original).items():
                confirm_owner(copy)
                os.setxattr(copy, attribute, value)
            os.fchmod(copy, mode)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
            return made.st_ino
        finally:
            os.close(copy)


@contextmanager
def _readable(directory_fd: int, name: bytes, status: os.stat_result) -> Iterator[int]:
    with made_readable(directory_fd, name, status):
        fd = os.open(name, OPEN_FILE, dir_fd=directory_fd)
        try:
            yield fd
        finally:
            os.close(fd)


def _chunks(fd: int) -> Iterator[memoryview]:
    while chunk := os.read(fd, CHUNK_BYTES):
        yield memoryview(chunk)


def _is_cloned(original: int, copy: int) -> bool:
    """Let a new file share the data of another; return False where that is not possible."""
    try:
        fcntl.ioctl(copy, _FICLONE, original)
    except OSError as error:
        if error.errno not in _UNSHARED:
            raise
        return False
    return True
