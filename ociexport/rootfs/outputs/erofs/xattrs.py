"""Extended attributes in EROFS: those of one inode behind it, those of several inodes in an area that all share.

Spec: Linux Documentation/filesystems/erofs.rst, "Shared xattrs metadata space"; fs/erofs/erofs_fs.h,
`struct erofs_xattr_entry` and `struct erofs_xattr_ibody_header`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence

from ociexport.layers.losses import Losses, count_lost_xattr
from ociexport.rootfs.outputs.flat_image import FlatNode, naming
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

    def __init__(self, nodes: Sequence[FlatNode], losses: Losses) -> None:
        """Take the attributes of ``nodes``; count in ``losses`` those that the format can't store.

        Raises:
            InvalidImageError: `Losses.xattrs_must_fit` says that none may be lacking.
        """
        self._losses = losses
        self._kept: dict[int, dict[bytes, bytes]] = {}
        uses: Counter[_Xattr] = Counter()
        for node in nodes:
            if node.entry.xattrs and (kept := self._storable(node)):
                self._kept[node.number] = kept
                uses.update(kept.items())
        self.shared = bytearray()
        self._numbers: dict[_Xattr, int] = {}
        for xattr, count in uses.items():
            if count > 1 or len(xattr[1]) > _LARGE_BYTES:
                self._numbers[xattr] = len(self.shared) // _ALIGNMENT
                self.shared += _encoded(xattr)
        for node in nodes:
            # Fewer fit: what is not shared is small.
            if len(self._kept.get(node.number, ())) > _MAX_SHARED:
                self._leave_out_largest(node)

    def body_of(self, number: int) -> bytes:
        """Return what stands behind the inode of a node, by its `FlatNode.number`."""
        if number not in self._kept:
            return b""
        shared, own = self._parts_of(number)
        return b"".join([_HEADER.pack(0, len(shared)), struct.pack(f"<{len(shared)}I", *shared), *own.values()])

    def _storable(self, node: FlatNode) -> dict[bytes, bytes]:
        with naming(node):
            kept = kernel_xattrs(node.entry, self._losses)
            for name in [name for name, value in kept.items() if len(value) > _MAX_VALUE_BYTES]:
                self._leave_out(kept, name)
        return kept

    def _leave_out_largest(self, node: FlatNode) -> None:
        """Leave out the largest attributes of a node until the others fit behind its inode."""
        shared, own = self._parts_of(node.number)
        size = _HEADER.size + _ALIGNMENT * len(shared) + sum(map(len, own.values()))
        by_size = sorted(own, key=lambda name: len(own[name]))
        with naming(node):
            while size > _MAX_BODY_BYTES:
                name = by_size.pop()
                size -= len(own[name])
                self._leave_out(self._kept[node.number], name)

    def _leave_out(self, kept: dict[bytes, bytes], name: bytes) -> None:
        count_lost_xattr(self._losses, self._losses.unstorable_xattrs, name)
        del kept[name]

    def _parts_of(self, number: int) -> tuple[list[int], dict[bytes, bytes]]:
        """Return where the shared attributes of a node are, and its own ones as they are stored, by their names."""
        shared: list[int] = []
        own: dict[bytes, bytes] = {}
        for xattr in self._kept[number].items():
            place = self._numbers.get(xattr)
            if place is not None and len(shared) < _MAX_SHARED:
                shared.append(place)
            else:
                own[xattr[0]] = _encoded(xattr)
        return shared, own


def body_count(body: bytes) -> int:
    """Return the number by which an inode tells the size of what stands behind it."""
    return (len(body) - _HEADER.size) // _ALIGNMENT + 1 if body else 0


def _encoded(xattr: _Xattr) -> bytes:
    name, value = xattr
    prefix, index = next(item for item in _PREFIXES if name.startswith(item[0]))
    name = name[len(prefix) :]
    encoded = _ENTRY.pack(len(name), index, len(value)) + name + value
    return encoded + bytes(-len(encoded) % _ALIGNMENT)
