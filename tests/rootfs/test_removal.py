"""disk.removal and `ociexport rm`: file systems mounted in a tree and files linked from it are kept."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociexport.rootfs.disk.removal import remove_tree
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.system_parts import OCIEXPORT, require, run


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A tree with a bind mount of a directory on the same file system, as a chroot's /dev; and that directory."""
    require("mount", "umount", root=True)
    tree, precious = tmp_path / "a tree", tmp_path / "host"
    (tree / "first").mkdir(parents=True)
    (tree / "var" / "mnt").mkdir(parents=True)
    (precious / "deep").mkdir(parents=True)
    (precious / "deep" / "file").write_text("precious")
    run("mount", "--bind", precious, tree / "var" / "mnt")
    try:
        yield tree, precious
    finally:
        run("umount", tree / "var" / "mnt")


def removal_error(directory: Path, name: str) -> OSError:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match="Device or resource busy") as caught:
            remove_tree(fd, os.fsencode(name))
    finally:
        os.close(fd)
    return caught.value


def test_what_is_mounted_in_a_tree_is_not_touched(mounted: tuple[Path, Path]) -> None:
    """A bind mount from the same file system, which device numbers do not show."""
    tree, precious = mounted
    error = removal_error(tree.parent, tree.name)
    assert (error.errno, error.filename) == (errno.EBUSY, b"a tree/var/mnt")
    assert (precious / "deep" / "file").read_text() == "precious"


def test_rm_of_a_tree_with_a_mount_removes_nothing(mounted: tuple[Path, Path]) -> None:
    tree, precious = mounted
    result = subprocess.run([*OCIEXPORT, "rm", str(tree)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (
        2,
        f"ociexport: error: '{tree}/var/mnt': expected a directory that can be removed, got a mount point\n"
        "hint: unmount it first; the mounted file system is left alone\n",
    )
    assert (tree / "first").is_dir()
    assert (precious / "deep" / "file").read_text() == "precious"


def test_replace_of_a_tree_with_a_mount_is_refused(mounted: tuple[Path, Path], tmp_path: Path) -> None:
    """A chroot that is in use, with the host's /dev in it."""
    tree, precious = mounted
    write_layout(tmp_path / "layout", {"1": build_image([[member("new", b"1")]])})
    words = (*OCIEXPORT, "unpack", "--platform=linux/amd64", "--replace", tmp_path / "layout", tree)
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (
        2,
        f"ociexport: error: '{tree}/var/mnt': expected a directory that can be removed, got a mount point\n"
        "hint: unmount it first; the mounted file system is left alone\n",
    )
    assert sorted(os.listdir(tree)) == ["first", "var"]
    assert (precious / "deep" / "file").read_text() == "precious"


def test_link_to_a_tree_is_removed_itself(tmp_path: Path) -> None:
    (tmp_path / "tree" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to("tree")
    run(*OCIEXPORT, "rm", tmp_path / "link")
    assert os.listdir(tmp_path) == ["tree"]
    assert os.listdir(tmp_path / "tree") == ["in"]


def test_depth_takes_neither_descriptors_nor_stack(tmp_path: Path) -> None:
    """Deeper than PATH_MAX, the longest path that a system call takes."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("directory", dir_fd=fd)
        child = os.open("directory", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
        fd = child
    os.close(fd)
    run(*OCIEXPORT, "rm", tmp_path / "directory")
    assert os.listdir(tmp_path) == ["file"]
