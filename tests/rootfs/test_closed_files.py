"""treehash and diff of a tree whose files are closed by their own mode, such as Fedora's /etc/gshadow (mode 0)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociexport.rootfs.treehash import hash_tree
from tests.support.memory_source import directory, hard_link, member
from tests.support.ordinary_user import open_place, run_as_ordinary_user

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.usefixtures("sole_ordinary_user"),
]

DEPTH = 150  # deeper than the directories that stay open
LAYERS = [
    [
        directory(".", 0o555),
        directory("etc"),
        member("etc/gshadow", b"root:::\n", mode=0),
        member("etc/shadow", b"root:*:\n", mode=0, gid=42, xattrs={"user.note": b"1"}),
        hard_link("etc/shadow-", "etc/shadow"),
        member("etc/write-only", b"w", mode=0o222),
        directory("none", 0),
        member("none/f", b"1", mode=0),
        directory("none/inner", 0o300),
        member("none/inner/f", b"2"),
        directory("list-only", 0o444),
        member("list-only/f", b"3"),
        directory("pass-only", 0o111),
        member("pass-only/f", b"4"),
        *(directory("/".join(["deep"] * count), 0) for count in range(1, DEPTH)),
    ]
]


@pytest.fixture
def place() -> Iterator[Path]:
    with open_place(LAYERS) as place:
        result = run_as_ordinary_user("unpack", "-q", "--platform=linux/amd64", place / "layout", rootfs_in(place))
        assert result.returncode == 0, result.stderr
        yield place


def rootfs_in(place: Path) -> Path:
    return place / "work" / "rootfs"


def modes_of(rootfs: Path) -> dict[str, int]:
    return {str(path.relative_to(rootfs)): stat.S_IMODE(path.lstat().st_mode) for path in rootfs.rglob("*")}


def test_owner_gets_the_digest_that_root_gets(place: Path) -> None:
    modes = modes_of(rootfs_in(place))
    result = run_as_ordinary_user("treehash", rootfs_in(place))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{hash_tree(rootfs_in(place))}\n"
    assert modes_of(rootfs_in(place)) == modes
    assert 0 in modes.values()


def test_owner_sees_what_changed(place: Path) -> None:
    rootfs = rootfs_in(place)
    compare = ("diff", "-q", "--platform=linux/amd64", rootfs, place / "layout")
    modes = modes_of(rootfs)
    result = run_as_ordinary_user(*compare)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    for name in ("etc/gshadow", "none/inner/f"):
        times = os.stat(rootfs / name)
        (rootfs / name).write_bytes((rootfs / name).read_bytes().swapcase()[::-1] or b"x")
        os.utime(rootfs / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.setxattr(rootfs / "none" / "f", "user.new", b"1")
    (rootfs / "etc" / "write-only").write_bytes(b"longer")
    result = run_as_ordinary_user(*compare)
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "M etc/gshadow  (content)\nM etc/write-only  (content, mtime)\nM none/f  (xattrs)\n",
        "",
    )
    assert modes_of(rootfs) == modes


@pytest.mark.parametrize("name", ["etc/gshadow", "none/inner/f", "none", "pass-only"])
@pytest.mark.parametrize("command", ["treehash", "diff"])
def test_file_of_another_user_is_told_with_its_path(place: Path, command: str, name: str) -> None:
    rootfs = rootfs_in(place)
    os.chown(rootfs / name, 5, 5)
    os.chmod(rootfs / name, 0)
    modes = modes_of(rootfs)
    image: list[str | Path] = ["-q", "--platform=linux/amd64", place / "layout"] if command == "diff" else []
    result = run_as_ordinary_user(command, rootfs, *image)
    assert (result.returncode, result.stdout, result.stderr.splitlines()) == (
        9,
        "",
        [
            f"ociexport: error: {rootfs}/{name}: Permission denied",
            "hint: only its owner and root can read it: run this as root",
        ],
    )
    assert modes_of(rootfs) == modes


def test_modes_are_set_back_wherever_the_walk_ends(place: Path) -> None:
    modes = modes_of(rootfs_in(place))
    script = "import hashlib\ndef interrupted(*_): raise KeyboardInterrupt\nhashlib.file_digest = interrupted"
    result = run_as_ordinary_user("treehash", rootfs_in(place), begin=script)
    assert result.returncode != 0
    assert modes_of(rootfs_in(place)) == modes


def test_root_changes_no_mode(place: Path) -> None:
    changed = {path: path.lstat().st_ctime_ns for path in rootfs_in(place).rglob("*")}
    hash_tree(rootfs_in(place))
    assert {path: path.lstat().st_ctime_ns for path in rootfs_in(place).rglob("*")} == changed
