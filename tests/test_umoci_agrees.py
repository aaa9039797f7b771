"""An image with every odd thing in it, unpacked by umoci and by us; what differs is explained by the specification."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.image_builder import build_image, write_layout
from tests.memory_source import Member, directory, hard_link, member, symlink, tar_of
from tests.system_parts import OCIEXPORT, require, run
from tests.tree_metadata import describe_tree, differences

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
# Its map is in front of its data, in a block of its own.
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
]
SECOND: list[Member] = [
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
]


@pytest.mark.system
def test_odd_image_is_umocis_but_for_what_is_explained(tmp_path: Path) -> None:
    require("umoci", root=True)
    write_layout(tmp_path / "layout", {"odd": build_image([tar_of(FIRST), gnu_tar(SECOND), tar_of(THIRD)])})
    run(*OCIEXPORT, "unpack", "-q", "--platform=linux/amd64", str(tmp_path / "layout"), str(tmp_path / "ours"))
    run("umoci", "raw", "unpack", "--image", f"{tmp_path}/layout:odd", tmp_path / "theirs")
    ours, theirs = describe_tree(tmp_path / "ours"), describe_tree(tmp_path / "theirs")
    found = differences(ours, theirs)
    # No layer names these directories. layer.md does not say what an implied parent's time is: umoci leaves that of
    # the moment, we write the epoch, so that the same image gives the same tree.
    assert [found.pop(implied) for implied in (b"names", b"new", b"x")] == [["mtime_ns"]] * 3
    # The first layer gives the root a time; the third writes into the root without naming it. The changeset says
    # nothing new of the root, so we keep what was said; umoci leaves the time of the last write.
    assert found.pop(b".") == ["mtime_ns"]
    assert ours[b"."].mtime_ns == 1_000_000_000
    assert found == {}
    assert ours[b"usr/lib"].mtime_ns == 3_000_000_000
    assert ours[b"shared2"].content != ours[b"shared"].content
