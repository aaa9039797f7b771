"""treehash: one digest of a whole tree, the same for equal trees and different for others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ociexport.rootfs.treehash import hash_tree
from tests.support.command import run_command

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners and makes devices")


def make_tree(root: Path) -> Path:
    (root / "a").mkdir(parents=True)
    (root / "a" / "file").write_bytes(b"content")
    os.link(root / "a" / "file", root / "b")
    os.symlink("a", root / "link")
    (root / "a-b").write_bytes(b"")
    (root / "caf\udce9").write_bytes(b"")
    os.mkfifo(root / "pipe", 0o600)
    return root


def test_equal_trees_have_one_digest(tmp_path: Path) -> None:
    one, two = make_tree(tmp_path / "one"), make_tree(tmp_path / "two")
    assert hash_tree(one) == hash_tree(two)
    os.utime(one / "a" / "file", ns=(5, 5))
    assert hash_tree(one) == hash_tree(two)
    assert hash_tree(one, mtimes=True) != hash_tree(two, mtimes=True)


def test_names_out_of_the_tree_do_not_count(tmp_path: Path) -> None:
    """As with `cp -al` and with backups that share files."""
    one, two = make_tree(tmp_path / "one"), make_tree(tmp_path / "two")
    os.link(one / "a-b", tmp_path / "outside")
    assert hash_tree(one) == hash_tree(two)


@needs_root
def test_attributes_of_the_machine_do_not_count(tmp_path: Path) -> None:
    """SELinux labels files, XFS lists ACLs twice, overlayfs keeps internal attributes: `unpack` sets none of these."""
    one, two = make_tree(tmp_path / "one"), make_tree(tmp_path / "two")
    for name in ("security.selinux", "trusted.overlay.origin", "trusted.SGI_ACL_FILE"):
        os.setxattr(one / "a" / "file", name, b"x")
    os.setxattr(one / "pipe", "security.selinux", b"x")
    assert hash_tree(one) == hash_tree(two)


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def link_to_b(path: Path) -> None:
    path.symlink_to("b")


def make_directory(path: Path) -> None:
    path.mkdir(0o644)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "a" / "file").write_bytes(b"CONTENT"),
    "mode": lambda root: os.chmod(root / "a" / "file", 0o600),
    "root's mode": lambda root: os.chmod(root, 0o711),
    "target": lambda root: replace(root / "link", link_to_b),
    "name": lambda root: os.rename(root / "a-b", root / "a-c"),
    "moved": lambda root: os.rename(root / "a-b", root / "a" / "b"),
    "hard link broken": lambda root: replace(root / "b", lambda path: shutil.copy2(root / "a" / "file", path)),
    "new": lambda root: (root / "new").touch(),
    "gone": lambda root: os.unlink(root / "pipe"),
    "type": lambda root: replace(root / "a-b", make_directory),
    "xattr": lambda root: os.setxattr(root / "a", "user.note", b"x"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_change_changes_it(tmp_path: Path, change: Callable[[Path], object]) -> None:
    tree = make_tree(tmp_path / "tree")
    before = hash_tree(tree)
    change(tree)
    assert hash_tree(tree) != before


@needs_root
def test_owners_and_devices_count(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    before = hash_tree(tree)
    os.chown(tree / "link", 5, 5, follow_symlinks=False)
    owned = hash_tree(tree)
    os.mknod(tree / "null", 0o020666, os.makedev(1, 3))
    first = hash_tree(tree)
    os.unlink(tree / "null")
    os.mknod(tree / "null", 0o020666, os.makedev(1, 5))
    assert len({before, owned, first, hash_tree(tree)}) == 4


def test_link_out_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", tree / "out")
    before = hash_tree(tree)
    (tmp_path / "outside" / "file").write_bytes(b"x")
    assert hash_tree(tree) == before


def test_tree_deeper_than_the_stack_is_hashed(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", dir_fd=fd)
        fd, old = os.open("d", os.O_RDONLY, dir_fd=fd), fd
        os.close(old)
    os.close(fd)
    hash_tree(tmp_path)


def test_command_prints_the_digest_alone_or_as_json(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    digest = str(hash_tree(tree))
    plain = run_command("treehash", tree, home=tmp_path)
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, f"{digest}\n", "")
    as_json = run_command("treehash", tree, "--json", home=tmp_path)
    assert json.loads(as_json.stdout) == {"jsonVersion": 1, "command": "treehash", "digest": digest}
