"""Trees on the file systems of targets: the same tree everywhere, and warnings about what one can't keep.

Each file system is made in a file and mounted by a loop device. Tests are skipped if there is no loop device, or if the
kernel lacks the file system. exFAT, which keeps hardly any metadata, is in tests/rootfs/test_preflight.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.rootfs.test_preflight import NO_XATTRS, TIMES_CUT
from tests.support.image_builder import BuiltImage, build_image, write_layout
from tests.support.memory_source import member, tar_of
from tests.support.ordinary_user import GID, UID
from tests.support.recording_progress import RecordingProgress
from tests.support.system_parts import OCIEXPORT, mounted, require, run
from tests.support.tree_metadata import Record, describe_tree, differences
from tests.support.unpacker import as_ordinary_user, resolver
from tests.system_tests.test_umoci_agrees import FIRST, SECOND, THIRD, gnu_tar

pytestmark = pytest.mark.system

ODD: BuiltImage = build_image([tar_of(FIRST), gnu_tar(SECOND), tar_of(THIRD)])
# How each file system is made and mounted.
MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "ext4 with small inodes": ("mkfs.ext4", "-q", "-F", "-I", "128"),
    "ext2": ("mkfs.ext2", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
ALL = (*MAKERS, "overlay", "ramfs", "tmpfs")


@contextmanager
def file_system(name: str, place: Path) -> Iterator[Path]:
    """Yield an empty directory with a file system of this kind mounted on it."""
    disk = place / "disk"
    if name in ("ramfs", "tmpfs"):
        with mounted(disk, "-t", name, "-o", "mode=755", name):
            yield disk
    elif name == "overlay":
        with mounted(place / "below", "-t", "tmpfs", "tmpfs") as below:
            for part in ("lower", "upper", "work"):
                (below / part).mkdir()
            (below / "lower" / "file").touch()
            options = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
            with mounted(disk, "-t", "overlay", "-o", options, "overlay"):
                (disk / "file").unlink()
                yield disk
    else:
        maker = MAKERS[name]
        require(maker[0], "mount", root=True)
        (place / "image").touch()
        os.truncate(place / "image", 350 * 1024 * 1024)
        subprocess.run([*maker, place / "image"], capture_output=True, check=True, timeout=60)
        disk.mkdir()
        command = ("mount", "-o", "loop", place / "image", disk)
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if result.returncode:
            pytest.skip(f"can't mount {name} by a loop device here: {result.stderr.strip()}")
        try:
            yield disk
        finally:
            subprocess.run(["umount", disk], check=True, timeout=60)


def unpacked(target: Path, *, use_openat2: bool) -> list[str]:
    """Unpack; return the warnings, without the target's name in front."""
    progress = RecordingProgress()
    unpack(ODD.source(), target, options=UnpackOptions(use_openat2=use_openat2), progress=progress)
    return [line.removeprefix(f"{target}: ") for line in progress.warnings]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def lacking(name: str, expected: dict[bytes, Record]) -> dict[bytes, list[str]]:
    """Return the differences between root's tree there and ``expected``."""
    if name == "ramfs":
        return {path: ["xattrs"] for path, record in expected.items() if record.xattrs}
    if name == "ext4 with small inodes":
        times = {path: record.mtime_ns for path, record in expected.items()}
        return {
            path: ["mtime_ns"] for path, time in times.items() if time % 10**9 or not -(2**31) <= time // 10**9 < 2**31
        }
    if name == "xfs":
        # XFS's own form of an ACL, which root sees beside the usual one.
        return {path: ["xattrs"] for path, record in expected.items() if any("acl" in key for key in record.xattrs)}
    return {}


# The warnings at the beginning, for root and for an ordinary user.
SAID = {
    "ext4 with small inodes": (TIMES_CUT, TIMES_CUT),
    "ramfs": (
        NO_XATTRS,
        "extended attributes can't be set here: those of the image are lost, and owners are not recorded",
    ),
}


def is_refusal(line: str) -> bool:
    return re.match(r"xattrs: \d+ could not be set here: ", line) is not None


@pytest.mark.parametrize("way", ["openat2", "walk"])
@pytest.mark.parametrize("name", ALL)
def test_tree_is_the_same_but_for_what_is_said(place: Path, name: str, way: str) -> None:
    """For root and for an ordinary user; beside the mount point and in it."""
    require("mount", root=True)
    use_openat2 = resolver(way)
    with mounted(place / "reference", "-t", "tmpfs", "tmpfs") as reference, file_system(name, place) as disk:
        said = unpacked(reference / "root", use_openat2=use_openat2)
        expected = describe_tree(reference / "root")
        lines = unpacked(disk / "root", use_openat2=use_openat2)
        assert [line for line in lines if not is_refusal(line)] == [*SAID.get(name, ())[:1], *said]
        assert any(map(is_refusal, lines)) == (name == "ramfs")
        tree = describe_tree(disk / "root")
        assert differences(expected, tree) == lacking(name, expected)
        run(*OCIEXPORT, "rm", str(disk / "root"))

        for directory in (reference / "user", disk / "user"):
            directory.mkdir()
            os.chown(directory, UID, GID)
        said = as_ordinary_user(lambda: unpacked(reference / "user" / "root", use_openat2=use_openat2))
        lines = as_ordinary_user(lambda: unpacked(disk / "user" / "root", use_openat2=use_openat2))
        if name == "ramfs":
            said, lines = ([line for line in both if not is_refusal(line)] for both in (said, lines))
        assert lines == [*SAID.get(name, ())[1:], *said]
        if name not in (*SAID, "xfs"):
            expected = describe_tree(reference / "user" / "root")
            assert differences(expected, describe_tree(disk / "user" / "root")) == {}
        run(*OCIEXPORT, "rm", str(disk / "user"))

        unpacked(disk, use_openat2=use_openat2)
        moved = describe_tree(disk)
        moved.pop(b"lost+found", None)
        assert moved == tree


def test_tree_of_a_lower_layer_is_not_replaced_in_vain(place: Path) -> None:
    """As in a container: overlayfs renames no directory of its lower layer; this was reported only at the end."""
    require("mount", root=True)
    with mounted(place / "below", "-t", "tmpfs", "tmpfs") as below:
        for part in ("lower/old/d", "lower/empty", "upper", "work"):
            (below / part).mkdir(parents=True)
        options = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work,redirect_dir=off"
        with mounted(place / "disk", "-t", "overlay", "-o", options, "overlay") as disk:
            with pytest.raises(UsageError) as caught:
                unpack(ODD.source(), disk / "old", options=UnpackOptions(replace=True))
            assert str(caught.value) == (
                f"'{disk}/old': expected a directory that can be renamed, got one of a lower layer of an overlay"
            )
            assert caught.value.hint == f"remove it first: ociexport rm {disk}/old"
            assert sorted(os.listdir(disk)) == ["empty", "old"]
            assert os.listdir(disk / "old") == ["d"]
            for _ in range(2):
                unpack(ODD.source(), disk / "empty", options=UnpackOptions(replace=True))
            run(*OCIEXPORT, "rm", str(disk / "old"))
            unpack(ODD.source(), disk / "old", options=UnpackOptions(replace=True))
            assert describe_tree(disk / "old") == describe_tree(disk / "empty")


@pytest.mark.parametrize("name", ["btrfs", "tmpfs"])
def test_deep_tree_is_removed_everywhere(place: Path, name: str) -> None:
    """Directories that are too deep are first moved up, into a directory that is being read."""
    require("mount", root=True)
    with file_system(name, place) as disk:
        unpack(build_image([[member("/".join("d" * 300) + "/f")]]).source(), disk / "root")
        run(*OCIEXPORT, "rm", str(disk / "root"))
        assert not (disk / "root").exists()


def test_read_only_target_is_told_in_one_line(place: Path) -> None:
    """For example a squashfs, a CD, or a file system that the kernel made read-only after a disk error."""
    require("mount", "mksquashfs", root=True)
    (place / "content").mkdir()
    run("mksquashfs", place / "content", place / "image", "-quiet")
    write_layout(place / "layout", {"1": ODD})
    with mounted(place / "disk", "-o", "loop,ro", str(place / "image")) as disk:
        for target in (disk / "rootfs", disk):
            words = (*OCIEXPORT, "unpack", "-q", "--platform=linux/amd64", str(place / "layout"), str(target))
            result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
            assert (result.returncode, result.stderr) == (
                9,
                f"ociexport: error: {target}: Read-only file system\n",
            )
