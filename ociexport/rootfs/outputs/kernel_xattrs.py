"""Which extended attributes Linux accepts, on any file system; `unpack` leaves out the others, and so do disk images.

Spec: xattr(7); acl(5); Linux include/uapi/linux/posix_acl_xattr.h, include/uapi/linux/capability.h.
"""

from __future__ import annotations

import struct

from ociexport.layers.losses import Losses, count_lost_xattr
from ociexport.layers.tar.reader import Entry, EntryType

ACCESS_ACL, DEFAULT_ACL = b"system.posix_acl_access", b"system.posix_acl_default"
CAPABILITIES = b"security.capability"
_NAMESPACES = (b"user.", b"trusted.", b"security.")
# XATTR_NAME_MAX and XATTR_SIZE_MAX.
_MAX_NAME_BYTES, _MAX_VALUE_BYTES = 255, 65_536
_FILES_AND_DIRECTORIES = frozenset({EntryType.FILE, EntryType.DIRECTORY})

_ACL_HEADER, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ACL_TAGS = (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER)
# Size of the value by revision, in the highest byte of the first number; bit 0 says whether they are effective.
_CAPABILITY_SIZES = {0x0200_0000: 20, 0x0300_0000: 24}


def kernel_xattrs(entry: Entry, losses: Losses) -> dict[bytes, bytes]:
    """Return the attributes of an entry that Linux would set; the others are counted in ``losses``, as `unpack` does.

    An access ACL that says no more than the mode does is left out too, as by every file system, and is not counted.
    """
    kept = {}
    for name, value in (entry.xattrs or {}).items():
        if not _is_accepted(entry.type, name, value):
            count_lost_xattr(losses, losses.refused_xattrs, name)
        elif not (name in (ACCESS_ACL, DEFAULT_ACL) and _says_nothing(name, value)):
            kept[name] = value
    return kept


def _is_accepted(kind: EntryType, name: bytes, value: bytes) -> bool:
    if len(name) > _MAX_NAME_BYTES or len(value) > _MAX_VALUE_BYTES or b"\0" in name:
        return False
    if name in (ACCESS_ACL, DEFAULT_ACL):
        # An ACL without entries removes one, which is allowed for anything but links.
        is_place = kind is EntryType.DIRECTORY or name == ACCESS_ACL or len(value) <= _ACL_HEADER.size
        return is_place and kind is not EntryType.SYMLINK and _is_acl(value)
    if name == CAPABILITIES:
        return not value or _CAPABILITY_SIZES.get(int.from_bytes(value[:4], "little") & ~1) == len(value)
    if name.startswith(b"user.") and kind not in _FILES_AND_DIRECTORIES:
        return False
    return any(name.startswith(namespace) and name != namespace for namespace in _NAMESPACES)


def _is_acl(value: bytes) -> bool:
    """Whether ``value`` is an ACL that the kernel accepts: the entries in order, each of the four kinds there once."""
    if not value:
        return True
    count, rest = divmod(len(value) - _ACL_HEADER.size, _ACL_ENTRY.size)
    if count < 0 or rest or _ACL_HEADER.unpack_from(value)[0] != _ACL_VERSION:
        return False
    entries = list(_ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :]))
    tags = [tag for tag, _, _ in entries]
    if not tags:
        return True
    needs_mask = _USER in tags or _GROUP in tags
    return (
        tags == sorted(tags)
        and all(tag in _ACL_TAGS and permissions <= 7 for tag, permissions, _ in entries)
        and all(number != 0xFFFF_FFFF for tag, _, number in entries if tag in (_USER, _GROUP))
        and tags.count(_USER_OBJ) == tags.count(_GROUP_OBJ) == tags.count(_OTHER) == 1
        and (1 if needs_mask else 0) <= tags.count(_MASK) <= 1
    )


def _says_nothing(name: bytes, value: bytes) -> bool:
    entries = (len(value) - _ACL_HEADER.size) // _ACL_ENTRY.size
    return entries <= (3 if name == ACCESS_ACL else 0)


def kernel_mode(entry: Entry) -> int:
    """Return the mode of an entry after its access ACL was set: the ACL's owner, mask and others are in it."""
    value = (entry.xattrs or {}).get(ACCESS_ACL, b"")
    if len(value) <= _ACL_HEADER.size or not _is_accepted(entry.type, ACCESS_ACL, value):
        return entry.mode
    by_tag: dict[int, int] = {
        tag: permissions for tag, permissions, _ in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :])
    }
    group = by_tag.get(_MASK, by_tag[_GROUP_OBJ])
    return entry.mode & ~0o777 | by_tag[_USER_OBJ] << 6 | group << 3 | by_tag[_OTHER]
