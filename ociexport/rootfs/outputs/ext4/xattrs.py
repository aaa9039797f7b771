"""Extended attributes, in the inode and in a block of their own.

Spec: Linux Documentation/filesystems/ext4/attributes.rst; for ACLs, fs/ext4/acl.h (the form on disk, version 1) and
include/uapi/linux/posix_acl_xattr.h (the form of the attribute, version 2).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ociexport.layers.losses import Losses, count_lost_xattr
from ociexport.layers.tar.reader import Entry
from ociexport.rootfs.outputs.ext4.checksums import crc32c
from ociexport.rootfs.outputs.ext4.layout import BLOCK_BYTES
from ociexport.rootfs.outputs.kernel_xattrs import ACCESS_ACL, DEFAULT_ACL, kernel_xattrs
from ociexport.spec.named_tuple import NamedTuple

# A whole name, or the beginning of names; the number stands for it on disk.
_WHOLE_NAMES = {ACCESS_ACL: 2, DEFAULT_ACL: 3}
_PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_NUMBERED = (*_WHOLE_NAMES.items(), *_PREFIXES)
_MAGIC = 0xEA020000
_MAGIC_BYTES = _MAGIC.to_bytes(4, "little")
# Length of the name, number of its prefix, offset of the value, inode of the value (always 0), its length, hash.
_ENTRY = struct.Struct("<BBHIII")
_END_BYTES = 4  # the zeros after the last entry
# Magic, references, blocks, hash, checksum.
_BLOCK_HEADER = struct.Struct("<IIIII12x")
# What is left of an inode of 256 bytes, after its 160 bytes of fields and the magic number.
INODE_SPACE = 96
_INODE_BYTES = INODE_SPACE - len(_MAGIC_BYTES)
_BLOCK_BYTES = BLOCK_BYTES - _BLOCK_HEADER.size
_ACL_VERSION_ON_DISK = 1
_ACL_ENTRY = struct.Struct("<HHI")
_NAMED_TAGS = (0x02, 0x08)  # a user, a group: their entries have an id


class StoredXattrs(NamedTuple):
    """A file's attributes as they are stored.

    Args:
        in_inode: for the end of the inode, `INODE_SPACE` bytes; empty without attributes there.
        in_block: what did not fit, for `xattr_block`; empty if all fit.
        too_large: names of those that fit in neither.
    """

    in_inode: bytes
    in_block: Sequence[_Attribute]
    too_large: Sequence[bytes] = ()


class _Attribute(NamedTuple):
    prefix: int
    name: bytes
    value: bytes

    @property
    def size(self) -> int:
        return _padded(_ENTRY.size + len(self.name)) + _padded(len(self.value))

    @property
    def full_name(self) -> bytes:
        """The name with its prefix."""
        return next(name for name, number in _NUMBERED if number == self.prefix) + self.name


def storable_xattrs(entry: Entry, losses: Losses) -> dict[bytes, bytes]:
    """Return the attributes of an entry that an inode and a block have space for; count the others in ``losses``.

    Larger ones would need the feature ea_inode, which boot loaders do not read.
    """
    kept = kernel_xattrs(entry, losses)
    for name in stored_xattrs(kept).too_large if kept else ():
        count_lost_xattr(losses, losses.unstorable_xattrs, name)
        del kept[name]
    return kept


def stored_xattrs(xattrs: dict[bytes, bytes]) -> StoredXattrs:
    """Return the form on disk of attributes, all of which `kernel_xattrs` has let through; the largest are left out."""
    inside: list[_Attribute] = []
    outside: list[_Attribute] = []
    room = _INODE_BYTES - _END_BYTES
    for attribute in sorted(_attribute(name, value) for name, value in xattrs.items()):
        if attribute.size <= room:
            inside.append(attribute)
            room -= attribute.size
        else:
            outside.append(attribute)
    size = sum(attribute.size for attribute in outside)
    # The kernel searches a block by prefix, length of the name, name.
    outside.sort(key=lambda attribute: (attribute.prefix, len(attribute.name), attribute.name))
    too_large: list[bytes] = []
    if size > _BLOCK_BYTES - _END_BYTES:
        outside, too_large = _fitting(outside, size)
    in_inode = _MAGIC_BYTES + _packed(inside, _INODE_BYTES, 0) if inside else b""
    return StoredXattrs(in_inode, outside, too_large)


def _fitting(attributes: list[_Attribute], size: int) -> tuple[list[_Attribute], list[bytes]]:
    """Return the attributes that fit a block when the largest are left out, and the names of these."""
    by_size = sorted(range(len(attributes)), key=lambda index: attributes[index].size)
    while size > _BLOCK_BYTES - _END_BYTES:
        size -= attributes[by_size.pop()].size
    kept = set(by_size)
    return (
        [attribute for index, attribute in enumerate(attributes) if index in kept],
        [attribute.full_name for index, attribute in enumerate(attributes) if index not in kept],
    )


def xattr_block(attributes: Sequence[_Attribute], place: int, seed: int) -> bytes:
    """Return the block for attributes that did not fit the inode.

    Args:
        attributes: as `stored_xattrs` gave them.
        place: number of the block.
        seed: the CRC of the file system's UUID.
    """
    content = _packed(attributes, _BLOCK_BYTES, _BLOCK_HEADER.size)
    hash_ = 0
    for attribute in attributes:
        hash_ = (hash_ << 16 ^ hash_ >> 16 ^ _hash_of(attribute)) & 0xFFFFFFFF
    crc = crc32c(place.to_bytes(8, "little"), seed)
    crc = crc32c(_BLOCK_HEADER.pack(_MAGIC, 1, 1, hash_, 0) + content, crc)
    return _BLOCK_HEADER.pack(_MAGIC, 1, 1, hash_, crc) + content


def _attribute(name: bytes, value: bytes) -> _Attribute:
    if name in _WHOLE_NAMES:
        return _Attribute(_WHOLE_NAMES[name], b"", _acl_on_disk(value))
    for prefix, number in _PREFIXES:
        if name.startswith(prefix):
            return _Attribute(number, name[len(prefix) :], value)
    raise AssertionError(f"xattr {name!r}: Linux does not accept it")


def _packed(attributes: Sequence[_Attribute], space: int, base: int) -> bytes:
    """Return entries from the front and values from the back; offsets count from ``base`` before the first entry."""
    content = bytearray(space)
    position, end = 0, space
    for attribute in attributes:
        prefix, name, value = attribute
        end -= _padded(len(value))
        offset = base + end if value else 0
        _ENTRY.pack_into(content, position, len(name), prefix, offset, 0, len(value), _hash_of(attribute))
        position += _ENTRY.size
        content[position : position + len(name)] = name
        position += _padded(len(name))
        content[end : end + len(value)] = value
    return bytes(content)


def _hash_of(attribute: _Attribute) -> int:
    hash_ = 0
    for byte in attribute.name:
        hash_ = (hash_ << 5 ^ hash_ >> 27 ^ byte) & 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", attribute.value.ljust(_padded(len(attribute.value)), b"\0")):
        hash_ = (hash_ << 16 ^ hash_ >> 16 ^ word) & 0xFFFFFFFF
    return hash_


def _acl_on_disk(value: bytes) -> bytes:
    """Return an ACL in the form on disk, where only entries of named users and groups have an id."""
    parts = [_ACL_VERSION_ON_DISK.to_bytes(4, "little")]
    for tag, permissions, id_ in _ACL_ENTRY.iter_unpack(value[4:]):
        entry = _ACL_ENTRY.pack(tag, permissions, id_)
        parts.append(entry if tag in _NAMED_TAGS else entry[:4])
    return b"".join(parts)


def _padded(size: int) -> int:
    return size + 3 & ~3
