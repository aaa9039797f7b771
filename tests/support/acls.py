"""ACLs in the form of extended attributes."""

from __future__ import annotations

import struct

_NOBODY = 2**32 - 1


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL as an attribute: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACL = acl((1, 6, _NOBODY), (2, 7, 1000), (2, 1, 70_000), (4, 4, _NOBODY), (8, 5, 3), (16, 5, _NOBODY), (32, 0, _NOBODY))
PLAIN_ACL = acl((1, 7, _NOBODY), (4, 1, _NOBODY), (32, 1, _NOBODY))
MASK_ACL = acl((1, 7, _NOBODY), (4, 1, _NOBODY), (16, 3, _NOBODY), (32, 1, _NOBODY))
WRONG_ACL = acl((4, 1, _NOBODY), (1, 7, _NOBODY))
