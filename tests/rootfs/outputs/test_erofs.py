"""EROFS: what the kernel mounts is the tree that `unpack` makes, and fsck.erofs finds no problem."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tarfile
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.rootfs.outputs.erofs.writer import write_erofs, write_layer_erofs
from ociexport.rootfs.outputs.flat_image import Extent, FlatImage, FlatNode
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import unpack
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import replace
from tests.support.acls import ACL, MASK_ACL, PLAIN_ACL
from tests.support.disk_images import AMD64, flattened, hard_source, mounted, write_image
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.sparse_members import sparse_member

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")
_FSCK = shutil.which("fsck.erofs")
_CAPABILITY = struct.pack("<5I", 0x0200_0001, 1 << 13, 0, 0, 0)
_TEXT = bytes(range(1, 251)) * 40


def shapes() -> list[Member]:
    """Return what is stored in different ways: one member for each edge of the format."""
    sizes = (1, 3999, 4000, 4031, 4032, 4033, 4063, 4064, 4065, 4095, 4096, 4097, 8128, 8129, 8191, 8192, 8193)
    return [
        directory("./", 0o755, xattrs={"user.root": b"r" * 600}),
        *(member(f"size-{size}", _TEXT[:size], mtime=1_000_000_000 + size % 2) for size in sizes),
        *(symlink(f"link-{size}", "t" * size) for size in (1, 4031, 4032, 4064, 4094, 4095)),
        *(member(f"shared-{number}", b"x", xattrs={"user.same": b"same"}) for number in range(3)),
        member("acl", mode=0o650, xattrs={"system.posix_acl_access": ACL}),
        member("acl-beside-mode", mode=0o4600, xattrs={"system.posix_acl_access": ACL}),
        member("acl-as-mode", mode=0o600, xattrs={"system.posix_acl_access": PLAIN_ACL}),
        member("acl-with-mask", mode=0o600, xattrs={"system.posix_acl_access": MASK_ACL}),
        directory("acls", 0o775, xattrs={"system.posix_acl_default": ACL}),
        member("refused", xattrs={"user.": b"1", "unknown.name": b"2", "system.posix_acl_access": b"no ACL"}),
        symlink("refused-link", "x", xattrs={"user.name": b"1", "trusted.kept": b"2"}),
        member("device", type=tarfile.CHRTYPE, devmajor=4095, devminor=1_048_575),
        member("zero", type=tarfile.BLKTYPE, devmajor=0, devminor=0),
        member("times-1", pax_headers={"mtime": "-1.999999999"}),
        member("times-2", pax_headers={"mtime": "5000000000.123456789"}),
        member("owner", uid=65_535, gid=65_535),
        member("large-owner", uid=65_536, gid=2**32 - 2),
        sparse_member("hole", 10_000_000, {}),
        sparse_member("small-holes", 12_000, {0: b"1" * 100, 5000: b"2" * 100, 11_990: b"3" * 10}),
        sparse_member("two-blocks", 1_000_000, {8000: b"x" * 1000, 900_000: b"y" * 9000}),
        *(member(f"before-dot/{name}", b"x") for name in ("!", "-", "-x", ",", "...", ".a", "a", "\udcff")),
        *(hard_link(f"links/{number}", "size-1") for number in range(300)),
        *(directory(f"full/{number:0250}") for number in range(60)),
    ]


# More than many file systems that trees are unpacked to can store.
_XATTRS: dict[str, dict[str, bytes]] = {
    "many": {f"user.{number:03}": b"x" * 90 for number in range(60)},
    "long": {"user.long": b"l" * 5000},
    "longest": {"user.v": b"v" * 65_535, "trusted.t": b"", "security.capability": _CAPABILITY},
    "shared-1": {f"user.{number}": b"%d" % number for number in range(300)},
    "shared-2": {f"user.{number}": b"%d" % number for number in range(300)},
    "shared-3": {"user.long": b"l" * 5000, "user.own": b"o" * 3000},
    "n" * 255: {f"user.{'n' * 250}": b"n"},
}


def unpacked(source: MemorySource, target: Path) -> Path:
    unpack(source, target, platform=AMD64)
    return target


def verify(image: Path) -> None:
    if _FSCK is not None:
        # Version 1.5 ends with 0 even if the checksum is wrong.
        checked = subprocess.run([_FSCK, image], check=False, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.fixture(scope="module")
def shapes_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("erofs") / "image", write_erofs, MemorySource([tar_of(shapes())]))


@needs_root
@pytest.mark.parametrize("source", [hard_source(), MemorySource([tar_of(shapes())])], ids=["hard", "shapes"])
def test_mounted_image_is_the_tree(tmp_path: Path, source: MemorySource) -> None:
    image = write_image(tmp_path / "image", write_erofs, source)
    verify(image)
    tree = hash_tree(unpacked(source, tmp_path / "tree"), mtimes=True)
    with mounted(image, "erofs") as root:
        assert hash_tree(root, mtimes=True) == tree


@pytest.mark.skipif(_FSCK is None, reason="needs erofs-utils")
def test_no_inode_is_the_last_thing_in_an_image(tmp_path: Path) -> None:
    """fsck.erofs 1.5 reads 12 bytes behind each inode, also behind one without attributes."""
    sizes = set()
    for count in range(80, 90):
        source = MemorySource([tar_of(member(f"{number:03}") for number in range(count))])
        image = write_image(tmp_path / "image", write_erofs, source)
        data = image.read_bytes()
        assert (count, data[-12:]) == (count, bytes(12))
        sizes.add(len(data))
        verify(image)
    assert len(sizes) == 2


@needs_root
def test_large_attributes_are_read_back(tmp_path: Path) -> None:
    source = MemorySource([tar_of(member(name, b"tail" * 500, xattrs=xattrs) for name, xattrs in _XATTRS.items())])
    image = write_image(tmp_path / "image", write_erofs, source)
    verify(image)
    with mounted(image, "erofs") as root:
        for name, xattrs in _XATTRS.items():
            found = {key: os.getxattr(root / name, key) for key in os.listxattr(root / name)}
            assert found == xattrs
            assert (root / name).read_bytes() == b"tail" * 500


@needs_root
def test_large_file_with_holes_takes_little_space(tmp_path: Path) -> None:
    parts = {4096: b"a" * 5000, 3 * 1024**3 + 1: b"b", 5 * 1024**3: b"end-end"}
    size = 5 * 1024**3 + 7
    source = MemorySource([tar_of([sparse_member("f", size, parts), member("flat", b"x" * 100_000)])])
    image = write_image(tmp_path / "image", write_erofs, source)
    verify(image)
    assert image.stat().st_size < 2_000_000
    with mounted(image, "erofs") as root, open(root / "f", "rb") as file:
        assert os.fstat(file.fileno()).st_size == size
        for offset, part in parts.items():
            file.seek(offset - 1)
            assert file.read(len(part) + 1) == b"\0" + part
            assert file.read(1000).strip(b"\0") == b""


@needs_root
def test_large_directory_is_listed_and_searched(tmp_path: Path) -> None:
    names = [f"{'n' * (number % 200)}{number}" for number in range(100_000)]
    files = dict.fromkeys(sorted(map(os.fsencode, names)), entry_of(EntryType.FILE))
    path = tmp_path / "image"
    with flattened(MemorySource([tar_of([])])) as image, open(path, "w+b") as file:
        write_erofs(flat_of(image, files), file.fileno(), DiskImageOptions())
    verify(path)
    with mounted(path, "erofs") as root:
        assert sorted(os.listdir(root)) == sorted(names)
        assert all(os.path.lexists(root / name) for name in names[::97])
        assert not any(os.path.lexists(root / f"{name}-") for name in names[::997])


@pytest.mark.skipif(_FSCK is None, reason="needs erofs-utils")
def test_fsck_finds_no_problem_and_the_kernel_s_checksum_is_right(shapes_image: Path) -> None:
    verify(shapes_image)
    dumped = subprocess.run(["dump.erofs", shapes_image], check=True, capture_output=True, text=True).stdout
    assert "sb_csum" in dumped
    data = bytearray(shapes_image.read_bytes()[:8192])
    data[1024 + 64] ^= 1
    broken = shapes_image.with_name("broken")
    broken.write_bytes(data + shapes_image.read_bytes()[8192:])
    with pytest.raises(AssertionError, match="checksum"):
        verify(broken)


def test_same_image_gives_the_same_bytes_and_another_config_another_uuid(tmp_path: Path) -> None:
    first, second, other = (
        write_image(tmp_path / name, write_erofs, source, DiskImageOptions(threads=threads)).read_bytes()
        for name, source, threads in (
            ("1", hard_source(), 1),
            ("2", hard_source(), 8),
            ("3", MemorySource([tar_of([member("a")])]), 1),
        )
    )
    assert first == second
    assert len(first) % 4096 == 0
    ids = [uuid.UUID(bytes=data[1024 + 48 : 1024 + 64]) for data in (first, other)]
    assert ids[0] != ids[1]
    assert all(item.version == 8 and item.variant == uuid.RFC_4122 for item in ids)


def test_attributes_that_linux_refuses_are_counted(tmp_path: Path) -> None:
    with flattened(MemorySource([tar_of(shapes())])) as image, open(tmp_path / "image", "w+b") as file:
        write_erofs(image, file.fileno(), DiskImageOptions())
    assert image.losses.refused_xattrs == {
        b"user.": 1, b"unknown.name": 1, b"system.posix_acl_access": 1, b"user.name": 1,
    }  # fmt: skip


def flat_of(image: FlatImage, files: dict[bytes, Entry], extents: Sequence[Extent] = ()) -> FlatImage:
    """Return an image with these files in its root, all with the same extents."""
    root = FlatNode(0, image.root.entry, None)
    nodes = [root]
    root.children = []
    for name, entry in files.items():
        node = FlatNode(len(nodes), entry, root)
        node.extents = extents if entry.type is EntryType.FILE else None
        node.children = [] if entry.type is EntryType.DIRECTORY else None
        nodes.append(node)
        root.children.append((name, node))
    return replace(image, nodes=nodes)


def entry_of(kind: EntryType, size: int = 0, xattrs: dict[bytes, bytes] | None = None) -> Entry:
    return Entry(kind, b"", b"", 0o755, 0, 0, size, 0, None, xattrs, (0, 0), None)


@pytest.mark.parametrize(
    ("size", "extents", "message"),
    [
        (2**44, [Extent(0, 2**44, 0)], "00: data: expected at most 4294967295 blocks for EROFS, got more"),
        (
            2**40,
            [Extent(number * 2**28, 1, number) for number in range(2**12)],
            "holes: expected maps of at most 1073741824 bytes in all, got more",
        ),
    ],
)
def test_too_much_data_and_too_many_holes_are_refused(
    tmp_path: Path, size: int, extents: list[Extent], message: str
) -> None:
    with flattened(MemorySource([tar_of([member("f")])])) as image, open(tmp_path / "image", "w+b") as file:
        many = flat_of(image, {b"%02d" % number: entry_of(EntryType.FILE, size) for number in range(70)}, extents)
        with pytest.raises(InvalidImageError) as caught:
            write_erofs(many, file.fileno(), DiskImageOptions())
    assert message in str(caught.value).replace("'", "")


@needs_root
def test_layer_has_what_overlayfs_reads(tmp_path: Path) -> None:
    opaque = {b"trusted.overlay.opaque": b"y"}
    files = {
        b"gone": entry_of(EntryType.CHARACTER_DEVICE),
        b"kept": entry_of(EntryType.FILE, 5),
        b"opaque": entry_of(EntryType.DIRECTORY, xattrs=opaque),
    }
    lower, merged = tmp_path / "lower", tmp_path / "merged"
    (lower / "opaque").mkdir(parents=True)
    merged.mkdir()
    for name in ("gone", "other", "opaque/hidden"):
        (lower / name).write_text("lower")
    path = tmp_path / "layer"
    with flattened(MemorySource([tar_of([member("f", b"upper")])])) as image, open(path, "w+b") as file:
        layer = flat_of(image, files, [Extent(0, 5, 0)])
        write_layer_erofs(layer, file.fileno(), DiskImageOptions(), Digest.of(b"layer"))
    verify(path)
    with mounted(path, "erofs") as upper:
        options = f"lowerdir={upper}:{lower}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", merged], check=True)
        try:
            found = sorted(item.relative_to(merged).as_posix() for item in merged.rglob("*"))
            content = (merged / "kept").read_text()
        finally:
            subprocess.run(["umount", merged], check=True)
    assert (found, content) == (["kept", "opaque", "other"], "upper")


@pytest.mark.parametrize("members", [[member("f", b"x" * 100_000)], [member("f", b"x")]], ids=["data", "inodes"])
def test_full_disk_is_an_error(members: list[Member]) -> None:
    with (
        flattened(MemorySource([tar_of(members)])) as image,
        open("/dev/full", "r+b", buffering=0) as full,
        pytest.raises(OSError, match="No space left"),
    ):
        write_erofs(image, full.fileno(), DiskImageOptions())
    assert not any(thread.name == "copy" for thread in threading.enumerate())
