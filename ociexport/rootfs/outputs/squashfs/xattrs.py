"""Extended attributes: each set is stored once.

Squashfs has the namespaces ``user``, ``trusted`` and ``security``. ACLs are in ``system``, which it does not have; they
are counted as a loss.

Spec: Linux Documentation/filesystems/squashfs.rst, "3.7 Xattr table".
"""

from __future__ import annotations

import struct

from ociexport.layers.losses import Losses, count_lost_xattr
from ociexport.layers.tar.reader import Entry
from ociexport.rootfs.outputs.flat_image import FlatNode, naming
from ociexport.rootfs.outputs.kernel_xattrs import kernel_xattrs
from ociexport.rootfs.outputs.squashfs.compression import Compression
from ociexport.rootfs.outputs.squashfs.metadata import MetadataStream, indexed_table

NO_XATTRS = 0xFFFFFFFF
NO_TABLE = 0xFFFFFFFF_FFFFFFFF
_NAMESPACES = {b"user": 0, b"trusted": 1, b"security": 2}
# Number of the namespace, and length of the rest of the name.
_NAME = struct.Struct("<HH")
_VALUE = struct.Struct("<I")
# Reference to the first attribute, their number, and the bytes of their names (with a NUL each) and values.
_SET = struct.Struct("<QII")
_TABLE = struct.Struct("<QII")


class XattrTable:
    """All sets of attributes.

    Args:
        losses: where attributes are counted that can't be stored.
    """

    def __init__(self, compression: Compression, losses: Losses) -> None:
        self._compression = compression
        self._losses = losses
        self._attributes = MetadataStream(compression)
        self._sets = bytearray()
        self._numbers: dict[tuple[tuple[bytes, bytes], ...], int] = {}

    def number_of(self, node: FlatNode) -> int:
        """Return the number of the set of a node's attributes; `NO_XATTRS` if it has none that can be stored."""
        if not node.entry.xattrs:
            return NO_XATTRS
        with naming(node):
            attributes = tuple(self._storable(node.entry))
        if not attributes:
            return NO_XATTRS
        number = self._numbers.setdefault(attributes, len(self._numbers))
        if number == len(self._sets) // _SET.size:
            self._add(attributes)
        return number

    def _storable(self, entry: Entry) -> list[tuple[bytes, bytes]]:
        storable = []
        for name, value in kernel_xattrs(entry, self._losses).items():
            if name.partition(b".")[0] in _NAMESPACES:
                storable.append((name, value))
            else:
                count_lost_xattr(self._losses, self._losses.unstorable_xattrs, name)
        return storable

    def _add(self, attributes: tuple[tuple[bytes, bytes], ...]) -> None:
        total_bytes = sum(len(name) + 1 + len(value) for name, value in attributes)
        self._sets += _SET.pack(self._attributes.reference, len(attributes), total_bytes)
        for full_name, value in attributes:
            namespace, _, name = full_name.partition(b".")
            self._attributes.write(_NAME.pack(_NAMESPACES[namespace], len(name)) + name)
            self._attributes.write(_VALUE.pack(len(value)) + value)

    def packed_at(self, position: int) -> tuple[bytes, int]:
        """Return the table as it is stored at ``position``, and where in the file it is looked up; it may be empty."""
        if not self._sets:
            return b"", NO_TABLE
        packed = self._attributes.finish()
        sets, index_at = indexed_table(self._sets, self._compression, position + len(packed))
        blocks = index_at - position - len(packed)
        header = _TABLE.pack(position, len(self._numbers), 0)
        return b"".join((packed, sets[:blocks], header, sets[blocks:])), index_at
