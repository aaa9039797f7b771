"""Reads the extended attributes of files on disk."""

from __future__ import annotations

import os

from ociexport.layers.losses import HAS_XATTRS, is_foreign_xattr


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
