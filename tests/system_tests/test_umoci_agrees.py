"""An image with every oddity we know, unpacked by umoci and by us; the specification explains each difference."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, directory, hard_link, member, symlink, tar_of
from tests.support.system_parts import OCIEXPORT, require, run
from tests.support.tree_metadata import describe_tree, differences

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)


def gnu_tar(members: list[Member]) -> bytes:
    """Return a tar in GNU format: long names by L and K, large numbers in base 256."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# user::rw-, user:1000:rw-, group::r--, mask::rw-, other::r--, as the kernel keeps it.
ACL = bytes.fromhex("02000000 01000600ffffffff 02000600e8030000 04000400ffffffff 10000600ffffffff 20000400ffffffff")
# The map precedes the data, in its own block.
SPARSE_1_0 = b"1\n8192\n3\n".ljust(512, b"\0") + b"abc"


def sparse(name: str, records: dict[str, str], data: bytes) -> Member:
    info, _ = member(name)
    info.pax_headers = {
        **records,
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": records.get("GNU.sparse.size", "8195"),
    }
    info.size = len(data)
    return info, data


FIRST: list[Member] = [
    directory("./", 0o755, mtime=1),
    directory("usr", mtime=2),
    directory("usr/lib", mtime=3),
    symlink("lib", "usr/lib", mtime=4),
    symlink("abs", "/usr/lib", mtime=4),
    directory("setgid", 0o2775, gid=50, mtime=5),
    member("setgid/child", b"x", gid=7),
    member("setuid", b"x", mode=0o4755, uid=1000, gid=1000),
    directory("sticky", 0o1777, mtime=6),
    member("cap", b"x", mode=0o755, uid=5, xattrs={"security.capability": CAPABILITY, "user.odd": b"\x00\xff"}),
    member("nanoseconds", b"x", pax_headers={"mtime": "1234567890.123456789"}),
    member("names/" + "n" * 200, b"long"),
    symlink("long-target", "t" * 300),
    member("caf\udce9", b"no UTF-8"),
    member("hard", b"hard"),
    hard_link("setgid/hard2", "hard"),
    hard_link("/hard3", "/hard"),
    member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=17, mode=0o660, gid=6),
    member("pipe", type=tarfile.FIFOTYPE, mode=0o600),
    member("twice", b"first"),
    member("twice", b"second"),
    directory("goes", mtime=7),
    member("goes/a", b"x"),
    directory("opaque", mtime=8),
    member("opaque/old", b"x"),
    directory("becomes-file", mtime=9),
    member("becomes-file/x", b"x"),
    member("becomes-directory", b"x"),
    hard_link("hard-to-link", "lib"),
    symlink("link-becomes-directory", "usr"),
    symlink("link-becomes-file", "/usr/lib"),
    sparse(
        "sparse",
        {"GNU.sparse.map": "0,3,100000,4", "GNU.sparse.numblocks": "2", "GNU.sparse.size": "200000"},
        b"abcdefg",
    ),
    sparse("holes", {"GNU.sparse.map": "70000,0", "GNU.sparse.numblocks": "1", "GNU.sparse.size": "70000"}, b""),
    sparse("sparse-1.0", {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, SPARSE_1_0),
    member("acl", b"x", mode=0o664, xattrs={"system.posix_acl_access": ACL}),
    member("./dots/../x//y", b"x"),
    member("shared", b"old"),
    hard_link("shared2", "shared"),
    member("b" * 255, b"x"),
    member("libarchive", b"x", pax_headers={"LIBARCHIVE.xattr.user.odd": "AQI"}),
    member("both", b"x", pax_headers={"SCHILY.xattr.user.odd": "1", "LIBARCHIVE.xattr.user.odd": "MQ"}),
    member("negative", b"x", pax_headers={"mtime": "-1.5", "atime": "111.5"}),
    directory("three-times", mtime=15),
    member("three-times/first", b"x"),
    directory("opaque-by-link", mtime=16),
    member("opaque-by-link/old", b"x"),
    symlink("opaque-link", "/opaque-by-link"),
    directory("hidden-by-link", mtime=17),
    member("hidden-by-link/old", b"x"),
    member("hidden-by-link/kept", b"x"),
    symlink("hidden-link", "hidden-by-link"),
    symlink("link-of-somebody", "nowhere", uid=77, gid=88, xattrs={"trusted.note": b"1"}),
    symlink("loop", "loop"),
    hard_link("pipe2", "pipe"),
    hard_link("null2", "null"),
    directory("directory-xattrs", mtime=18, xattrs={"user.odd": b"1", "trusted.odd": b"2"}),
    directory("default-acl", mtime=19, xattrs={"system.posix_acl_default": ACL}),
    member("default-acl/child", b"x"),
    member("default-acl/implied/child", b"x"),
    member("setgid/implied/child", b"x"),
    member("setuid-root", b"x", mode=0o6755),
    directory("closed", 0),
    member("closed/file", b"x", mode=0),
    member(
        "labelled", b"x", xattrs={"security.selinux": b"system_u:object_r:etc_t:s0", "trusted.overlay.opaque": b"y"}
    ),
    member("overlaid", b"x", xattrs={"user.overlay.opaque": b"y"}),
    member("cap2", b"x", mode=0o755, xattrs={"security.capability": CAPABILITY}),
    hard_link("cap3", "cap2"),
    member("becomes-hard-link", b"x"),
]
SECOND: list[Member] = [
    # kaniko's name for the root.
    directory("/", 0o755, mtime=20),
    member("three-times", b"a file"),
    member("far", b"in 2286", mtime=10**10),
    hard_link("becomes-hard-link", "setuid"),
    directory("big-owner", uid=3_000_000_000, gid=2_500_000, mtime=11),
    member("big-owner/" + "g" * 150, b"gnu", uid=3_000_000_000, mtime=-5),
    symlink("gnu-link", "g" * 150),
]
THIRD: list[Member] = [
    member("lib/through", b"a link"),
    member("abs/through-absolute", b"a link"),
    member(".wh.goes"),
    member(".wh.never-there"),
    member(".wh.hard3"),
    member("new/.wh.nothing"),
    member("new/file", b"x"),
    directory("link-becomes-directory", mtime=14),
    member("link-becomes-directory/file", b"x"),
    member("link-becomes-file", b"x"),
    directory("opaque", mtime=12),
    member("opaque/new", b"y"),
    member("opaque/.wh..wh..opq"),
    member("becomes-file", b"file"),
    directory("becomes-directory", mtime=13),
    member("becomes-directory/y", b"y"),
    member("shared", b"new"),
    member("usr/lib/later", b"the directory's own time stays"),
    directory("three-times", mtime=21),
    member("three-times/third", b"x"),
    member("opaque-link/.wh..wh..opq"),
    member("opaque-link/new", b"x"),
    member("hidden-link/.wh.old"),
    member("loop", b"was a loop"),
    directory("default-acl", mtime=22),
]


@pytest.mark.system
def test_odd_image_is_umocis_but_for_what_is_explained(tmp_path: Path) -> None:
    require("umoci", root=True)
    write_layout(tmp_path / "layout", {"odd": build_image([tar_of(FIRST), gnu_tar(SECOND), tar_of(THIRD)])})
    run(*OCIEXPORT, "unpack", "-q", "--platform=linux/amd64", str(tmp_path / "layout"), str(tmp_path / "ours"))
    run("umoci", "raw", "unpack", "--image", f"{tmp_path}/layout:odd", tmp_path / "theirs")
    ours, theirs = describe_tree(tmp_path / "ours"), describe_tree(tmp_path / "theirs")
    found = differences(ours, theirs)
    # No layer names these directories. layer.md does not define an implied parent's time: umoci leaves that of
    # the moment, we write the epoch, so that the same image gives the same tree.
    assert [found.pop(implied) for implied in (b"names", b"new", b"x")] == [["mtime_ns"]] * 3
    # The same where the directory above has a default ACL or is setgid: umoci's inherit it from the kernel, in the
    # order in which the tar happens to name both; ours are root's, 0755, whatever the order.
    assert found.pop(b"default-acl/implied") == ["mode", "mtime_ns", "xattrs"]
    assert found.pop(b"setgid/implied") == ["mode", "owner", "mtime_ns"]
    implied = ours[b"setgid/implied"]
    assert (implied.mode, implied.owner, implied.mtime_ns, implied.xattrs) == ("0o755", (0, 0), 0, {})
    # A layer that writes into a directory without naming it does not set its time: "Change Types" requires the whole
    # entry for a modified file. We keep the declared time; umoci leaves the time of the write if it made a directory.
    assert found.pop(b"setgid") == found.pop(b".") == ["mtime_ns"]
    assert (ours[b"setgid"].mtime_ns, ours[b"."].mtime_ns) == (5_000_000_000, 20_000_000_000)
    # umoci's nanoseconds have 64 bits, and end in 2262; the kernel's seconds have 64 bits too.
    assert found.pop(b"far") == ["mtime_ns"]
    assert ours[b"far"].mtime_ns == 10**19
    # layer.md requires xattrs, but no format for them: Go knows only star's records, we know bsdtar's too.
    assert found.pop(b"libarchive") == ["xattrs"]
    assert ours[b"libarchive"].xattrs == {"user.odd": b"\1\2"}
    # An overlay mounted with userxattr would use it as its own; umoci skips only trusted.overlay.*.
    assert found.pop(b"overlaid") == ["xattrs"]
    assert ours[b"overlaid"].xattrs == {}
    assert found == {}
    assert ours[b"usr/lib"].mtime_ns == 3_000_000_000
    assert ours[b"shared2"].content != ours[b"shared"].content
