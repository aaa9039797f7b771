"""System calls that Python's `os` lacks, or has in a form that follows links.

- `resolve_in_root`: openat2, a path resolved by the kernel within a root (openat2(2), RESOLVE_IN_ROOT; Linux 5.6).
- `change_mode`: a mode set by name, never through a link (fchmodat(2), "flags"; openat(2), O_PATH).
- `name_of`, `name_in`: names in /proc of what is open, where Linux takes names only (proc_pid_fd(5)).
- `names_in`: the names that are in an open directory now. btrfs shows through a descriptor what was there when it was
  opened (Linux 6.6, "btrfs: fix infinite directory reads"); only a rewind, or a new descriptor, shows what came since.
- `exchange_names`, `sync_file_system`: renameat2(2), RENAME_EXCHANGE; syncfs(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from functools import cache

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
# What kernels and file systems say that can't: no such call, no such flag, not on this file system.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


@cache
def is_openat2_available() -> bool:
    """Whether this kernel has openat2; a sandbox's filter may hide it, so it is tried."""
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
    """Return where the directory ``path`` really is below ``root_fd``, links followed as a chroot would.

    Returns:
        components joined by slashes, ``b""`` for the root itself; None where a link dangles.

    Raises:
        OSError: ``path`` is no directory, or its links go round in a circle.
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
        # The kernel does not let this happen, unless the tree is moved by someone else meanwhile.
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
    """Set the mode of what has this name, and is not opened for it; a link's target keeps its own.

    Raises:
        OSError: also where it is a link, and the system knows no modes of links.
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
    """Return a name of what is open, be it with O_PATH.

    Raises:
        OSError: there is no /proc, as in a chroot where nobody mounted it.
    """
    if not os.path.isdir(_DESCRIPTORS):
        raise OSError(errno.ENOSYS, "devices, pipes and links with attributes need /proc, which is not mounted")
    return b"%b/%d" % (_DESCRIPTORS, fd)


def name_in(directory_fd: int, name: bytes) -> bytes:
    """Return a name of what is called ``name`` in an open directory; whoever uses it does not follow a link there.

    Raises:
        OSError: as `name_of` does.
    """
    return b"%b/%b" % (name_of(directory_fd), name)


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
