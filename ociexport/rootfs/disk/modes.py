"""Modes set by name, which Linux's fchmodat does through a link that somebody may have planted meanwhile.

Spec: fchmodat(2), "flags"; openat(2), O_PATH.
"""

from __future__ import annotations

import os

from ociexport.rootfs.disk.procnames import name_of

_O_PATH = getattr(os, "O_PATH", 0)


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
