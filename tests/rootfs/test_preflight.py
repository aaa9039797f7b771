"""disk.preflight: checks before the first layer is applied, on file systems that lack some feature."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ociexport.rootfs.disk.preflight import NO_OWNERS, missing_features, verify_room
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, member
from tests.support.system_parts import OCIEXPORT, mounted, run

FOLDS = "names that differ only in case are one file here: such files of the image replace each other"
NO_LINKS = "symbolic links can't be made here: an image that has one can't be unpacked"
NO_HARD_LINKS = "hard links can't be made here: an image that has one can't be unpacked"
NO_DEVICES = "devices can't be made here: those of the image are left out, or become empty files (see --devices)"
NO_XATTRS = "extended attributes can't be set here: file capabilities and ACLs are lost"
NO_RECORDS = "extended attributes can't be set here: those of the image are lost, and owners are not recorded"
NO_MODES = "modes can't be set here: all files have the same one"
TIMES_CUT = "times are not stored exactly here: they are cut to the precision and range of the file system"


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    assert os.listdir(fd) == []
    os.close(fd)


def refuse(number: int) -> Callable[..., Any]:
    def refusing(*_args: object, **_keywords: object) -> None:
        raise OSError(number, os.strerror(number))

    return refusing


def unpack(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = (*OCIEXPORT, "unpack", "--platform=linux/amd64", "-q", *map(str, words))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="others may not make devices, so they are not tried")
@pytest.mark.parametrize(
    ("call", "number", "line"),
    [
        ("symlink", errno.ENOSYS, NO_LINKS),
        ("link", errno.EPERM, NO_HARD_LINKS),
        ("mknod", errno.EPERM, NO_DEVICES),
        ("setxattr", errno.EOPNOTSUPP, NO_XATTRS),
        ("fchmod", errno.EPERM, NO_MODES),
    ],
)
def test_what_the_kernel_refuses_is_said_in_one_line(
    fd: int, monkeypatch: pytest.MonkeyPatch, call: str, number: int, line: str
) -> None:
    monkeypatch.setattr(os, call, refuse(number))
    assert list(missing_features(fd)) == [line]


@pytest.mark.parametrize("call", ["symlink", "link", "mknod", "setxattr"])
def test_full_disk_says_nothing_of_features(fd: int, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(os, call, refuse(errno.ENOSPC))
    assert list(missing_features(fd)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="others have user.* attributes only")
@pytest.mark.parametrize(
    ("refused", "line"),
    [
        (b"user.", "user.* attributes can't be set here: those of the image are lost"),
        (b"security.", "file capabilities can't be set here: those of the image are lost"),
    ],
)
def test_kinds_of_attributes_are_told_apart(
    fd: int, monkeypatch: pytest.MonkeyPatch, refused: bytes, line: str
) -> None:
    """tmpfs has user.* attributes only since Linux 6.6, and capabilities since long before."""
    true_setxattr = os.setxattr

    def setxattr(target: int, name: bytes, value: bytes) -> None:
        if name.startswith(refused):
            raise OSError(errno.EOPNOTSUPP, "not here")
        true_setxattr(target, name, value)

    monkeypatch.setattr(os, "setxattr", setxattr)
    assert list(missing_features(fd)) == [line]
    assert list(missing_features(fd, with_xattrs=False)) == []


def test_case_folding_is_found(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    true_open = os.open

    def folding_open(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        return true_open(path.lower(), flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", folding_open)
    assert list(missing_features(fd)) == [FOLDS]


@pytest.mark.system
def test_exfat_lacks_it_all(tmp_path: Path) -> None:
    """A real file system that lacks all features, through FUSE, since few kernels include it; needs a loop device."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("mkfs.exfat", "mount.exfat-fuse", "losetup"))):
        pytest.skip("needs root, exfatprogs and exfat-fuse")
    (tmp_path / "image").write_bytes(b"")
    os.truncate(tmp_path / "image", 32 * 1024 * 1024)
    run("mkfs.exfat", tmp_path / "image")
    found = subprocess.run(["losetup", "-f", "--show", tmp_path / "image"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("needs a loop device")
    device = found.stdout.strip()
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        if subprocess.run(["mount.exfat-fuse", device, disk], capture_output=True, check=False).returncode:
            pytest.skip("needs /dev/fuse")
        try:
            write_layout(tmp_path / "layout", {"1": build_image([[directory("d"), member("d/f", b"1")]])})
            result = unpack(tmp_path / "layout", disk / "rootfs")
            assert result.returncode == 0
            lines = (NO_OWNERS, FOLDS, NO_LINKS, NO_HARD_LINKS, NO_RECORDS, NO_MODES, TIMES_CUT)
            assert result.stderr.splitlines() == [f"ociexport: warning: {disk}/rootfs: {line}" for line in lines]
            assert os.listdir(disk / "rootfs") == ["d"]
        finally:
            run("umount", disk)
    finally:
        run("losetup", "-d", device)


@pytest.mark.skipif(os.geteuid() != 0, reason="others may not make devices, so they are not tried")
def test_what_only_root_has_is_not_missed_in_a_rootless_tree(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in ("mknod", "fchown"):
        monkeypatch.setattr(os, call, refuse(errno.EPERM))
    assert list(missing_features(fd, as_root=False)) == []
    monkeypatch.setattr(os, "setxattr", refuse(errno.EOPNOTSUPP))
    assert list(missing_features(fd, as_root=False)) == [NO_RECORDS]


def test_nothing_is_said_where_nothing_is_missing(fd: int, tmp_path: Path) -> None:
    verify_room(fd, (), str(tmp_path))
    assert list(missing_features(fd)) == []


def test_used_up_inodes_are_told_from_a_full_disk(tmp_path: Path) -> None:
    """The kernel reports both with the same error; how many inodes an image needs is not known beforehand."""
    write_layout(tmp_path / "layout", {"1": build_image([[member(f"d/{number}") for number in range(30)]])})
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=10M,nr_inodes=20", "tmpfs") as disk:
        result = unpack(tmp_path / "layout", disk / "rootfs")
        assert (result.returncode, os.listdir(disk)) == (9, [])
        # The root of the file system, the staged directory and d use three.
        assert result.stderr == (
            f"ociexport: error: {disk}/rootfs/d/17: No space left on device: all 20 inodes are in use\n"
            f"hint: check the free space: df -i {disk}\n"
        )


def test_path_of_an_image_does_not_fill_the_screen(tmp_path: Path) -> None:
    """A path may be longer than any system call takes; the message shows both its ends."""
    layer = [member("/".join(["d" * 200] * 40) + "/f")]
    write_layout(tmp_path / "layout", {"1": build_image([layer])})
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=10M,nr_inodes=32", "tmpfs") as disk:
        result = unpack(tmp_path / "layout", disk / "rootfs")
    shown = f"{disk}/rootfs/{'d' * 200}"[:200] + "…" + ("/" + "d" * 200)[-198:] + "/f"
    assert (result.returncode, result.stderr) == (
        9,
        f"ociexport: error: {shown}: No space left on device: all 32 inodes are in use\n"
        f"hint: check the free space: df -i {disk}\n",
    )


def test_scarce_inodes_are_told_before(tmp_path: Path) -> None:
    """The number is an estimate, so this is no error: here one file has all the bytes."""
    image = build_image([[member("f", os.urandom(1_000_000))]])
    write_layout(tmp_path / "layout", {"1": image})
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=10M,nr_inodes=20", "tmpfs") as disk:
        result = unpack(tmp_path / "layout", disk / "rootfs")
        assert (result.returncode, result.stderr) == (
            0,
            f"ociexport: warning: {disk}/rootfs: only 18 free inodes here: "
            f"images of this size have about {image.layers[0].size // 10_000} files and directories\n",
        )
        assert unpack("--no-preflight", "--replace", tmp_path / "layout", disk / "rootfs").stderr == ""


def test_no_inodes_at_all_is_told(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"1": build_image([[member("f")]])})
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=10M,nr_inodes=20", "tmpfs") as disk:
        for number in range(19):
            (disk / str(number)).touch()
        for free in (0, 1):
            result = unpack(tmp_path / "layout", disk / "rootfs")
            assert (result.returncode, result.stderr) == (
                9,
                f"ociexport: error: {disk}/rootfs: No space left on device: all 20 inodes are in use\n"
                f"hint: check the free space: df -i {disk}\n",
            )
            (disk / str(free)).unlink()
        assert unpack(tmp_path / "layout", disk / "rootfs").returncode == 0
