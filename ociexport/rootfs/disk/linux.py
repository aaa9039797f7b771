"""Linux's openat2 system call, which Python's `os` does not have: a path resolved by the kernel within a root.

Spec: openat2(2), RESOLVE_IN_ROOT; Linux 5.6.
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
