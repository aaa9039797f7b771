"""rootfs: checks before a root filesystem is renamed into place, and targets that it may have."""

from __future__ import annotations

import fcntl
import gzip
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from ociexport.errors import (
    DigestMismatchError,
    InvalidImageError,
    NotFoundError,
    SizeMismatchError,
    UsageError,
)
from ociexport.rootfs.unpack import unpack
from ociexport.spec.digest import Digest
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import MemorySource, directory, member, symlink, tar_of
from tests.support.system_parts import OCIEXPORT, require, run
from tests.support.unpacker import Unpacker


@pytest.mark.system
def test_unpacking_without_proc_works_or_says_what_lacks(tmp_path: Path) -> None:
    """As in a chroot without /proc; a device was once reported as a missing file."""
    require("unshare", "mount", root=True)
    plain = [directory("d", 0o700), member("d/f", b"x", mode=0o4755, uid=3, xattrs={"user.x": b"1"}), symlink("l", "d")]
    pipe = member("pipe", type=tarfile.FIFOTYPE)
    write_layout(tmp_path / "layout", {"plain": build_image([plain]), "odd": build_image([[*plain, pipe]])})
    script = 'mount --make-rprivate / && mount -t tmpfs none /proc && exec "$@"'
    words = ("unshare", "-m", "sh", "-c", script, "sh", *OCIEXPORT, "unpack", "-q", "--platform=linux/amd64")
    rootfs = tmp_path / "rootfs"
    run(*words, f"{tmp_path}/layout:plain", str(rootfs))
    assert (rootfs / "l" / "f").stat().st_mode & 0o7777 == 0o4755
    odd = (*words, f"{tmp_path}/layout:odd", str(tmp_path / "other"))
    result = subprocess.run(odd, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (
        9,
        f"ociexport: error: {tmp_path}/other/pipe: devices, pipes and links with attributes need /proc, "
        "which is not mounted\n",
    )
    assert sorted(os.listdir(tmp_path)) == ["layout", "rootfs"]


def test_wrong_diff_id_is_told_and_leaves_nothing(unpacker: Unpacker) -> None:
    tars = [tar_of([member("a", b"1")]), tar_of([member("b", b"2")])]
    wrong = "sha256:" + "a" * 64
    source = MemorySource(tars, diff_ids=[str(Digest.of(tars[0])), wrong])
    with pytest.raises(DigestMismatchError) as caught:
        unpack(source, unpacker.rootfs)
    assert str(caught.value) == (
        f"layer 2 of 2 ({source.layers[1].digest}): diff_id mismatch: expected {wrong}, got {Digest.of(tars[1])}"
    )
    unpacker.assert_refused_without_trace()


def test_junk_after_the_end_marker_belongs_to_the_diff_id(unpacker: Unpacker) -> None:
    tar = tar_of([member("a", b"1")]) + b"junk" * 1000
    unpack(MemorySource([tar]), unpacker.rootfs)
    assert unpacker.tree() == {"a": "1"}


@pytest.mark.parametrize("damage", ["flip", "cut", "long", "other"])
def test_damaged_blob_is_told_as_such(unpacker: Unpacker, damage: str) -> None:
    """Whatever the damage does to gzip and tar, the error is about the digest or size."""
    source = MemorySource([tar_of([member("a", os.urandom(100_000))])])
    descriptor = source.layers[0]
    stored = source.blobs[descriptor.digest]
    source.blobs[descriptor.digest] = {
        "flip": stored[:3000] + bytes([stored[3000] ^ 0x55]) + stored[3001:],
        "cut": stored[:-1000],
        "long": stored + b"x",
        "other": b"<html>" + bytes(len(stored) - 6),
    }[damage]
    with pytest.raises((DigestMismatchError, SizeMismatchError)) as caught:
        unpack(source, unpacker.rootfs)
    assert str(caught.value).startswith(f"layer 1 of 1 ({descriptor.digest}): blob: ")
    unpacker.assert_refused_without_trace()


def test_truncated_gzip_with_a_right_digest_is_malformed(unpacker: Unpacker) -> None:
    tar = tar_of([member("a", os.urandom(100_000))])
    source = MemorySource([tar], compress=lambda tar: gzip.compress(tar)[:-9])
    with pytest.raises(InvalidImageError) as caught:
        unpack(source, unpacker.rootfs)
    assert str(caught.value) == (
        f"layer 1 of 1 ({source.layers[0].digest}): gzip data: expected a complete stream, got one that ends too soon"
    )
    unpacker.assert_refused_without_trace()


def test_missing_blob_is_told(unpacker: Unpacker) -> None:
    source = MemorySource([tar_of([member("a")])])
    del source.blobs[source.layers[0].digest]
    with pytest.raises(NotFoundError):
        unpack(source, unpacker.rootfs)
    unpacker.assert_refused_without_trace()


# Targets.


def test_empty_directory_becomes_the_rootfs(unpacker: Unpacker) -> None:
    unpacker.rootfs.mkdir()
    unpacker([member("a", b"1")])
    assert unpacker.tree() == {"a": "1"}
    assert os.listdir(unpacker.rootfs.parent) == ["rootfs"]


def test_directory_in_use_is_refused_and_untouched(unpacker: Unpacker) -> None:
    unpacker.rootfs.mkdir()
    (unpacker.rootfs / "mine").write_text("mine")
    with pytest.raises(UsageError) as caught:
        unpacker([member("a", b"1")])
    assert str(caught.value) == (f"'{unpacker.rootfs}': expected no file or an empty directory, got one with 1 entry")
    assert unpacker.tree() == {"mine": "mine"}
    assert os.listdir(unpacker.rootfs.parent) == ["rootfs"]


@pytest.mark.parametrize("replace", [True, False])
def test_sync_waits_for_the_disk_before_anything_is_given_up(
    unpacker: Unpacker, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    """The rename is synced before the old tree is removed; a test can't see that the files were synced before it."""
    if replace:
        unpacker([member("old", b"1")])
    names_when_synced: list[list[str]] = []
    true_fsync = os.fsync

    def fsync(fd: int) -> None:
        true_fsync(fd)
        names_when_synced.append(sorted(os.listdir(unpacker.rootfs)) + sorted(os.listdir(fd))[1:])

    monkeypatch.setattr(os, "fsync", fsync)
    unpacker([member("new", b"2")], sync=True, replace=replace)
    (names,) = names_when_synced
    assert (names[0], len(names)) == ("new", 2 if replace else 1)
    assert os.listdir(unpacker.rootfs.parent) == ["rootfs"]


def test_file_in_place_of_the_rootfs_is_refused(unpacker: Unpacker) -> None:
    unpacker.rootfs.write_text("mine")
    with pytest.raises(UsageError, match=r"got a file$"):
        unpacker([member("a", b"1")])
    assert unpacker.rootfs.read_text() == "mine"


def test_missing_parent_is_told(unpacker: Unpacker) -> None:
    unpacker.rootfs = unpacker.rootfs / "below"
    with pytest.raises(NotFoundError, match=r"expected a directory, got none$"):
        unpacker([member("a", b"1")])


def test_leftover_of_a_killed_process_is_removed(unpacker: Unpacker) -> None:
    leftover = unpacker.rootfs.parent / "rootfs.partial-0123abcd"
    (leftover / "d").mkdir(parents=True)
    (leftover / "d/f").write_text("x")
    unpacker([member("a", b"1")])
    assert os.listdir(unpacker.rootfs.parent) == ["rootfs"]


@pytest.mark.parametrize(
    "name", ["rootfs.partial-backup", "rootfs.partial-0123abcd.txt", "rootfs.partial-", "rootfs.o"]
)
def test_what_only_looks_like_a_leftover_is_not_touched(unpacker: Unpacker, name: str) -> None:
    """Leftovers are recognized only by name, so only the exact form of a staged directory's name counts."""
    mine = unpacker.rootfs.parent / name
    mine.mkdir()
    unpacker([member("a", b"1")])
    assert sorted(os.listdir(unpacker.rootfs.parent)) == ["rootfs", name]


def test_leftover_of_a_replaced_tree_is_removed(unpacker: Unpacker) -> None:
    (unpacker.rootfs.parent / "rootfs.partial-0123abcd-old" / "d").mkdir(parents=True)
    unpacker([member("a", b"1")])
    assert os.listdir(unpacker.rootfs.parent) == ["rootfs"]


def test_work_of_a_living_process_is_not_touched(unpacker: Unpacker) -> None:
    other = unpacker.rootfs.parent / "rootfs.partial-0123abcd"
    other.mkdir()
    fd = os.open(other, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    unpacker([member("a", b"1")])
    os.close(fd)
    assert sorted(os.listdir(unpacker.rootfs.parent)) == ["rootfs", "rootfs.partial-0123abcd"]


def test_setgid_parent_and_its_default_acl_are_not_inherited(unpacker: Unpacker) -> None:
    os.chmod(unpacker.rootfs.parent, 0o2777)
    unpacker([member("d/a", b"1")])
    assert [stat.S_IMODE(os.stat(unpacker.rootfs / name).st_mode) for name in ("", "d")] == [0o755, 0o755]


def test_result_tells_what_was_unpacked(unpacker: Unpacker) -> None:
    result = unpacker([member("a", b"1")], [member(".wh.a"), member("b")])
    assert (result.entries, len(result.layers), str(result.platform)) == (3, 2, "linux/amd64")


def test_many_directories_take_few_descriptors(unpacker: Unpacker) -> None:
    unpacker([member(f"d{number}/f", b"x") for number in range(600)], [member(f"d{number}/g") for number in range(600)])
    assert len(unpacker.tree()) == 1800
