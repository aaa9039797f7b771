"""Images with what ext4 stores in different ways."""

from __future__ import annotations

import struct
import tarfile

from tests.support.acls import ACL, MASK_ACL, PLAIN_ACL, WRONG_ACL
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.sparse_members import sparse_member

_TEXT = bytes(range(1, 251))
CAPABILITY = struct.pack("<5I", 0x0200_0001, 1 << 13, 0, 0, 0)


def _acl_members() -> list[Member]:
    access, default = "system.posix_acl_access", "system.posix_acl_default"
    return [
        member("acl/file", b"x", mode=0o4644, xattrs={access: ACL}),
        member("acl/mode-only", b"x", mode=0o600, xattrs={access: PLAIN_ACL}),
        member("acl/mask", b"x", mode=0o600, xattrs={access: MASK_ACL}),
        member("acl/wrong", b"x", mode=0o600, xattrs={access: WRONG_ACL}),
        member("acl/wrong-place", b"x", mode=0o600, xattrs={default: ACL}),
        directory("acl/directory", 0o2750, xattrs={access: ACL, default: PLAIN_ACL}),
        member("acl/fifo", type=tarfile.FIFOTYPE, xattrs={access: ACL}),
        symlink("acl/link", "x", xattrs={access: ACL}),
    ]


def shapes_source() -> MemorySource:
    """Return an image with the edges of the format; it has ``lost+found`` itself."""
    sizes = (1, 4095, 4096, 4097, 8192, 130_000, 131_073, 1_100_000)
    epochs = (-(2**31) - 1, -(2**31), -1, 0, 2**31 - 1, 2**31, 2**32 + 1, 2**34 - 2**31 - 1, 2**34 - 2**31, 2**40)
    big_map = {number * 8192 + number % 5: b"%04d" % number for number in range(1500)}
    return MemorySource(
        [
            tar_of(
                [
                    directory("./", 0o751, mtime=77),
                    directory("lost+found", 0o755, uid=7, mtime=78),
                    member("lost+found/kept", b"x"),
                    *(
                        member(f"size-{size}", bytes(range(1, 251)) * (size // 250) + b"z" * (size % 250))
                        for size in sizes
                    ),
                    *(symlink(f"link-{size}", "t" * size) for size in (1, 59, 60, 61, 4094, 4095)),
                    *(member(f"time{seconds}", pax_headers={"mtime": f"{seconds}.999999999"}) for seconds in epochs),
                    *(
                        member(f"device-{major}-{minor}", type=kind, devmajor=major, devminor=minor)
                        for kind, major, minor in (
                            (tarfile.CHRTYPE, 255, 255),
                            (tarfile.CHRTYPE, 256, 0),
                            (tarfile.BLKTYPE, 0, 256),
                            (tarfile.BLKTYPE, 4095, 1_048_575),
                        )
                    ),
                    *_acl_members(),
                    member("ids", uid=2**32 - 2, gid=65_536),
                    member("inside", xattrs={"user.note": b"v" * 60, "trusted.empty": b""}),
                    member("capable", b"x", xattrs={"security.capability": CAPABILITY, "user.long": b"l" * 3000}),
                    member("full", b"x", xattrs={"user.v": b"v" * 4028, "user.in": b"in the inode"}),
                    member("refused", b"x", xattrs={"odd.name": b"1", "security.capability": b"1", "user.": b"2"}),
                    symlink("labelled-link", "x", xattrs={"trusted.t": b"1", "user.refused": b"1"}),
                    directory("labelled", xattrs={f"user.{letter * 200}": b"1" for letter in "abcdef"}),
                    sparse_member("hole", 1_000_000, {1_000_000: b""}),
                    sparse_member("hole-at-end", 20_000, {0: b"a", 5000: b"b" * 10, 5500: b"c"}),
                    sparse_member("five", 50_000, {number * 9000: b"x" * 5 for number in range(5)}),
                    sparse_member("fragments", 1500 * 8192 + 3, big_map),
                    *(member(f"names/{number}-" + "n" * (255 - len(f"{number}-"))) for number in range(400)),
                    *(hard_link(f"hard/{number}", "size-1") for number in range(300)),
                    *(directory(f"directories/{number}") for number in range(300)),
                    member("bytes/\udcff\udc80\n\x01", b"x"),
                ]
            )
        ]
    )
