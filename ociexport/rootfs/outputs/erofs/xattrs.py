"""Extended attributes in EROFS: those of one inode behind it, those of several inodes in an area that all share.

Spec: Linux Documentation/filesystems/erofs.rst, "Shared xattrs metadata space"; fs/erofs/erofs_fs.h,
`struct erofs_xattr_entry` and `struct erofs_xattr_ibody_header`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable

from ociexport.errors import InvalidImageError, counted, quoted_path
from ociexport.layers.losses import Losses
from ociexport.rootfs.outputs.flat_image import FlatNode
from ociexport.rootfs.outputs.kernel_xattrs import ACCESS_ACL, DEFAULT_ACL, kernel_xattrs

_ENTRY = struct.Struct("<BBH")
_HEADER = struct.Struct("<IB7x")
_ALIGNMENT = 4
# In this order: the names of the ACLs have nothing after the prefix. EROFS keeps ACLs as the kernel gives them to
# programs.
_PREFIXES = ((ACCESS_ACL, 2), (DEFAULT_ACL, 3), (b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_MAX_VALUE_BYTES = 2**16 - 1
_MAX_SHARED = 255
# What the count in an inode can say: the header, and four bytes each for the others.
_MAX_BODY_BYTES = _HEADER.size + _ALIGNMENT * (2**16 - 2)
# A larger one is kept in the shared area: an inode with little behind it may have the end of its file there.
_LARGE_BYTES = 512

_Xattr = tuple[bytes, bytes]


class XattrTable:
    """The attributes of all nodes; those that several have are stored once.

    Attributes:
        shared: the area that inodes share.
    """

    def __init__(self, nodes: Iterable[FlatNode], losses: Losses) -> None:
        self._kept: dict[int, dict[bytes, bytes]] = {}
        uses: Counter[_Xattr] = Counter()
        for node in nodes:
            if node.entry.xattrs and (kept := kernel_xattrs(node.entry, losses)):
                self._kept[node.number] = kept
                uses.update(kept.items())
        self.shared = bytearray()
        self._numbers: dict[_Xattr, int] = {}
        for xattr, count in uses.items():
            if len(xattr[1]) <= _MAX_VALUE_BYTES and (count > 1 or len(xattr[1]) > _LARGE_BYTES):
                self._numbers[xattr] = len(self.shared) // _ALIGNMENT
                self.shared += _encoded(xattr)

    def body_of(self, number: int) -> bytes:
        """Return what stands behind the inode of a node, by its `FlatNode.number`.

        Raises:
            InvalidImageError: the format can't store so much.
        """
        kept = self._kept.get(number)
        if kept is None:
            return b""
        shared: list[int] = []
        own: list[bytes] = []
        for xattr in kept.items():
            place = self._numbers.get(xattr)
            if place is not None and len(shared) < _MAX_SHARED:
                shared.append(place)
            else:
                own.append(_encoded(xattr))
        body = b"".join([_HEADER.pack(0, len(shared)), struct.pack(f"<{len(shared)}I", *shared), *own])
        if len(body) > _MAX_BODY_BYTES:
            raise InvalidImageError(
                f"xattrs: expected at most {counted(_MAX_BODY_BYTES, 'byte')} for EROFS, got {len(body)}"
            )
        return body


def body_count(body: bytes) -> int:
    """Return the number by which an inode tells the size of what stands behind it."""
    return (len(body) - _HEADER.size) // _ALIGNMENT + 1 if body else 0


def _encoded(xattr: _Xattr) -> bytes:
    name, value = xattr
    if len(value) > _MAX_VALUE_BYTES:
        raise InvalidImageError(
            f"xattr {quoted_path(name)}: expected at most {counted(_MAX_VALUE_BYTES, 'byte')} for EROFS, "
            f"got {len(value)}"
        )
    prefix, index = next(item for item in _PREFIXES if name.startswith(item[0]))
    name = name[len(prefix) :]
    encoded = _ENTRY.pack(len(name), index, len(value)) + name + value
    return encoded + bytes(-len(encoded) % _ALIGNMENT)
