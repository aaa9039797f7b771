"""disk.staging: whenever the process is killed, the root filesystem is absent or complete."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.support.killed import killed_before
from tests.support.memory_source import MemorySource, directory, hard_link, member, symlink, tar_of

LAYERS = [
    [directory("d", 0o555), member("d/f", b"1"), member("gone", b"1"), symlink("l", "d")],
    [member(".wh.gone"), hard_link("h", "d/f"), directory("d/e"), member("d/e/f", b"2")],
]
COMPLETE = {"d": ["e", "f"], "d/e": ["f"], "": ["d", "h", "l"]}
# user::rwx, user:5:rwx, group::r-x, mask::rwx, other::r-x (acl(5)); new files in a directory that has it inherit it.
DEFAULT_ACL = bytes.fromhex(
    "02000000 01000700ffffffff 0200070005000000 04000500ffffffff 10000700ffffffff 20000500ffffffff"
)


def unpack_until(call: int, rootfs: Path, *, replace: bool) -> bool:
    """Unpack in a process that is killed before its call of this number; return whether it was killed."""
    source = MemorySource([tar_of(layer) for layer in LAYERS])
    options = UnpackOptions(replace=replace, use_openat2=False)
    return killed_before(call, lambda: unpack(source, rootfs, options=options))


def content(rootfs: Path) -> dict[str, list[str]]:
    return {
        str(path.relative_to(rootfs)).removeprefix("."): sorted(os.listdir(path))
        for path in (rootfs, *rootfs.rglob("*"))
        if path.is_dir() and not path.is_symlink()
    }


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("replace", [True, False])
def test_kill_before_any_call_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool, can_exchange: bool
) -> None:
    """Where two names can't be exchanged in one step, the old tree is absent for a moment; trees are never mixed."""
    if not can_exchange:
        monkeypatch.setattr("ociexport.rootfs.disk.linux._libc", SimpleNamespace)  # a C library without it
    rootfs = tmp_path / "rootfs"
    old = {"": ["old"], "old": ["file"]}
    allowed: list[object] = [COMPLETE, old] if replace else [COMPLETE]
    if not (replace and can_exchange):
        allowed.append(None)
    seen: list[object] = []
    call = 0
    was_killed = True
    while was_killed:
        if replace and not rootfs.exists():
            (rootfs / "old").mkdir(parents=True)
            (rootfs / "old" / "file").touch()
        elif not replace and rootfs.exists():
            rootfs.rename(tmp_path / f"done-{call}")
        was_killed = unpack_until(call, rootfs, replace=replace)
        state = content(rootfs) if rootfs.exists() else None
        seen.append(state)
        call += 1
    assert call > 20
    assert content(rootfs) == COMPLETE
    assert [state for state in seen if state not in allowed] == []
    assert all(state in seen for state in allowed)
    names = {name.partition("-")[0] for name in os.listdir(tmp_path)}
    assert names <= {"rootfs", "done"}
    if replace and can_exchange:
        assert os.listdir(tmp_path) == ["rootfs"]


def test_file_system_without_locks_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS without its lock daemon: whether a leftover's process is alive is unknown there, so the leftover stays."""

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    leftover = tmp_path / "rootfs.partial-00000000"
    leftover.mkdir()
    monkeypatch.setattr(fcntl, "flock", flock)
    unpack(MemorySource([tar_of(LAYERS[0])]), tmp_path / "rootfs")
    assert sorted(os.listdir(tmp_path)) == ["rootfs", leftover.name]


def test_name_of_many_bytes_is_a_name(tmp_path: Path) -> None:
    """255 bytes are 85 Chinese characters, and the staged directory's name must fit as well."""
    rootfs = tmp_path / ("\u6839" * 85)
    unpack(MemorySource([tar_of(LAYERS[0])]), rootfs)
    assert os.listdir(tmp_path) == [rootfs.name]
    assert unpack_until(30, tmp_path / ("\u6839" * 84), replace=False)
    unpack(MemorySource([tar_of(LAYERS[0])]), tmp_path / ("\u6839" * 84))
    assert len(os.listdir(tmp_path)) == 2


def test_acl_of_the_parent_is_not_inherited(tmp_path: Path) -> None:
    """A directory with a default ACL gives it to new directories, and an ACL made from it to all new files."""
    os.setxattr(tmp_path, "system.posix_acl_default", DEFAULT_ACL)
    unpack(MemorySource([tar_of(LAYERS[0])]), tmp_path / "rootfs")
    for path in (tmp_path / "rootfs", *(tmp_path / "rootfs").rglob("*")):
        assert [name for name in os.listxattr(path, follow_symlinks=False) if "acl" in name] == []
