"""disk.place: a target that must stay the same directory is filled in place, and a rename does for all others."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ociexport.errors import DigestMismatchError, UnsafeEntryError, UsageError
from ociexport.rootfs.disk.removal import remove_tree
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.rootfs.test_staging import COMPLETE, LAYERS, content, unpack_until
from tests.support.command import command_environment, command_line
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import MemorySource, directory, member, tar_of
from tests.support.ordinary_user import GID, UID
from tests.support.unpacker import as_ordinary_user

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
IN_USE = "expected no file or an empty directory, got one with 1 entry"


def source() -> MemorySource:
    return MemorySource([tar_of(layer) for layer in LAYERS])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty."""
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    monkeypatch.chdir(rootfs)
    return rootfs


@pytest.fixture
def closed_parent() -> Iterator[Path]:
    """A directory that other users may enter but not write."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


def rootfs_of_ordinary_user(parent: Path) -> Path:
    rootfs = parent / "rootfs"
    rootfs.mkdir()
    os.chown(rootfs, UID, GID)
    return rootfs


@pytest.mark.parametrize("typed", [".", "./", "../r", '"$PWD"', "../link", "/proc/self/cwd", "../r/../r"])
def test_shell_sees_the_tree_in_its_working_directory(tmp_path: Path, typed: str) -> None:
    write_layout(tmp_path / "layout", {"1": build_image(LAYERS)})
    (tmp_path / "r").mkdir()
    (tmp_path / "link").symlink_to("r")
    script = f'cd "$1"; shift; "$@" {typed} && ls && echo new > file'
    words = command_line("unpack", "-q", "--platform=linux/amd64", "--json", tmp_path / "layout")
    ended = subprocess.run(
        ["sh", "-c", script, "sh", str(tmp_path / "r"), *words],
        env=command_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("}\nd\nh\nl\n")
    assert (tmp_path / "r" / "file").read_text() == "new\n"
    assert sorted(os.listdir(tmp_path)) == ["layout", "link", "r"]


def test_bundle_is_made_in_the_working_directory(here: Path) -> None:
    unpack(source(), ".", options=UnpackOptions(bundle=True))
    assert sorted(os.listdir(".")) == ["config.json", "rootfs"]
    assert content(here / "rootfs") == COMPLETE


def test_failure_leaves_the_working_directory_empty(here: Path) -> None:
    tars = [tar_of(layer) for layer in LAYERS]
    with pytest.raises(DigestMismatchError):
        unpack(MemorySource(tars, diff_ids=["sha256:" + "a" * 64] * 2), ".")
    assert (os.listdir("."), os.listdir(here.parent)) == ([], ["rootfs"])


@pytest.mark.parametrize("replace", [True, False])
def test_full_working_directory_is_not_taken_from_under_the_shell(here: Path, replace: bool) -> None:
    (here / "mine").touch()
    with pytest.raises(UsageError) as caught:
        unpack(source(), here, options=UnpackOptions(replace=replace))
    assert (str(caught.value), caught.value.hint) == (
        f"'{here}': {IN_USE}",
        "choose another directory, empty this one, or replace it from another directory with --replace",
    )
    assert os.listdir(here) == ["mine"]


def test_empty_working_directory_needs_no_replacing(here: Path) -> None:
    unpack(source(), ".", options=UnpackOptions(replace=True))
    assert content(here) == COMPLETE
    assert os.path.samefile(here, ".")


def test_other_directories_are_still_replaced_by_one_rename(here: Path) -> None:
    other = here.parent / "other"
    other.mkdir()
    before = other.stat().st_ino
    unpack(source(), "../other")
    assert other.stat().st_ino != before
    unpack(source(), "../other", options=UnpackOptions(replace=True))
    assert content(other) == COMPLETE


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY)
    yield fd
    os.close(fd)


def is_unfinished(rootfs: Path) -> bool:
    """Whether a killed process left a staged directory, so that the tree is not complete."""
    return any(re.fullmatch(r"rootfs\.partial-[0-9a-f]{8}", name) for name in os.listdir(rootfs))


def unfinished_states(rootfs: Path) -> Iterator[list[str]]:
    """Kill an unpacking into ``rootfs`` at one call after the other; yield the names in it where it is unfinished."""
    call = 0
    while unpack_until(call, rootfs, replace=False):
        if is_unfinished(rootfs):
            yield os.listdir(rootfs)
        with opened(rootfs) as fd:
            for name in os.listdir(rootfs):
                remove_tree(fd, os.fsencode(name))
        call += 3


@pytest.mark.parametrize("replace", [True, False])
def test_leftover_in_the_directory_is_cleared_by_a_run_from_elsewhere(here: Path, replace: bool) -> None:
    """The first run was killed in its working directory; the next one names the same directory from another."""
    seen = []
    for names in unfinished_states(here):
        seen += names
        os.chdir(here.parent)
        unpack(source(), here, options=UnpackOptions(replace=replace))
        assert content(here) == COMPLETE
        assert os.listdir(here.parent) == ["rootfs"]
        os.chdir(here)
    assert "d" in seen  # a run was killed while it moved the tree up


def test_leftover_beside_the_working_directory_is_cleared(here: Path) -> None:
    """The first run was killed elsewhere, and was building beside the directory."""
    (here.parent / "rootfs.partial-0123abcd" / "d").mkdir(parents=True)
    (here.parent / "rootfs.partial-mine").touch()
    unpack(source(), ".")
    assert sorted(os.listdir(here.parent)) == ["rootfs", "rootfs.partial-mine"]


@pytest.mark.parametrize("name", ["00000000", "0123abcd-moving", "00000000-sealed", "00000000-old"])
def test_image_that_brings_names_of_ours_is_refused_anywhere(tmp_path: Path, name: str) -> None:
    """The next unpacking into the same directory would take them for leftovers."""
    with pytest.raises(UnsafeEntryError, match=rf"^'rootfs.partial-{name}': expected a name"):
        unpack(MemorySource([tar_of([member(f"rootfs.partial-{name}")])]), tmp_path / "rootfs")
    assert os.listdir(tmp_path) == []


@needs_root
def test_own_directory_below_a_closed_parent_is_filled(closed_parent: Path) -> None:
    rootfs = rootfs_of_ordinary_user(closed_parent)
    number = rootfs.stat().st_ino
    layers = [[directory(".", 0o555), *LAYERS[0]], LAYERS[1]]
    as_ordinary_user(lambda: unpack(MemorySource([tar_of(layer) for layer in layers]), rootfs))
    assert content(rootfs) == COMPLETE
    status = rootfs.stat()
    assert (status.st_ino, status.st_uid, status.st_mode & 0o7777) == (number, UID, 0o555)
    assert status.st_mtime_ns == 1_000_000_000 * 10**9
    with pytest.raises(UsageError) as caught:
        as_ordinary_user(lambda: unpack(source(), rootfs, options=UnpackOptions(replace=True)))
    assert str(caught.value) == f"'{rootfs}': expected no file or an empty directory, got one with 3 entries"


@needs_root
def test_killed_run_below_a_closed_parent_can_be_run_again(closed_parent: Path) -> None:
    rootfs = rootfs_of_ordinary_user(closed_parent)

    def run() -> list[str]:
        seen = []
        for names in unfinished_states(rootfs):
            seen += names
            unpack(source(), rootfs)
            assert content(rootfs) == COMPLETE
        return seen

    assert "d" in as_ordinary_user(run)


@needs_root
def test_working_directory_of_another_user_is_refused_before_the_layers_are_read(closed_parent: Path) -> None:
    """Its metadata can't be set by this user, and that would show only at the end."""
    rootfs = closed_parent / "rootfs"
    rootfs.mkdir()
    rootfs.chmod(0o777)
    image = source()
    for descriptor in image.layers:
        del image.blobs[descriptor.digest]

    def run() -> None:
        os.chdir(rootfs)
        with pytest.raises(UsageError, match=r"expected a directory of this user, got one of user 0$"):
            unpack(image, ".")

    as_ordinary_user(run)
    assert os.listdir(rootfs) == []
