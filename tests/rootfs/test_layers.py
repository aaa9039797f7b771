"""rootfs: layers become exactly the declared root filesystem, and nothing outside is touched."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import struct
import sys
import tarfile
from collections.abc import Callable

import pytest

from ociexport.errors import (
    InvalidImageError,
)
from ociexport.rootfs.disk.metadata import XattrMode
from tests.support.memory_source import MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.unpacker import Unpacker

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners and makes devices")


# Creating entries.


def test_layers_are_applied_in_order(unpacker: Unpacker) -> None:
    """layer.md, "Applying Changesets"."""
    unpacker([member("a", b"1"), member("b", b"1")], [member("a", b"2")], [member("c", b"3")])
    assert unpacker.tree() == {"a": "2", "b": "1", "c": "3"}


def test_modes_and_times_are_exact(unpacker: Unpacker) -> None:
    old = os.umask(0o077)
    try:
        unpacker(
            [
                directory("d", 0o1777, pax_headers={"mtime": "1.000000001"}),
                member("d/f", b"x", mode=0o6751, pax_headers={"mtime": "2.5", "atime": "3.25"}),
                symlink("d/l", "f", pax_headers={"mtime": "4.000000004"}),
                member("d/none", mode=0),
            ]
        )
    finally:
        os.umask(old)
    d, f, link = (os.lstat(unpacker.rootfs / name) for name in ("d", "d/f", "d/l"))
    assert (stat.S_IMODE(d.st_mode), d.st_mtime_ns) == (0o1777, 1_000_000_001)
    assert (stat.S_IMODE(f.st_mode), f.st_mtime_ns, f.st_atime_ns) == (0o6751, 2_500_000_000, 3_250_000_000)
    assert link.st_mtime_ns == 4_000_000_004
    assert stat.S_IMODE(os.lstat(unpacker.rootfs / "d/none").st_mode) == 0


def test_directory_keeps_its_time_when_a_later_layer_writes_into_it(unpacker: Unpacker) -> None:
    unpacker([directory("d", mtime=5), directory("d/e", mtime=6)], [member("d/f"), member("d/e/g")])
    assert os.stat(unpacker.rootfs / "d").st_mtime_ns == 5_000_000_000
    assert os.stat(unpacker.rootfs / "d/e").st_mtime_ns == 6_000_000_000


def test_later_layer_changes_a_directory_and_keeps_its_content(unpacker: Unpacker) -> None:
    unpacker([directory("d", 0o755), member("d/f", b"x")], [directory("d", 0o700, mtime=9)])
    status = os.stat(unpacker.rootfs / "d")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o700, 9_000_000_000)
    assert unpacker.tree() == {"d": "dir", "d/f": "x"}


def test_missing_parents_are_made_the_same_each_time(unpacker: Unpacker) -> None:
    unpacker([member("a/b/c", b"x")])
    for name in ("", "a", "a/b"):
        status = os.stat(unpacker.rootfs / name)
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o755, 0)


def test_root_entry_sets_the_roots_metadata(unpacker: Unpacker) -> None:
    """kaniko writes "/", umoci and docker "./" or nothing."""
    unpacker([directory("./", 0o711, mtime=11), member("./a", b"x"), member("/b", b"y")])
    status = os.stat(unpacker.rootfs)
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o711, 11_000_000_000)
    assert unpacker.tree() == {"a": "x", "b": "y"}


def test_names_of_any_bytes_are_kept(unpacker: Unpacker) -> None:
    unpacker([member("caf\udce9", b"x")])
    assert os.listdir(os.fsencode(unpacker.rootfs)) == [b"caf\xe9"]


def test_last_of_duplicate_entries_wins(unpacker: Unpacker) -> None:
    unpacker(
        [member("a", b"1"), member("a", b"2"), symlink("b", "x"), member("b", b"3"), directory("c"), member("c", b"4")]
    )
    assert unpacker.tree() == {"a": "2", "b": "3", "c": "4"}


def test_directory_becomes_a_file_and_a_directory_again(unpacker: Unpacker) -> None:
    unpacker(
        [directory("d"), member("d/old", b"x")],
        [member("d", b"file")],
        [directory("d"), member("d/new", b"y")],
    )
    assert unpacker.tree() == {"d": "dir", "d/new": "y"}


def test_hard_links_share_one_inode(unpacker: Unpacker) -> None:
    unpacker([member("d/a", b"x"), hard_link("d/b", "d/a"), hard_link("c", "/d/a"), hard_link("e", "./d/b")])
    inodes = {os.stat(unpacker.rootfs / name).st_ino for name in ("d/a", "d/b", "c", "e")}
    assert len(inodes) == 1
    assert os.stat(unpacker.rootfs / "c").st_nlink == 4


def test_later_layer_replaces_one_name_of_a_hard_link_only(unpacker: Unpacker) -> None:
    """google/go-containerregistry issue 2002: the file's other names keep their content."""
    unpacker([member("a", b"old"), hard_link("b", "a")], [member("a", b"new")])
    assert unpacker.tree() == {"a": "new", "b": "old"}


def test_hard_link_to_itself_and_twice_is_tolerated(unpacker: Unpacker) -> None:
    unpacker([member("a", b"x"), hard_link("a", "a"), hard_link("b", "a"), hard_link("b", "a")])
    assert unpacker.tree() == {"a": "x", "b": "x"}


def test_hard_link_replaces_what_is_there(unpacker: Unpacker) -> None:
    unpacker([member("a", b"x"), directory("b"), member("b/c"), hard_link("b", "a")])
    assert unpacker.tree() == {"a": "x", "b": "x"}


def test_hard_link_to_a_symlink_is_that_link(unpacker: Unpacker) -> None:
    unpacker([symlink("a", "../../outside/file"), hard_link("b", "a")])
    assert unpacker.tree() == {"a": "-> ../../outside/file", "b": "-> ../../outside/file"}


@needs_root
def test_owners_survive_and_setuid_with_them(unpacker: Unpacker) -> None:
    """chown drops setuid, so the mode comes after it."""
    unpacker(
        [
            directory("d", 0o2775, uid=5, gid=50),
            member("d/root", mode=0o644),
            member("d/su", mode=0o4755, uid=1000, gid=1000),
            symlink("d/l", "x", uid=7, gid=8),
            directory("d/sub", 0o755),
        ]
    )
    got = {}
    for name in ("d", "d/root", "d/su", "d/l", "d/sub"):
        status = os.lstat(unpacker.rootfs / name)
        got[name] = (status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode)))
    assert got == {
        "d": (5, 50, "0o2775"),
        "d/root": (0, 0, "0o644"),
        "d/su": (1000, 1000, "0o4755"),
        "d/l": (7, 8, "0o777"),
        "d/sub": (0, 0, "0o755"),
    }


@needs_root
def test_devices_and_fifos_are_made(unpacker: Unpacker) -> None:
    unpacker(
        [
            member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
            member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=300, uid=3, mode=0o660),
            member("pipe", type=tarfile.FIFOTYPE, mode=0o600, mtime=3),
        ]
    )
    null, disk, pipe = (os.lstat(unpacker.rootfs / name) for name in ("null", "disk", "pipe"))
    assert stat.S_ISCHR(null.st_mode)
    assert (null.st_rdev, stat.S_IMODE(null.st_mode)) == (os.makedev(1, 3), 0o666)
    assert stat.S_ISBLK(disk.st_mode)
    assert (disk.st_rdev, disk.st_uid) == (os.makedev(8, 300), 3)
    assert stat.S_ISFIFO(pipe.st_mode)
    assert pipe.st_mtime_ns == 3_000_000_000


@needs_root
def test_xattrs_are_set_and_foreign_ones_left_out(unpacker: Unpacker) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    result = unpacker(
        [
            member("ping", b"x", mode=0o755, uid=1, xattrs={"security.capability": capability}),
            directory("d", xattrs={"trusted.overlay.opaque": b"y", "security.selinux": b"label\0"}),
            symlink("l", "x", xattrs={"trusted.note": b"on the link"}),
        ]
    )
    assert os.getxattr(unpacker.rootfs / "ping", "security.capability") == capability
    assert os.getxattr(unpacker.rootfs / "l", "trusted.note", follow_symlinks=False) == b"on the link"
    assert os.listxattr(unpacker.rootfs / "d") == []
    assert list(result.losses.lines()) == [
        "xattrs: 2 left out, specific to the machine that built the image: trusted.overlay.opaque, security.selinux"
    ]


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL of (tag, permissions, id) in the kernel's format for attributes (acl(5), xattr(7))."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@needs_root
def test_acls_are_set_and_not_inherited(unpacker: Unpacker) -> None:
    """A default ACL applies to files made later; files of the image in that directory keep the image's modes."""
    nobody = 2**32 - 1
    own = acl((1, 6, nobody), (2, 6, 1000), (4, 4, nobody), (16, 6, nobody), (32, 4, nobody))
    default = acl((1, 7, nobody), (2, 7, 1000), (4, 5, nobody), (16, 7, nobody), (32, 5, nobody))
    unpacker(
        [
            directory("d", 0o755, xattrs={"system.posix_acl_default": default}),
            member("d/f", b"1", mode=0o644),
            member("d/with", b"1", mode=0o664, xattrs={"system.posix_acl_access": own}),
        ],
        [member("d/later", b"2", mode=0o600), directory("d/e", 0o750), member("d/implied/x", mode=0o644)],
    )
    got = {
        name: (
            oct(stat.S_IMODE(os.stat(unpacker.rootfs / name).st_mode)),
            {key: os.getxattr(unpacker.rootfs / name, key) for key in os.listxattr(unpacker.rootfs / name)},
        )
        for name in ("d", "d/f", "d/with", "d/later", "d/e", "d/implied", "d/implied/x")
    }
    assert got == {
        "d": ("0o755", {"system.posix_acl_default": default}),
        "d/f": ("0o644", {}),
        "d/with": ("0o664", {"system.posix_acl_access": own}),
        "d/later": ("0o600", {}),
        "d/e": ("0o750", {}),
        "d/implied": ("0o755", {}),
        "d/implied/x": ("0o644", {}),
    }


def test_no_xattrs_are_set_where_none_are_wanted(unpacker: Unpacker) -> None:
    result = unpacker([member("a", xattrs={"user.x": b"1", "nonsense.name": b"1"})], xattrs=XattrMode.NONE)
    assert (os.listxattr(unpacker.rootfs / "a"), list(result.losses.lines())) == ([], [])


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress, lzma.compress, bz2.compress])
def test_media_type_does_not_matter(unpacker: Unpacker, compress: Callable[[bytes], bytes]) -> None:
    """All layers are declared as gzip here; the diff_id verifies the decompressed bytes."""
    source = MemorySource([tar_of([member("a", b"1")])], compress=compress)
    unpacker.unpack(source)
    assert unpacker.tree() == {"a": "1"}


def test_refused_xattr_is_counted_or_an_error(unpacker: Unpacker) -> None:
    layer = [member("a", b"x", xattrs={"nonsense.name": b"v"})]
    result = unpacker(layer)
    assert list(result.losses.lines()) == ["xattrs: 1 could not be set here: nonsense.name"]
    os.unlink(unpacker.rootfs / "a")
    with pytest.raises(OSError, match=r"nonsense\.name") as caught:
        unpacker(layer, xattrs=XattrMode.STRICT)
    assert caught.value.filename == str(unpacker.rootfs / "a: xattr nonsense.name")


def test_sparse_segments_become_holes(unpacker: Unpacker) -> None:
    info, _ = member("big")
    info.pax_headers = {"GNU.sparse.map": "0,3,10000000,4", "GNU.sparse.size": "20000000"}
    info.size = 7
    unpacker([(info, b"abcdefg")])
    status = os.stat(unpacker.rootfs / "big")
    assert status.st_size == 20_000_000
    assert status.st_blocks * 512 < 100_000
    content = (unpacker.rootfs / "big").read_bytes()
    assert (content[:3], content[10_000_000:10_000_004], content.count(0)) == (b"abc", b"defg", 20_000_000 - 7)


def test_zeros_become_holes_on_request(unpacker: Unpacker) -> None:
    content = b"a" * 5000 + bytes(3_000_000) + b"b" + bytes(70_000)
    unpacker([member("f", content), member("zeros", bytes(100_000))], holes=True)
    assert (unpacker.rootfs / "f").read_bytes() == content
    assert os.stat(unpacker.rootfs / "f").st_blocks * 512 <= 16_384
    assert (unpacker.rootfs / "zeros").read_bytes() == bytes(100_000)
    assert os.stat(unpacker.rootfs / "zeros").st_blocks == 0


# Links in parents.


@pytest.mark.parametrize("target", ["usr/lib", "/usr/lib", "./usr/../usr/lib/", "x/../usr/lib"])
def test_layer_writes_through_a_link_of_a_lower_one(unpacker: Unpacker, target: str) -> None:
    unpacker(
        [directory("usr/lib"), directory("x"), symlink("lib", target)],
        [member("lib/a", b"1"), directory("lib/d"), member("lib/d/b", b"2")],
    )
    tree = unpacker.tree()
    assert (tree["usr/lib/a"], tree["usr/lib/d/b"], tree["lib"]) == ("1", "2", f"-> {target}")


def test_dangling_link_in_a_parent_leads_to_a_new_directory_within(unpacker: Unpacker) -> None:
    unpacker([symlink("var/run", "/run")], [member("var/run/pid", b"1")])
    assert unpacker.tree()["run/pid"] == "1"


def test_directory_entry_replaces_a_link_unless_told_to_keep_it(unpacker: Unpacker) -> None:
    """umoci's --keep-dirlinks."""
    layers = ([directory("usr/lib"), symlink("lib", "usr/lib")], [directory("lib", 0o700), member("lib/a", b"1")])
    unpacker(*layers)
    assert unpacker.tree() == {"lib": "dir", "lib/a": "1", "usr": "dir", "usr/lib": "dir"}


def test_keep_dirlinks_keeps_the_link(unpacker: Unpacker) -> None:
    layers = ([directory("usr/lib"), symlink("lib", "usr/lib")], [directory("lib", 0o700), member("lib/a", b"1")])
    unpacker(*layers, keep_dirlinks=True)
    assert unpacker.tree() == {"lib": "-> usr/lib", "usr": "dir", "usr/lib": "dir", "usr/lib/a": "1"}
    assert stat.S_IMODE(os.stat(unpacker.rootfs / "usr/lib").st_mode) == 0o700


def test_link_that_is_replaced_leads_nowhere_any_more(unpacker: Unpacker) -> None:
    unpacker(
        [directory("one"), directory("two"), symlink("l", "one")],
        [member("l/a", b"1"), symlink("l", "two"), member("l/b", b"2"), directory("l"), member("l/c", b"3")],
    )
    tree = unpacker.tree()
    assert {name for name in tree if tree[name] != "dir"} == {"one/a", "two/b", "l/c"}


def test_circle_of_links_is_refused(unpacker: Unpacker) -> None:
    with pytest.raises(InvalidImageError, match=r"entry 'a/f': 'a': expected at most 40 links$"):
        unpacker([symlink("a", "b"), symlink("b", "a"), member("a/f")])
    unpacker.assert_refused_without_trace()
