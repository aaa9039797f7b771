"""What is looked at before the first layer is applied: room for the tree, and what the file system can't keep."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from ociexport.documents import Layer
from ociexport.progress import format_bytes

_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def verify_room(fd: int, layers: tuple[Layer, ...], target: str) -> None:
    """Return if the layers can fit on the file system of ``fd``: their compressed bytes are the least that they need.

    Raises:
        OSError: they can't (ENOSPC), or no file can be made (no free inodes); nothing was written.
    """
    status = os.statvfs(fd)
    free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
    needed = sum(layer.descriptor.size for layer in layers)
    # ramfs and some network file systems tell nothing, and say 0 of 0.
    if status.f_blocks and needed > free:
        raise OSError(
            errno.ENOSPC,
            f"expected room for {format_bytes(needed)} at least, got {format_bytes(free)} free"
            " (--no-preflight goes on all the same)",
            target,
        )
    # Others make inodes as they need them.
    if status.f_files and not status.f_favail:
        raise OSError(errno.ENOSPC, "expected free inodes, got none", target)


def missing_features(fd: int) -> Iterator[str]:
    """Yield a line for each thing that the file system of the empty directory ``fd`` can't keep; nothing is left."""
    names = [b"probe", b"PROBE", b"probe-link", b"probe-hard", b"probe-device"]
    try:
        os.close(os.open(names[0], _CREATE_FILE, 0o600, dir_fd=fd))
        if _refuses(lambda: os.close(os.open(names[1], _CREATE_FILE, 0o600, dir_fd=fd))):
            yield "names that differ in case only are one file here: such files of the image replace each other"
        if _refuses(lambda: os.symlink("x", names[2], dir_fd=fd)):
            yield "there are no symbolic links here: an image that has one can't be unpacked"
        if _refuses(lambda: os.link(names[0], names[3], src_dir_fd=fd, dst_dir_fd=fd)):
            yield "there are no hard links here: an image that has one can't be unpacked"
        if _refuses(lambda: _set_xattr(fd, names[0])):
            yield "there are no extended attributes here: file capabilities and ACLs are lost"
        if os.geteuid() == 0 and _refuses(lambda: os.mknod(names[4], 0o020600, os.makedev(1, 3), dir_fd=fd)):
            yield "devices can't be made here: those of the image are left out"
    finally:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)


def _refuses(action: Callable[[], object]) -> bool:
    try:
        action()
    except (OSError, AttributeError):
        return True
    return False


def _set_xattr(fd: int, name: bytes) -> None:
    probe_fd = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.setxattr(probe_fd, b"user.ociexport", b"1")
    finally:
        os.close(probe_fd)
