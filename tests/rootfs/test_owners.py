"""disk.owners: `unpack --owners` writes the image's owners beside a tree that an ordinary user owns.

Run by root, which becomes an ordinary user.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, hard_link, member, symlink
from tests.support.ordinary_user import UID, open_place, run_as_ordinary_user, subordinate_ids_of
from tests.support.system_parts import OCIEXPORT, require, run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.usefixtures("sole_ordinary_user"),
]

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
LAYERS = [
    [
        directory(".", 0o755, uid=7, gid=8),
        directory("d", 0o555, uid=1, mtime=1_500_000_000),
        member("d/f", b"123", mode=0o444, uid=2, gid=3),
        member("d/gone", b"1", uid=4),
        directory("replaced", uid=4),
        member("replaced/in", uid=4),
        directory("closed", 0o000, uid=5),
        member("closed/f", mode=0o000, uid=6),
        hard_link("d/link", "d/f"),
        symlink("to d", "d", uid=9, gid=10),
        member("implied/in", b"1", uid=1000, gid=1001, mode=0o4755),
        member("odd \n#=\\ näme", b"1"),
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, uid=11, mode=0o666),
        hard_link("null too", "null"),
        member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=17, gid=6, mode=0o660),
        member("pipe", type=tarfile.FIFOTYPE, uid=12, mode=0o600),
        member("cap", b"x", xattrs={"security.capability": CAPABILITY, "security.selinux": b"x"}),
    ],
    [
        member("d/.wh.gone"),
        # These may reuse the inodes of removed files.
        member("d/new", b"1"),
        member("replaced", b"1"),
        member("to d/through", b"12", uid=13),
        directory("trusted", xattrs={"trusted.note": b"1"}),
    ],
]


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place(LAYERS) as place:
        yield place


def words(place: Path, *more: str) -> tuple[str | Path, ...]:
    owners, rootfs = place / "work" / "owners.mtree", place / "work" / "rootfs"
    return ("unpack", "-q", "--platform=linux/amd64", *more, f"--owners={owners}", place / "layout", rootfs)


def specification(text: str) -> dict[str, dict[str, str]]:
    """Return the words of each path of an mtree specification, its numbers as libarchive writes them."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        path, *said = line.split()
        words = found[path] = dict(word.split("=", 1) for word in said)
        words["mode"] = f"{int(words['mode'], 8):o}"
        words["time"] = ".".join(str(int(part)) for part in words["time"].split("."))
    return found


def test_specification_is_that_of_the_tree_that_root_would_have(place: Path) -> None:
    """Compared with libarchive's specification of root's tree."""
    require("bsdtar")
    assert run_as_ordinary_user(*words(place)).returncode == 0
    users = (place / "work" / "owners.mtree").read_text()
    run(*OCIEXPORT, *words(place, "--replace"))
    assert (place / "work" / "owners.mtree").read_text() == users
    options = "mtree:!all,mtree:type,mtree:mode,mtree:uid,mtree:gid,mtree:time,mtree:size,mtree:link,mtree:device"
    tree = place / "work" / "rootfs"
    theirs = specification(run("bsdtar", "-C", tree, "-cf", "-", "--format=mtree", f"--options={options}", "."))
    assert specification(users) == theirs


def test_tree_has_what_it_had_without(place: Path) -> None:
    """Placeholders of devices are in the tree only while it is made; the losses are counted the same."""
    plain = place / "work" / "plain"
    result = run_as_ordinary_user("unpack", "-q", "--platform=linux/amd64", place / "layout", plain)
    assert result.stderr.splitlines()[1] == "ociexport: warning: devices: 2 left out, since only root can make devices"
    assert run_as_ordinary_user(*words(place)).stderr == result.stderr
    digests = [run(*OCIEXPORT, "treehash", "--mtimes", place / "work" / name) for name in ("plain", "rootfs")]
    assert digests[0] == digests[1]


def test_placeholders_stay_where_they_are_wanted(place: Path) -> None:
    assert run_as_ordinary_user(*words(place, "--devices=placeholder")).returncode == 0
    status = (place / "work" / "rootfs" / "null").lstat()
    assert (stat.S_ISREG(status.st_mode), status.st_nlink, status.st_uid) == (True, 2, UID)
    said = specification((place / "work" / "owners.mtree").read_text())
    assert said["./null\\040too"] == said["./null"]
    assert said["./null"] == {
        "type": "char",
        "mode": "666",
        "uid": "11",
        "gid": "0",
        "time": "1000000000.0",
        "device": "native,1,3",
    }


def test_maps_change_the_tree_but_not_what_the_image_says(place: Path) -> None:
    run(*OCIEXPORT, *words(place))
    plain = (place / "work" / "owners.mtree").read_text()
    run(*OCIEXPORT, *words(place, "--replace", "--uid-map=0:100000:65536", "--gid-map=0:200000:65536"))
    assert (place / "work" / "rootfs" / "d" / "f").stat().st_uid == 100002
    assert (place / "work" / "owners.mtree").read_text() == plain


def test_bsdtar_makes_a_tar_of_it_with_true_owners(place: Path) -> None:
    require("bsdtar")
    assert run_as_ordinary_user(*words(place)).returncode == 0
    tar = place / "owned.tar"
    run("bsdtar", "-C", place / "work" / "rootfs", "--format=pax", "-cf", tar, f"@{place}/work/owners.mtree")
    with tarfile.open(tar) as archive:
        got = {item.name: (item.uid, item.gid, item.mode, item.type) for item in archive}
        content = archive.extractfile("./d/f")
        assert content is not None
        assert content.read() == b"123"
    assert got["./implied/in"] == (1000, 1001, 0o4755, tarfile.REGTYPE)
    assert got["./to d"][:2] == (9, 10)
    assert got["./d"] == (1, 0, 0o555, tarfile.DIRTYPE)
    assert got["./null"] == (11, 0, 0o666, tarfile.CHRTYPE)
    assert got["./odd \n#=\\ näme"] == (0, 0, 0o644, tarfile.REGTYPE)
    assert "./d/gone" not in got


def test_attributes_are_in_comments(place: Path) -> None:
    """Values are written as getfattr does; attributes that belong to a machine are left out."""
    assert run_as_ordinary_user(*words(place)).returncode == 0
    comments = [line for line in (place / "work" / "owners.mtree").read_text().splitlines() if line.startswith("# ")]
    assert comments == [
        "# xattr ./cap security.capability=0sAQAAAgAgAAAAAAAAAAAAAAAAAAA=",
        "# xattr ./trusted trusted.note=0sMQ==",
    ]


def test_place_that_is_not_there_is_told_before_anything_is_made(place: Path) -> None:
    command = ("unpack", "-q", "--platform=linux/amd64", f"--owners={place}/none/owners", place / "layout")
    result = run_as_ordinary_user(*command, place / "work" / "rootfs")
    assert (result.returncode, os.listdir(place / "work")) == (3, [])


def test_failure_leaves_the_old_file(place: Path) -> None:
    broken = build_image(LAYERS, edit_config=lambda it: it["rootfs"]["diff_ids"].__setitem__(1, f"sha256:{'a' * 64}"))
    write_layout(place / "layout", {"1": broken})
    (place / "work" / "owners.mtree").write_text("old")
    assert run_as_ordinary_user(*words(place)).returncode == 7
    assert {path.name: path.read_text() for path in (place / "work").iterdir()} == {"owners.mtree": "old"}


def test_namespace_writes_the_images_owners(place: Path) -> None:
    """Inside the namespace the tree has these owners; outside, they have other ids."""
    run(*OCIEXPORT, *words(place))
    roots = (place / "work" / "owners.mtree").read_text()
    run(*OCIEXPORT, "rm", place / "work" / "rootfs")
    (place / "work" / "owners.mtree").unlink()
    with subordinate_ids_of(f"{UID}:500000:65536\n"):
        assert run_as_ordinary_user(*words(place, "--userns")).returncode == 0
        assert (place / "work" / "owners.mtree").read_text() == roots
        assert (place / "work" / "owners.mtree").stat().st_uid == UID
        assert (place / "work" / "rootfs" / "d" / "f").stat().st_uid == 500001
        assert run_as_ordinary_user("rm", place / "work" / "rootfs").returncode == 0
