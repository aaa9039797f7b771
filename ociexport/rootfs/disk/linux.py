"""System calls that Python's `os` lacks, or offers only in a form that follows links.

- `resolve_in_root`: the kernel resolves a path within a root (openat2(2), RESOLVE_IN_ROOT; Linux 5.6).
- `change_mode`: sets a mode by name, never through a link (fchmodat(2), "flags"; openat(2), O_PATH).
- `name_of`, `name_in`: names in /proc of open files, for calls that take only names (proc_pid_fd(5)).
- `names_in`: the names that are in an open directory now. A btrfs descriptor shows the directory's content at the time
  of its opening (Linux 6.6, "btrfs: fix infinite directory reads"); later names need a rewind or a new descriptor.
- `exchange_names`, `sync_file_system`: renameat2(2), RENAME_EXCHANGE; syncfs(2).
- `free_range`: fallocate(2), "Deallocating file space".
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from functools import cache

# For opening a name in its parent directory: never through a link, and without waiting for the other end of a fifo.
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# The number is the same on every processor (unified since Linux 5.6).
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_O_PATH = getattr(os, "O_PATH", 0)
# struct open_how: flags, mode, resolve.
_OPEN_HOW = struct.Struct("QQQ")
_DESCRIPTORS = b"/proc/self/fd"
_OPEN_AGAIN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_RENAME_EXCHANGE = 2
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
# Errors that mean the operation is unsupported: no such call, no such flag, not on this file system.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


@cache
def is_openat2_available() -> bool:
    """Whether openat2 works here; the call is tried, since a sandbox's filter may block it."""
    if not sys.platform.startswith("linux"):
        return False
    root_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_openat2(root_fd, b"."))
    except OSError:
        return False
    finally:
        os.close(root_fd)
    return os.path.isdir("/proc/self/fd")


def resolve_in_root(root_fd: int, path: bytes) -> bytes | None:
    """Return the real path of the directory ``path`` below ``root_fd``, with links resolved as in a chroot.

    Returns:
        components joined by slashes, ``b""`` for the root itself; None if a link dangles.

    Raises:
        OSError: ``path`` is not a directory, or its links form a loop.
    """
    try:
        fd = _openat2(root_fd, path)
    except FileNotFoundError:
        return None
    try:
        root = os.readlink(b"/proc/self/fd/%d" % root_fd)
        real = os.readlink(b"/proc/self/fd/%d" % fd)
    finally:
        os.close(fd)
    if real == root:
        return b""
    prefix = root.rstrip(b"/") + b"/"
    if not real.startswith(prefix):
        # Possible only if another process moves the tree meanwhile; the kernel prevents all else.
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    return real[len(prefix) :]


def _openat2(root_fd: int, path: bytes) -> int:
    how = _OPEN_HOW.pack(_O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    fd = _libc().syscall(_SYS_OPENAT2, root_fd, ctypes.c_char_p(path), ctypes.c_char_p(how), len(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(fd)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def change_mode(parent_fd: int, name: bytes, mode: int) -> None:
    """Set the mode of a file by its name, without opening the file; a link's target keeps its mode.

    Raises:
        OSError: also if the name is a link and the system has no modes for links.
    """
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, mode, dir_fd=parent_fd, follow_symlinks=False)
        return
    fd = os.open(name, _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        os.chmod(name_of(fd), mode)
    finally:
        os.close(fd)


def name_of(fd: int) -> bytes:
    """Return a name in /proc of an open file, which may be open with O_PATH.

    Raises:
        OSError: /proc is not mounted, as in a plain chroot.
    """
    if not os.path.isdir(_DESCRIPTORS):
        raise OSError(errno.ENOSYS, "devices, pipes and links with attributes need /proc, which is not mounted")
    return b"%b/%d" % (_DESCRIPTORS, fd)


def name_in(directory_fd: int, name: bytes) -> bytes:
    """Return a path through /proc of ``name`` in an open directory; the caller must not follow a link there.

    Raises:
        OSError: as `name_of` does.
    """
    return b"%b/%b" % (name_of(directory_fd), name)


def names_in(fd: int) -> list[str]:
    """Return all names in the directory ``fd``, in no order.

    Raises:
        OSError: the directory can't be read.
    """
    try:
        fresh_fd = os.open(b".", _OPEN_AGAIN, dir_fd=fd)
    except PermissionError:
        # The directory's mode has changed since it was opened: `Rootfs.finish` may deny it to an ordinary user.
        os.lseek(fd, 0, os.SEEK_SET)
        return os.listdir(fd)
    try:
        return os.listdir(fresh_fd)
    finally:
        os.close(fresh_fd)


def exchange_names(directory_fd: int, first: bytes, second: bytes) -> bool:
    """Exchange two names in one directory; return False if this system does not support that.

    Raises:
        OSError: the system supports the exchange, but not of these names.
    """
    renameat2 = getattr(_libc(), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(directory_fd, first, directory_fd, second, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), first, None, second)


def sync_file_system(fd: int) -> None:
    """Return when all data written to the file system of ``fd`` is on disk.

    Raises:
        OSError: some data could not be written.
    """
    syncfs = getattr(_libc(), "syncfs", None)
    if syncfs is None:
        os.sync()
    elif syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def free_range(fd: int, offset: int, size: int) -> bool:
    """Make a range of a file zeros and free its blocks; return False if that is not possible."""
    libc = _libc()
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    offset_type = ctypes.c_int64 if hasattr(libc, "fallocate64") else ctypes.c_long
    flags = _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE
    return call is not None and call(fd, flags, offset_type(offset), offset_type(size)) == 0
