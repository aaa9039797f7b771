"""disk.mount_move: a root filesystem that is built in place is complete, or marked as incomplete and later cleared.

A mount point and the working directory are such places; `test_in_place` has the others.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociexport.errors import UnsafeEntryError, UsageError
from ociexport.rootfs.unpack import unpack
from ociexport.spec.descriptor import Descriptor
from tests.rootfs.test_staging import COMPLETE, DEFAULT_ACL, LAYERS, content, unpack_until
from tests.support.memory_source import Member, MemorySource, directory, member, tar_of
from tests.support.ordinary_user import GID, UID
from tests.support.system_parts import mounted
from tests.support.unpacker import as_ordinary_user


@pytest.fixture(params=["mount point", "working directory"])
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    rootfs = tmp_path / "rootfs"
    if request.param == "working directory":
        rootfs.mkdir()
        monkeypatch.chdir(rootfs)
        yield rootfs
        return
    with mounted(rootfs, "-t", "tmpfs", "-o", "mode=755", "tmpfs"):
        yield rootfs


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "rootfs", "-t", "tmpfs", "-o", "mode=755", "tmpfs") as mount:
        yield mount


def source() -> MemorySource:
    return MemorySource([tar_of(layer) for layer in LAYERS])


def empty(mount: Path) -> None:
    for child in mount.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def empty_if_complete(mount: Path) -> None:
    """Empty the mount point if the killed process only had to remove its list."""
    if not staged_names(mount) and (mount / "d").exists():
        assert content(mount) == COMPLETE or set(os.listdir(mount)) == {"d", "h", "l", *partial_names(mount)}
        empty(mount)


def staged_names(mount: Path) -> list[str]:
    return [name for name in partial_names(mount) if not name.endswith(("-moving", "-sealed"))]


def partial_names(mount: Path) -> list[str]:
    return [name for name in os.listdir(mount) if name.startswith("rootfs.partial-")]


def test_kill_before_any_call_leaves_what_the_next_run_clears_in_place(place: Path) -> None:
    """Without one rename, a part of the tree may remain, with a list that marks it; the next run clears it."""
    states = []
    call = 0
    while unpack_until(call, place, replace=False):
        state = {path: names for path, names in content(place).items() if not path.startswith("rootfs.partial")}
        state[""] = [name for name in state[""] if not name.startswith("rootfs.partial-")]
        marked = bool(partial_names(place))
        assert state in ({"": []}, COMPLETE) or marked
        states.append(state)
        # The clearing is killed too; each run continues from the state that the previous one left.
        for again in range(2, 40, 6):
            empty_if_complete(place)
            unpack_until(again, place, replace=False)
        empty_if_complete(place)
        unpack(source(), place)
        assert content(place) == COMPLETE
        empty(place)
        call += 1
    assert content(place) == COMPLETE
    assert {"": ["d"]} in [{"": state[""]} for state in states]  # a partial tree was seen
    assert COMPLETE in states


def test_place_gets_the_metadata_of_the_root(place: Path) -> None:
    """Including the time, which every removal of a name from the directory changes."""
    layer = [directory(".", 0o711, uid=3, gid=4, xattrs={"trusted.x": b"1"}), *LAYERS[0]]
    os.setxattr(place, "trusted.old", b"1")
    os.setxattr(place, "system.posix_acl_default", DEFAULT_ACL)
    unpack(MemorySource([tar_of(layer)]), place)
    status = place.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o711, 3, 4)
    assert status.st_mtime_ns == 1_000_000_000 * 10**9
    assert [name for name in os.listxattr(place) if not name.startswith("security.")] == ["trusted.x"]
    assert os.getxattr(place, "trusted.x") == b"1"
    assert sorted(os.listdir(place)) == ["d", "gone", "l"]


def test_bind_mount_of_the_same_file_system_is_a_mount_point(tmp_path: Path) -> None:
    """Its device number does not show this, and a rename over it would fail at the very end."""
    (tmp_path / "other").mkdir()
    with mounted(tmp_path / "rootfs", "--bind", str(tmp_path / "other")) as mount:
        unpack(source(), mount)
        assert content(mount) == COMPLETE


def killed_while_moving(mount: Path) -> None:
    """Kill an unpacking when a part of the tree is in the mount point."""
    call = 0
    while unpack_until(call, mount, replace=False):
        if "d" in os.listdir(mount):
            return
        empty(mount)
        call += 1
    raise AssertionError("no partial tree was seen")


@pytest.mark.parametrize("change", ["other", "replaced", "written", "moving", "sealed"])
def test_what_is_somebody_elses_is_not_taken_back(place: Path, change: str) -> None:
    killed_while_moving(place)
    match change:
        case "other":
            (place / "other").touch()
        case "replaced":
            (place / "d" / "f").unlink()
            shutil.rmtree(place / "d")
            (place / "d").mkdir()
        case "written":
            (place / "d" / "own").touch()
        case _:
            (name,) = (name for name in os.listdir(place) if name.endswith(f"-{change}"))
            os.chown(place / name, 1, 1)
    before = content(place)
    with pytest.raises(UsageError, match=r"expected no file or an empty directory, got one with \d (entry|entries)$"):
        unpack(source(), place)
    assert content(place) == before


def test_process_that_still_moves_is_let_be(place: Path) -> None:
    killed_while_moving(place)
    (name,) = staged_names(place)
    fd = os.open(place / name, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="expected no file or an empty directory, got one with"):
            unpack(source(), place)
    finally:
        os.close(fd)
    unpack(source(), place)
    assert content(place) == COMPLETE


def test_error_while_moving_takes_all_back(mount: Path) -> None:
    """The image's lost+found can't replace the file system's own, which is not empty."""
    (mount / "lost+found").mkdir()
    (mount / "lost+found" / "1234").touch()
    layer = [directory(name) for name in ("a", "lost+found", "z")]
    with pytest.raises(OSError, match="Directory not empty") as caught:
        unpack(MemorySource([tar_of(layer)]), mount)
    assert caught.value.filename == str(mount)
    assert content(mount) == {"": ["lost+found"], "lost+found": ["1234"]}
    (mount / "lost+found" / "1234").unlink()
    unpack(MemorySource([tar_of(layer)]), mount)
    assert sorted(os.listdir(mount)) == ["a", "lost+found", "z"]


def test_what_came_meanwhile_is_not_mixed_with_the_tree(place: Path) -> None:
    class SlowSource(MemorySource):
        def open_blob(self, descriptor: Descriptor, offset: int = 0) -> io.BytesIO:
            if descriptor in self.layers:
                (place / "new").touch()
            return super().open_blob(descriptor, offset)

    with pytest.raises(UsageError, match=r"got one that was just filled$"):
        unpack(SlowSource([tar_of(layer) for layer in LAYERS]), place)
    assert os.listdir(place) == ["new"]


def test_ordinary_user_moves_directories_that_they_may_not_write(tmp_path: Path) -> None:
    """The move changes their ".."; Fedora's /boot and /proc are examples."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with mounted(Path(name) / "rootfs", "-t", "tmpfs", "-o", f"uid={UID},gid={GID}", "tmpfs") as mount:
            layer = [directory(".", 0o555), directory("proc", 0o555), directory("proc/1", 0o555), member("f")]
            as_ordinary_user(lambda: unpack(MemorySource([tar_of(layer)]), mount))
            assert content(mount) == {"": ["f", "proc"], "proc": ["1"], "proc/1": []}
            assert [(mount / path).stat().st_mode & 0o777 for path in ("", "proc", "proc/1")] == [0o555] * 3
            assert mount.stat().st_mtime_ns == 1_000_000_000 * 10**9


def forged(mount: Path, seal: bytes) -> list[Member]:
    """Return an image with a tree and the files that a process killed while moving that tree would leave."""
    name, time = "rootfs.partial-00000000", 1_700_000_000
    content = b"40000 %d data\0\0" % (time * 10**9)
    return [
        directory("data", mtime=time),
        directory("data/db"),
        directory(name),
        member(f"{name}-moving", content, mode=0o600),
        member(f"{name}-sealed", seal, mode=0o600),
    ]


@pytest.mark.parametrize("name", ["00000000", "0123abcd-moving", "00000000-sealed", "00000000-old"])
@pytest.mark.parametrize("is_root", [True, False])
def test_image_that_brings_names_of_ours_is_refused(name: str, is_root: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        owner = "mode=755" if is_root else f"uid={UID},gid={GID}"
        with mounted(Path(place) / "rootfs", "-t", "tmpfs", "-o", owner, "tmpfs") as mount:
            layer = [directory("d"), member(f"rootfs.partial-{name}")]

            def run() -> None:
                with pytest.raises(UnsafeEntryError, match=rf"^'rootfs.partial-{name}': expected a name"):
                    unpack(MemorySource([tar_of(layer)]), mount)

            run() if is_root else as_ordinary_user(run)
            assert os.listdir(mount) == []


@pytest.mark.parametrize("is_root", [True, False])
@pytest.mark.parametrize("seal", ["none", "guessed", "copied"])
def test_list_that_an_image_brings_is_not_believed(is_root: bool, seal: str) -> None:
    """The file system is mounted at a path where these names are harmless, and later at ``rootfs``."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        owner = "mode=755" if is_root else f"uid={UID},gid={GID}"
        with mounted(Path(place) / "other", "-t", "tmpfs", "-o", owner, "tmpfs") as other:

            def run(directory: Path, layer: list[Member]) -> None:
                if is_root:
                    unpack(MemorySource([tar_of(layer)]), directory)
                else:
                    as_ordinary_user(lambda: unpack(MemorySource([tar_of(layer)]), directory))

            run(other, forged(other, b"1 1\n"))
            name = "rootfs.partial-00000000"
            status = (other / f"{name}-moving").stat()
            if seal == "none":
                (other / f"{name}-sealed").unlink()
            elif seal == "guessed":
                # The inode number can be guessed, and the time of modification can be set.
                (other / f"{name}-sealed").write_bytes(b"%d %d\n" % (status.st_ino, status.st_mtime_ns))
            else:
                # A complete copy of a tree, with all metadata that can be copied.
                (other / f"{name}-sealed").write_bytes(b"%d %d\n" % (status.st_ino, status.st_ctime_ns))
                os.utime(other / f"{name}-moving", ns=(status.st_atime_ns, status.st_mtime_ns))
            with mounted(Path(place) / "rootfs", "--bind", str(other)) as mount:
                (mount / "data" / "db" / "customers").touch()
                with pytest.raises(UsageError, match=r"expected no file or an empty directory, got one with 1 entry$"):
                    run(mount, [member("new")])
                assert (mount / "data" / "db" / "customers").exists()


def test_list_beside_a_tree_that_is_no_mount_point_moves_nothing(tmp_path: Path) -> None:
    """For example with ROOTFS inside an unpacked tree: files beside it would be moved into a leftover and removed."""
    (tmp_path / "data").mkdir()
    status = (tmp_path / "data").stat()
    staged = tmp_path / "rootfs.partial-00000000"
    staged.mkdir()
    listed = tmp_path / f"{staged.name}-moving"
    listed.write_bytes(b"40000 %d data\0\0" % status.st_mtime_ns)
    listed.chmod(0o600)
    seal = listed.stat()
    (tmp_path / f"{staged.name}-sealed").write_bytes(b"%d %d\n" % (seal.st_ino, seal.st_ctime_ns))
    unpack(source(), tmp_path / "rootfs")
    assert sorted(os.listdir(tmp_path)) == ["data", "rootfs"]
