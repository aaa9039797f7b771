"""Reads the extended attributes of files on disk, and prepares files for them."""

from __future__ import annotations

import os
from contextlib import suppress

from ociexport.layers.losses import HAS_XATTRS, is_foreign_xattr


def confirm_owner(target: int | bytes, *, dir_fd: int | None = None) -> None:
    """Give root's file to root once more, before it gets its first attribute; this changes nothing but for fakeroot(1).

    There a new file counts as root's until it gets an attribute; then it counts as its true owner's, unless its owner
    was set before. Call it before the mode is set, since it drops setuid.

    Args:
        target: an open file, or a name, which is not followed if it is a link.
        dir_fd: the directory that the name is in.
    """
    if os.geteuid() != 0:
        return
    follow = isinstance(target, int)
    status = os.stat(target, dir_fd=dir_fd, follow_symlinks=follow)
    if status.st_uid == status.st_gid == 0:
        with suppress(OSError):  # a user namespace without id 0
            os.chown(target, 0, 0, dir_fd=dir_fd, follow_symlinks=follow)


def read_xattrs(target: int | bytes) -> dict[bytes, bytes]:
    """Return the attributes of an open file, or of a name without following a link, in byte order of their names.

    Attributes that belong to the machine, which `unpack` never sets, are left out.

    Raises:
        OSError: an attribute can't be read.
    """
    if not HAS_XATTRS:
        return {}
    follow = isinstance(target, int)
    try:
        names = sorted(map(os.fsencode, os.listxattr(target, follow_symlinks=follow)))
    except OSError:
        return {}  # a file system without extended attributes
    own = (name for name in names if not is_foreign_xattr(name))
    return {name: os.getxattr(target, name, follow_symlinks=follow) for name in own}
