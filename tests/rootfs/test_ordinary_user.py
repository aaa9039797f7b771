"""rootfs, as an ordinary user: unpacking works and reports its losses. Run by root, which becomes the user."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, hard_link, member, symlink
from tests.support.ordinary_user import GID, UID, open_place, run_as_ordinary_user, subordinate_ids_of
from tests.support.system_parts import OCIEXPORT, require, run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.usefixtures("sole_ordinary_user"),
]

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
LAYERS = [
    [
        directory("d", 0o555),
        member("d/f", b"1", mode=0o444),
        directory("closed", 0o000),
        member("closed/gone", b"1"),
        member("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("pipe", type=tarfile.FIFOTYPE),
        symlink("link", "d", uid=9, gid=9),
        member("user", b"1", uid=1000, gid=1001, mode=0o4755),
        member("half", b"1", uid=3),
        member("mine", b"1", uid=UID, gid=GID),
        member("cap", b"x", xattrs={"security.capability": CAPABILITY, "user.ok": b"1"}),
    ],
    [member("d/g", b"2"), member("closed/.wh.gone"), member("closed/y", b"2")],
]


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place(LAYERS) as place:
        yield place


def test_what_the_user_may_not_look_into_is_not_called_missing(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    for source in (closed / "layout", closed / "images.tar"):
        result = run_as_ordinary_user("unpack", "--platform=linux/amd64", source, place / "work" / "rootfs")
        assert (result.returncode, result.stderr) == (9, f"ociexport: error: {source}: Permission denied\n")


def test_rm_of_what_is_another_users_is_told(place: Path) -> None:
    result = run_as_ordinary_user("rm", place / "layout")
    assert (result.returncode, result.stdout) == (9, "")
    assert result.stderr == f"ociexport: error: {place}/layout: Permission denied\n"
    assert (place / "layout" / "index.json").exists()


def test_tree_is_the_users_and_what_is_lost_is_said(place: Path) -> None:
    rootfs = place / "work" / "rootfs"
    result = run_as_ordinary_user("unpack", "--platform=linux/amd64", place / "layout", rootfs)
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if "warning" in line]
    assert warnings == [
        "ociexport: warning: owners: 4 files of users other than root belong to this user, since only root can change "
        "owners",
        "ociexport: warning: devices: 1 left out, since only root can make devices",
        "ociexport: warning: xattrs: 1 could not be set here: security.capability",
    ]
    got = {
        str(path.relative_to(rootfs)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in sorted(rootfs.rglob("*"))
        if not path.is_symlink()
    }
    assert got == {
        "cap": "0o644",
        "closed": "0o0",
        "closed/y": "0o644",
        "d": "0o555",
        "d/f": "0o444",
        "d/g": "0o644",
        "dev": "0o755",
        "half": "0o644",
        "mine": "0o644",
        "pipe": "0o644",
        "user": "0o4755",
    }
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in rootfs.rglob("*")} == {(UID, GID)}
    assert os.getxattr(rootfs / "cap", "user.ok") == b"1"


def test_diff_knows_whose_files_are(place: Path) -> None:
    """Otherwise every file of the tree would differ in its owner from the image."""
    layers = [
        [
            directory("d", 0o755),
            member("d/f", b"1", uid=3, gid=4),
            member("mine", b"1", uid=UID, gid=GID),
            member("roots", b"1", xattrs={"user.note": b"1"}),
            symlink("link", "d", uid=9, gid=9),
        ]
    ]
    write_layout(place / "owned", {"1": build_image(layers)})
    rootfs = place / "work" / "rootfs"
    assert run_as_ordinary_user("unpack", "--platform=linux/amd64", place / "owned", rootfs).returncode == 0
    compare = ("diff", "-q", "--platform=linux/amd64", rootfs, place / "owned")
    same = run_as_ordinary_user(*compare)
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    os.removexattr(rootfs / "d" / "f", "user.rootlesscontainers")
    os.chown(rootfs / "roots", 5, 5)
    changed = run_as_ordinary_user(*compare)
    assert (changed.returncode, changed.stdout) == (1, "M d/f  (owner)\nM roots  (owner)\n")


def test_owners_are_remembered_as_umoci_does(place: Path) -> None:
    """Compared with umoci's own rootless unpack."""
    require("umoci", "setpriv")
    run_as_ordinary_user("unpack", "-q", "--platform=linux/amd64", place / "layout", place / "work" / "ours")
    user = ["setpriv", f"--reuid={UID}", f"--regid={GID}", "--clear-groups"]
    run(*user, "umoci", "raw", "unpack", "--rootless", "--image", f"{place}/layout:1", place / "work" / "theirs")
    remembered = {}
    for name in ("user", "half", "mine", "cap", "d/f"):
        ours, theirs = (
            {
                key: os.getxattr(place / "work" / whose / name, key)
                for key in os.listxattr(place / "work" / whose / name)
            }
            for whose in ("ours", "theirs")
        )
        assert ours == theirs
        remembered[name] = ours.get("user.rootlesscontainers")
    assert remembered["half"] == b"\x08\x03\x10\xff\xff\xff\xff\x0f"
    assert remembered["mine"] is not None
    assert remembered["d/f"] is None


def test_read_only_files_keep_their_attributes(place: Path) -> None:
    """The kernel requires write permission, which is granted for the moment; setuid is not lost thereby."""
    layer = [
        member("closed", b"1", mode=0o000, uid=3, xattrs={"user.x": b"y"}),
        member("program", b"1", mode=0o6555, uid=3),
        directory("d", 0o555, xattrs={"user.x": b"y"}),
    ]
    write_layout(place / "closed", {"1": build_image([layer])})
    rootfs = place / "work" / "rootfs"
    result = run_as_ordinary_user("unpack", "-q", "--platform=linux/amd64", place / "closed", rootfs)
    assert (
        result.stderr == "ociexport: warning: owners: 2 files of users other than root belong to this user, since only "
        "root can change owners\n"
    )
    got = {
        path.name: (
            oct(path.stat().st_mode & 0o7777),
            {key: os.getxattr(path, key) for key in os.listxattr(path)},
        )
        for path in rootfs.iterdir()
    }
    owner = b"\x08\x03\x10\xff\xff\xff\xff\x0f"
    assert got == {
        "closed": ("0o0", {"user.rootlesscontainers": owner, "user.x": b"y"}),
        "program": ("0o6555", {"user.rootlesscontainers": owner}),
        "d": ("0o555", {"user.x": b"y"}),
    }


def test_hundreds_of_closed_directories(place: Path) -> None:
    """More than may be open at once; each can be reopened only until its mode denies access."""
    names = [f"d{number}" for number in range(600)]
    members = [item for name in names for item in (directory(name, 0), directory(f"{name}/in", 0o400))]
    layers = [[directory(".", 0o555), *members], [member(f"{name}/in/file") for name in names]]
    write_layout(place / "closed", {"1": build_image(layers)})
    rootfs = place / "work" / "rootfs"
    result = run_as_ordinary_user("unpack", "-q", "--platform=linux/amd64", place / "closed", rootfs)
    assert (result.returncode, result.stderr) == (0, "")
    assert {oct((rootfs / name).stat().st_mode & 0o777) for name in names} == {"0o0"}
    assert {oct((rootfs / name / "in").stat().st_mode & 0o777) for name in names} == {"0o400"}
    assert all((rootfs / name / "in" / "file").is_file() for name in names)
    assert oct(rootfs.stat().st_mode & 0o777) == "0o555"
    assert run_as_ordinary_user("rm", rootfs).returncode == 0


@pytest.mark.parametrize("is_root", [True, False])
def test_group_of_the_parent_is_not_inherited(place: Path, is_root: bool) -> None:
    """Files made in a directory with the setgid bit inherit its group."""
    (place / "work").chmod(0o2777)
    os.chown(place / "work", 0, 4444)
    layer = [directory("."), directory("d"), member("f")]
    write_layout(place / "plain", {"1": build_image([layer])})
    rootfs = place / "work" / "rootfs"
    words = ("unpack", "-q", "--platform=linux/amd64", place / "plain", rootfs)
    if is_root:
        run(*OCIEXPORT, *words)
    else:
        assert run_as_ordinary_user(*words).returncode == 0
    for path in (rootfs, rootfs / "d", rootfs / "f"):
        assert (path.stat().st_gid, path.stat().st_mode & 0o7000) == (0 if is_root else GID, 0)


def test_maps_are_not_ignored_where_they_can_not_be(place: Path) -> None:
    result = run_as_ordinary_user("unpack", "--uid-map=0:65534", place / "layout", place / "work" / "rootfs")
    assert (result.returncode, result.stderr) == (
        2,
        "ociexport: error: id maps: expected root, who may change owners\n"
        "hint: --userns makes an ordinary user root of subordinate ids\n",
    )


def test_devices_can_be_empty_files(place: Path) -> None:
    rootfs = place / "work" / "rootfs"
    words = ("unpack", "--platform=linux/amd64", "--devices=placeholder", place / "layout", rootfs)
    result = run_as_ordinary_user(*words)
    assert (
        "ociexport: warning: devices: 1 made as empty files, since only root can make devices"
        in result.stderr.splitlines()
    )
    assert (rootfs / "dev" / "null").read_bytes() == b""


def test_failure_and_rm_remove_what_the_user_may_not_write(place: Path) -> None:
    broken = build_image(
        LAYERS, edit_config=lambda config: config["rootfs"]["diff_ids"].__setitem__(1, f"sha256:{'a' * 64}")
    )
    write_layout(place / "broken", {"1": broken})
    rootfs = place / "work" / "rootfs"
    assert run_as_ordinary_user("unpack", "--platform=linux/amd64", place / "broken", rootfs).returncode == 7
    assert os.listdir(place / "work") == []
    assert run_as_ordinary_user("unpack", "--platform=linux/amd64", place / "layout", rootfs).returncode == 0
    assert run_as_ordinary_user("rm", rootfs).returncode == 0
    assert os.listdir(place / "work") == []


def test_ids_are_mapped_by_root(place: Path) -> None:
    """umoci's --uid-map and --gid-map."""
    rootfs = place / "work" / "rootfs"
    maps = ["--uid-map=0:100000:65536", "--gid-map=0:200000:1000", "--gid-map=1001:5", "--gid-map=65534:7"]
    run(*OCIEXPORT, "unpack", "-q", "--platform=linux/amd64", *maps, place / "layout", rootfs)
    owners = {name: (os.lstat(rootfs / name).st_uid, os.lstat(rootfs / name).st_gid) for name in ("d", "user", "link")}
    assert owners == {"d": (100000, 200000), "user": (101000, 5), "link": (100009, 200009)}
    assert stat.S_IMODE(os.stat(rootfs / "user").st_mode) == 0o4755


def test_hard_links_to_devices_are_left_out_too(place: Path) -> None:
    layer = [member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), hard_link("zero", "null"), member("f")]
    write_layout(place / "linked", {"1": build_image([layer, [hard_link("later", "zero")]])})
    rootfs = place / "work" / "rootfs"
    result = run_as_ordinary_user("unpack", "-q", "--platform=linux/amd64", place / "linked", rootfs)
    assert (result.returncode, result.stderr) == (
        0,
        "ociexport: warning: devices: 1 left out, since only root can make devices\n",
    )
    assert os.listdir(rootfs) == ["f"]


@pytest.fixture
def subordinate_ids() -> Iterator[None]:
    """Subordinate ids as useradd gives them."""
    with subordinate_ids_of(f"{UID}:500000:65536\n"):
        yield


@pytest.mark.usefixtures("subordinate_ids")
def test_user_namespace_gives_true_owners_and_rm_takes_them_back(place: Path) -> None:
    rootfs = place / "work" / "rootfs"
    result = run_as_ordinary_user("unpack", "--platform=linux/amd64", "--userns", place / "layout", rootfs)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if "warning" in line] == [
        "ociexport: warning: devices: 1 left out, since only root can make devices",
    ]
    owners = {name: (os.lstat(rootfs / name).st_uid, os.lstat(rootfs / name).st_gid) for name in ("d", "user", "half")}
    # 0 is the user, 1 the first subordinate id.
    assert owners == {"d": (UID, GID), "user": (500999, 501000), "half": (500002, GID)}
    assert stat.S_IMODE(os.stat(rootfs / "user").st_mode) == 0o4755
    assert run_as_ordinary_user("rm", rootfs).returncode == 0
    assert os.listdir(place / "work") == []


@pytest.mark.usefixtures("subordinate_ids")
def test_user_namespace_warns_of_no_devices_where_there_are_none(place: Path) -> None:
    write_layout(place / "plain", {"1": build_image([[member("f", uid=5)]])})
    words = ("unpack", "-q", "--platform=linux/amd64", "--userns", place / "plain", place / "work" / "rootfs")
    result = run_as_ordinary_user(*words)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.usefixtures("subordinate_ids")
def test_owner_beyond_the_subordinate_ids_is_told(place: Path) -> None:
    write_layout(place / "far", {"1": build_image([[member("far", uid=70000, gid=70001)]])})
    words = ("unpack", "-q", "--platform=linux/amd64", "--userns", "--devices=placeholder")
    result = run_as_ordinary_user(*words, place / "far", place / "work" / "rootfs")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-2:] == [
        "ociexport: error: 'far': owner 70000:70001: expected ids that this user namespace has",
        "hint: give this user more subordinate ids, map these with --uid-map and --gid-map, or use --rootless",
    ]
    maps = ("--uid-map=70000:5", "--gid-map=70001:6", "--uid-map=0:0", "--gid-map=0:0")
    assert run_as_ordinary_user(*words, *maps, place / "far", place / "work" / "rootfs").returncode == 0
    status = (place / "work" / "rootfs" / "far").stat()
    assert (status.st_uid, status.st_gid) == (500004, 500005)


def test_several_ranges_of_subordinate_ids_follow_each_other(place: Path) -> None:
    with subordinate_ids_of(f"{UID}:500000:3\nnobody:600000:65536\nroot:1:100\n"):
        rootfs = place / "work" / "rootfs"
        words = ("unpack", "-q", "--platform=linux/amd64", "--userns", place / "layout", rootfs)
        assert run_as_ordinary_user(*words).returncode == 0
        assert (rootfs / "half").stat().st_uid == 500002
        assert ((rootfs / "user").stat().st_uid, (rootfs / "user").stat().st_gid) == (600996, 600997)
        assert run_as_ordinary_user("rm", rootfs).returncode == 0


@pytest.mark.usefixtures("subordinate_ids")
def test_old_tree_of_other_owners_is_replaced_and_told(place: Path) -> None:
    rootfs = place / "work" / "rootfs"
    words = ("unpack", "-q", "--platform=linux/amd64", "--replace")
    write_layout(place / "theirs", {"1": build_image([[directory("d", uid=5), member("d/f", uid=5)]])})
    assert run_as_ordinary_user(*words, "--userns", place / "theirs", rootfs).returncode == 0
    result = run_as_ordinary_user(*words, place / "layout", rootfs)
    old, new = sorted(place.joinpath("work").iterdir(), reverse=True)
    assert (new, (new / "user").stat().st_uid) == (rootfs, UID)
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        9,
        f"ociexport: error: {old}: replaced, but not removed: it has files of other users (try ociexport rm)",
    )
    assert run_as_ordinary_user("rm", old, new).returncode == 0
    assert os.listdir(place / "work") == []


def test_refusal_of_newuidmap_is_told_in_its_words(place: Path) -> None:
    """The ranges of all users overlap, so the kernel refuses the map."""
    with subordinate_ids_of(f"{UID}:1:4294967294\n"):
        result = run_as_ordinary_user("unpack", "--userns", place / "layout", place / "work" / "rootfs")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("ociexport: error: --userns: the subordinate ids could not be mapped: newuidmap: ")


def test_user_namespace_that_can_not_be_is_told(place: Path) -> None:
    result = run_as_ordinary_user("unpack", "--userns", place / "layout", place / "work" / "rootfs")
    assert result.returncode == 2
    assert result.stderr.startswith("ociexport: error: --userns: expected ")
    assert result.stderr.splitlines()[1] == "hint: see subuid(5), and install the package uidmap"
