"""kernel_xattrs: the attributes that remain are those that the kernel sets on a file of the same type."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from ociexport.layers.losses import Losses
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, EntryType
from ociexport.rootfs.outputs.kernel_xattrs import ACCESS_ACL, CAPABILITIES, DEFAULT_ACL, kernel_xattrs
from tests.support.acls import ACL, MASK_ACL, PLAIN_ACL, WRONG_ACL, acl

_NOBODY = 2**32 - 1
_ATTRIBUTES = [
    *((name, b"v") for name in (b"user.a", b"user.", b"user", b"trusted.a", b"trusted.", b"security.a", b"security.")),
    *((name, b"v") for name in (b"system.a", b"com.apple.quarantine", b"a", b".a", b"USER.a", b"user.\xff\xfe")),
    (b"user." + b"n" * 250, b"v"),
    (b"user." + b"n" * 251, b"v"),
    (b"trusted.empty", b""),
    *((name, value) for name in (ACCESS_ACL, DEFAULT_ACL) for value in (ACL, PLAIN_ACL, MASK_ACL, WRONG_ACL, acl())),
    *(
        (ACCESS_ACL, value)
        for value in (
            b"", b"\2\0\0", ACL[:-1], b"\1" + ACL[1:],
            acl((1, 6, _NOBODY), (2, 7, 5), (4, 4, _NOBODY), (32, 4, _NOBODY)),  # no mask
            acl((1, 6, _NOBODY), (4, 4, _NOBODY), (16, 4, _NOBODY), (16, 4, _NOBODY), (32, 4, _NOBODY)),
            acl((1, 6, _NOBODY), (4, 4, _NOBODY)),
            acl((1, 15, _NOBODY), (4, 4, _NOBODY), (32, 4, _NOBODY)),
            acl((1, 6, 7), (4, 4, 7), (32, 4, 7)),
            acl((1, 6, _NOBODY), (2, 7, _NOBODY), (4, 4, _NOBODY), (16, 4, _NOBODY), (32, 4, _NOBODY)),
            acl((1, 6, _NOBODY), (2, 7, 5), (2, 7, 5), (4, 4, _NOBODY), (16, 4, _NOBODY), (32, 4, _NOBODY)),
        )
    ),
    *(
        (CAPABILITIES, struct.pack("<I", magic) + bytes(size - 4))
        for magic, size in (
            (0x0100_0000, 12), (0x0200_0000, 20), (0x0200_0001, 20), (0x0200_0002, 20), (0x0300_0001, 24),
            (0x0300_0000, 20), (0x0200_0000, 24), (0x0400_0000, 24),
        )
    ),
    (CAPABILITIES, b""),
]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets attributes of all namespaces")
@pytest.mark.parametrize("kind", [EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK, EntryType.FIFO])
def test_what_remains_is_what_the_kernel_sets(tmp_path: Path, kind: EntryType) -> None:
    for number, (name, value) in enumerate(_ATTRIBUTES):
        path = tmp_path / str(number)
        if kind is EntryType.DIRECTORY:
            path.mkdir()
        elif kind is EntryType.SYMLINK:
            path.symlink_to("target")
        elif kind is EntryType.FIFO:
            os.mkfifo(path)
        else:
            path.touch()
        losses = Losses()
        kept = kernel_xattrs(IMPLIED_DIRECTORY._replace(type=kind, xattrs={name: value}), losses)
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError:
            assert (kept, losses.refused_xattrs.total()) == ({}, 1), (name, value)
            continue
        found = os.listxattr(path, follow_symlinks=False)
        assert kept == dict.fromkeys(map(os.fsencode, found), value), (name, value)
        assert not losses.refused_xattrs
