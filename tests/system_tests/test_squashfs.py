"""Images of squashfs read by Linux, by squashfs-tools and by squashfs-tools-ng: the tree that unpack makes.

Squashfs has whole seconds from 1970 to 2106, and no ACLs; of the unpacked tree both are cut off before it is compared.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.flat_image import FlatNode
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.outputs.squashfs import write_squashfs
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import unpack
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import replace
from tests.support.disk_images import AMD64, flattened, hard_source, mounted, write_image
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.sparse_members import sparse_member
from tests.support.system_parts import require, run

pytestmark = pytest.mark.system

GIB = 1024**3
BLOCK = 131_072
CAPABILITY = struct.pack("<5I", 0x02000001, 0x2000, 0, 0, 0)
# Owner rw, user 7 r, group none, mask r, others none: Linux makes the mode 0640 of it.
NOBODY = 2**32 - 1
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in ((1, 6, NOBODY), (2, 4, 7), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
)
OPTIONS = {
    "gzip": DiskImageOptions(compression="gzip", threads=2),
    "gzip level 1": DiskImageOptions(compression="gzip", level=1),
    "zstd": DiskImageOptions(compression="zstd", threads=3),
    "none": DiskImageOptions(compression="none"),
}


def noise(size: int, seed: int) -> bytes:
    """Return bytes that do not compress."""
    return (
        os.urandom(0)
        + b"".join(
            ((seed * 2_654_435_761 + number * 40_503 + number * number) % 2**64).to_bytes(8, "little")
            for number in range(-(-size // 8))
        )[:size]
    )


def odd_members() -> list[Member]:
    """Return what this format stores in different ways, beside what all formats do."""
    labels = {f"trusted.{'t' * 200}": b"v" * 3000, "security.label": b"", "user.ü": b"\x00\xff"}
    return [
        directory("./", 0o1777, mtime=2**31, xattrs={"user.root": b"r"}),
        member("capable", b"x", xattrs={"security.capability": CAPABILITY}),
        member("labels", b"x", xattrs=labels),
        member("listed", b"x", mode=0o600, xattrs={"system.posix_acl_access": ACL}),
        directory("same-labels", xattrs=labels),
        *(member(f"sizes/{size}", noise(size, size)) for size in (1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 700_001)),
        *(member(f"sizes/{size}-again", noise(size, size)) for size in (BLOCK - 1, BLOCK, 700_001)),
        *(member(f"text/{size}", b"text" * size) for size in (10, 9_000, 40_000, 200_000)),
        member("edge", noise(BLOCK, 1) + bytes(BLOCK) + noise(BLOCK, 2) + bytes(2 * BLOCK + 5)),
        hard_link("edge-too", "edge"),
        sparse_member(
            "sparse", 30 * BLOCK + 3, {0: b"begin", 7 * BLOCK - 2: b"over", 9 * BLOCK + 9: noise(3 * BLOCK, 3)}
        ),
        sparse_member("hole", 2 * BLOCK + 1, {}),
        sparse_member("small-hole", 1000, {500: b"s"}),
        member("device", type=tarfile.CHRTYPE, devmajor=4095, devminor=1_048_575, xattrs={"trusted.d": b"d"}),
        member("pipe", type=tarfile.FIFOTYPE, mode=0o622, xattrs={"trusted.p": b"p"}),
        symlink("link", "t" * 4095, xattrs={"trusted.l": b"l"}),
        hard_link("link-too", "link"),
        hard_link("pipe-too", "pipe"),
        directory("nothing", 0o000),
        *(directory(f"nested/{'/'.join(['d'] * depth)}", mtime=depth) for depth in range(1, 60)),
        *(member(f"long/{number:04}{'n' * 251}", b"%d" % (number % 7), uid=number) for number in range(900)),
    ]


@pytest.fixture(scope="session")
def odd_source() -> MemorySource:
    lower = [member("long/0000" + "n" * 251, b"old"), member("gone", b"g")]
    return MemorySource([tar_of(lower), tar_of([*odd_members(), member(".wh.gone")])])


def cut(root: Path) -> None:
    """Take from a tree what squashfs can't store."""
    for above, directories, files in os.walk(root, topdown=False):
        for name in (*files, *directories):
            cut_path(os.path.join(above, name))
    cut_path(str(root))


def cut_path(path: str) -> None:
    if "system.posix_acl_access" in os.listxattr(path, follow_symlinks=False):
        os.removexattr(path, "system.posix_acl_access")
    seconds = os.lstat(path).st_mtime_ns // 10**9
    os.utime(path, ns=(0, min(max(seconds, 0), 2**32 - 1) * 10**9), follow_symlinks=False)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, odd_source: MemorySource) -> dict[str, Digest]:
    """Hashes of the trees that unpack makes of `hard_source` and of the source here."""
    require("mount", root=True)
    place = tmp_path_factory.mktemp("trees")
    hashes = {}
    for name, source in (("hard", hard_source()), ("odd", odd_source)):
        unpack(source, place / name, platform=AMD64)
        cut(place / name)
        hashes[name] = hash_tree(place / name, mtimes=True)
    return hashes


@pytest.mark.parametrize("compression", OPTIONS)
def test_linux_mounts_the_tree_that_unpack_makes(
    tmp_path: Path, compression: str, expected: dict[str, Digest], odd_source: MemorySource
) -> None:
    for name, source in (("hard", hard_source()), ("odd", odd_source)):
        image = write_image(tmp_path / name, write_squashfs, source, OPTIONS[compression])
        with mounted(image, "squashfs") as root:
            assert hash_tree(root, mtimes=True) == expected[name]


def test_unsquashfs_extracts_the_same_tree(
    tmp_path: Path, expected: dict[str, Digest], odd_source: MemorySource
) -> None:
    require("unsquashfs")
    image = write_image(tmp_path / "image", write_squashfs, odd_source, OPTIONS["zstd"])
    run("unsquashfs", "-no-progress", "-strict-errors", "-dest", tmp_path / "tree", image)
    assert hash_tree(tmp_path / "tree", mtimes=True) == expected["odd"]
    listed = run("unsquashfs", "-no-progress", "-lls", image).splitlines()
    assert len([line for line in listed if "squashfs-root" in line]) > 950


def test_sqfs2tar_gives_a_tar_of_the_same_tree(
    tmp_path: Path, expected: dict[str, Digest], odd_source: MemorySource
) -> None:
    """squashfs-tools-ng shares no code with Linux and squashfs-tools."""
    require("sqfs2tar")
    image = write_image(tmp_path / "image", write_squashfs, odd_source, OPTIONS["gzip"])
    tar = subprocess.run(["sqfs2tar", "--no-skip", "-r", ".", image], capture_output=True, check=True).stdout
    unpack(MemorySource([tar]), tmp_path / "tree", platform=AMD64)
    assert hash_tree(tmp_path / "tree", mtimes=True) == expected["odd"]


def test_linux_finds_each_of_100000_names(tmp_path: Path) -> None:
    names = [f"{number:06}{'x' * (number % 40)}" for number in range(100_000)]
    path = tmp_path / "image"
    with flattened(MemorySource([tar_of([directory("d")])])) as image, open(path, "w+b") as file:
        root_node, above = image.nodes
        pipe = above.entry._replace(type=EntryType.FIFO)
        pipes = [FlatNode(number, pipe, above) for number in range(2, len(names) + 2)]
        above.children = list(zip(map(os.fsencode, names), pipes, strict=True))
        write_squashfs(replace(image, nodes=[root_node, above, *pipes]), file.fileno(), DiskImageOptions())
    with mounted(path, "squashfs") as root:
        assert sorted(os.listdir(root / "d")) == names
        for name in (names[0], names[255], names[256], names[-1], *names[5::997]):
            assert (root / "d" / name).is_fifo()
        for missing in ("", "000000x", "05", "zz"):
            assert not (root / "d" / f"{missing}y").exists()


def test_holes_take_no_blocks(tmp_path: Path, odd_source: MemorySource) -> None:
    image = write_image(tmp_path / "image", write_squashfs, odd_source)
    assert image.stat().st_size < 4_000_000
    with mounted(image, "squashfs") as root:
        assert (root / "sparse").stat().st_blocks * 512 <= 8 * BLOCK
        assert (root / "hole").stat().st_blocks == 0
        assert (root / "edge").stat().st_ino == (root / "edge-too").stat().st_ino


def test_file_of_more_than_4_gib_has_its_data_in_place(tmp_path: Path) -> None:
    parts = {0: b"begin", 4 * GIB - 2: noise(300_000, 4), 5 * GIB + 2: b"end"}
    source = MemorySource([tar_of([sparse_member("sparse", 5 * GIB + 5, parts)])])
    image = write_image(tmp_path / "image", write_squashfs, source)
    with mounted(image, "squashfs") as root, open(root / "sparse", "rb") as file:
        assert os.fstat(file.fileno()).st_size == 5 * GIB + 5
        holes = ((5, bytes(BLOCK)), (4 * GIB + 299_998, bytes(BLOCK)), (5 * GIB - 7, bytes(9)))
        for offset, data in (*parts.items(), *holes):
            assert os.pread(file.fileno(), len(data), offset) == data


def test_files_are_found_by_handle(tmp_path: Path) -> None:
    """A handle has the inode's number, which the export table resolves; NFS works so."""
    require("mount", root=True)
    source = MemorySource([tar_of(member(f"d{number % 9}/{number}", b"%d" % number) for number in range(3000))])
    image = write_image(tmp_path / "image", write_squashfs, source)
    libc = ctypes.CDLL(None, use_errno=True)
    handles = {}
    with mounted(image, "squashfs") as root:
        for number in (0, 1500, 2999):
            handle = ctypes.create_string_buffer(struct.pack("Ii", 120, 0), 128)
            path = os.fsencode(root / f"d{number % 9}" / str(number))
            assert libc.name_to_handle_at(-100, path, handle, ctypes.byref(ctypes.c_int()), 0) == 0
            handles[number] = handle
    # Mounted anew, it has no inode in memory.
    with mounted(image, "squashfs") as root:
        root_fd = os.open(root, os.O_RDONLY)
        for number, handle in handles.items():
            fd = libc.open_by_handle_at(root_fd, handle, os.O_RDONLY)
            assert fd >= 0, os.strerror(ctypes.get_errno())
            assert os.read(fd, 10) == b"%d" % number
            os.close(fd)
        os.close(root_fd)
