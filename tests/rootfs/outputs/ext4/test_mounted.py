"""ext4: what the kernel mounts is the tree that `unpack` makes, and e2fsck finds no problem."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ociexport.rootfs.outputs.ext4 import write_ext4
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import unpack
from tests.rootfs.outputs.ext4.sources import shapes_source
from tests.support.disk_images import AMD64, flattened, hard_source, mounted, write_image
from tests.support.memory_source import MemorySource, member, tar_of
from tests.support.sparse_members import sparse_member
from tests.support.system_parts import require, run

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def _tools() -> None:
    require("e2fsck", "debugfs", "dumpe2fs", "resize2fs", "mount", "umount", root=True)


def check(image: Path) -> str:
    """Run e2fsck on an image that must have no problem."""
    result = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False, timeout=100)
    lines = result.stdout.splitlines()
    assert (result.returncode, [line for line in lines[:-1] if not line.startswith("Pass ")]) == (0, []), result.stdout
    return lines[-1]


@contextmanager
def mounted_for_writing(image: Path, place: Path) -> Iterator[Path]:
    place.mkdir()
    run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        run("umount", place)
        place.rmdir()


@pytest.fixture(scope="module")
def hard() -> MemorySource:
    return hard_source()


@pytest.fixture(scope="module")
def shapes() -> MemorySource:
    return shapes_source()


@pytest.mark.parametrize("name", ["hard", "shapes"])
def test_mounted_tree_is_that_of_unpack(tmp_path: Path, request: pytest.FixtureRequest, name: str) -> None:
    source = request.getfixturevalue(name)
    image = write_image(tmp_path / "root.ext4", write_ext4, source)
    check(image)
    tree = tmp_path / "tree"
    losses = unpack(source, tree, platform=AMD64).losses
    with mounted(image, "ext4") as root_directory:
        assert hash_tree(root_directory, mtimes=True) == hash_tree(tree, mtimes=True)
        for path in (".", "d", "directories"):
            if (tree / path).exists():
                assert (root_directory / path).stat().st_nlink == (tree / path).stat().st_nlink
    with flattened(source) as flat, open(tmp_path / "again", "w+b") as file:
        write_ext4(flat, file.fileno(), DiskImageOptions(threads=4))
        assert flat.losses.refused_xattrs == losses.refused_xattrs
        assert flat.losses.times == (
            5 if name == "shapes" else 0
        )  # the kernel changes these as well, but tells nothing
    assert (tmp_path / "again").read_bytes() == image.read_bytes()


def test_large_sparse_file_takes_no_space(tmp_path: Path) -> None:
    size = 5 * 1024**3
    parts = {0: b"first", 2**32 - 2: b"across", size - 4: b"last"}
    source = MemorySource([tar_of([sparse_member("big", size, parts), member("later", b"x" * 5000)])])
    image = write_image(tmp_path / "root.ext4", write_ext4, source)
    check(image)
    assert image.stat().st_blocks * 512 < 2_000_000
    with mounted(image, "ext4") as root:
        status = (root / "big").stat()
        assert (status.st_size, status.st_blocks) == (size, 4 * 8)
        with open(root / "big", "rb") as file:
            for offset, part in parts.items():
                assert os.pread(file.fileno(), len(part), offset) == part
            assert os.lseek(file.fileno(), 10_000, os.SEEK_DATA) == 2**32 - 4096
        assert (root / "later").read_bytes() == b"x" * 5000


def test_index_of_two_levels_finds_each_name(tmp_path: Path) -> None:
    names = sorted(f"{number:x}".ljust(250, "n").encode() for number in range(8_000))  # more than 507 blocks
    with flattened(MemorySource([tar_of([member("file", b"x")])])) as flat, open(tmp_path / "image", "w+b") as file:
        (_, node), *_ = children = flat.root.children or []
        node.links += len(names)
        children += [(name, node) for name in names]
        write_ext4(flat, file.fileno(), DiskImageOptions())
    check(tmp_path / "image")
    with mounted_for_writing(tmp_path / "image", tmp_path / "mnt") as root:
        assert sorted(os.listdir(os.fsencode(root))) == sorted([*names, b"file"])
        assert all((root / os.fsdecode(name)).stat().st_nlink == 8_001 for name in names)
        for number in range(2_000):
            (root / f"another-{number}").touch()
            (root / os.fsdecode(names[number])).unlink()
    check(tmp_path / "image")


@pytest.mark.parametrize("free_bytes", [None, 0, 1, 50_000_000, 512 * 1024**2])
def test_free_space_is_available_to_root(tmp_path: Path, hard: MemorySource, free_bytes: int | None) -> None:
    image = write_image(tmp_path / "root.ext4", write_ext4, hard, DiskImageOptions(free_bytes=free_bytes))
    check(image)
    with mounted_for_writing(image, tmp_path / "mnt") as root:
        status = os.statvfs(root)
        expected = 16 * 1024**2 if free_bytes is None else free_bytes
        assert expected <= status.f_bavail * status.f_bsize <= expected * 1.05 + 8 * 1024**2
        assert status.f_favail >= expected // 16_384
        if expected <= 50_000_000:
            (root / "new").write_bytes(b"n" * expected)
        else:
            for number in range(1000):
                (root / "many" / f"new{number}").write_bytes(b"n" * 10)
        shutil.rmtree(root / "dirs")
    check(image)


def test_full_file_system_has_room_for_lost_and_found(tmp_path: Path, hard: MemorySource) -> None:
    image = write_image(tmp_path / "root.ext4", write_ext4, hard, DiskImageOptions(free_bytes=0))
    ended = subprocess.run(["e2fsck", "-fp", image], stdout=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert "/lost+found not found.  CREATED." in ended.stdout
    check(image)


def test_file_system_grows(tmp_path: Path, hard: MemorySource) -> None:
    image = write_image(tmp_path / "root.ext4", write_ext4, hard)
    os.truncate(image, 2 * 1024**3)
    run("resize2fs", image)
    assert check(image).endswith(f"/{2 * 1024**3 // 4096} blocks")
    os.truncate(image, 20 * 1024**3)  # one more block of descriptors: a reserved one is used, and nothing moves
    run("resize2fs", image)
    with mounted_for_writing(image, tmp_path / "mnt") as root:
        (root / "new").write_bytes(bytes(range(256)) * 100_000)
    assert check(image).endswith(f"/{20 * 1024**3 // 4096} blocks")
    assert "meta_bg" not in run("dumpe2fs", "-h", image)
    assert "Reserved GDT blocks:      14" in run("dumpe2fs", "-h", image)


def test_tools_show_what_mke2fs_makes(tmp_path: Path, shapes: MemorySource) -> None:
    image = write_image(tmp_path / "root.ext4", write_ext4, shapes)
    fields = dict(line.split(":", 1) for line in run("dumpe2fs", "-h", image).splitlines() if ":" in line)
    assert fields["Filesystem features"].split() == [
        "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "flex_bg", "sparse_super",
        "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
    ]  # fmt: skip
    assert fields["Filesystem state"].strip() == "clean"
    assert fields["Reserved block count"].strip() == "0"
    assert fields["Total journal size"].strip() == "4096k"
    assert "Flags: 0x81000" in run("debugfs", "-R", "stat /names", image)
    assert "security.capability (20)" in run("debugfs", "-R", "ea_list /capable", image)
    assert "Fast link dest" in run("debugfs", "-R", "stat /link-59", image)
    assert "EXTENTS" in run("debugfs", "-R", "stat /link-60", image)
    assert "system.posix_acl_access" in run("debugfs", "-R", "ea_list /acl/file", image)
    plain = write_image(tmp_path / "plain", write_ext4, shapes, DiskImageOptions(journal=False))
    check(plain)
    assert "has_journal" not in run("dumpe2fs", "-h", plain)
    assert image.stat().st_size - plain.stat().st_size >= 4 * 1024**2
