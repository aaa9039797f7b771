"""EROFS without compression: large files are written once, to the blocks where they stay; nothing hidden remains."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.layers.limits import Limits
from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.erofs.placed import clear_range, settle_placed_data
from ociexport.rootfs.outputs.erofs.superblock import BLOCK_BYTES
from ociexport.rootfs.outputs.erofs.writer import write_erofs
from ociexport.rootfs.outputs.flat_image import PlacedExtent, flat_image
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import UnpackOptions, unpack
from ociexport.spec.lazy_dataclass import replace
from ociexport.system.file_ranges import copy_range
from tests.rootfs.outputs.test_erofs import entry_of, flat_of, needs_root, shapes, verify
from tests.rootfs.outputs.test_flat_image import paths_of
from tests.support.disk_images import AMD64, flattened, hard_source, mounted
from tests.support.memory_source import Member, MemorySource, hard_link, member, sloppy_gzip, tar_of
from tests.support.system_parts import mounted as mounted_as
from tests.support.system_parts import require

HIDDEN = b"what a later layer hides"


def large(name: str, size: int, kind: bytes = b"kept") -> Member:
    """Return a file that stays where it is written, and whose blocks all differ."""
    content = b"".join(b"%s %s %d;" % (kind, name.encode(), number) for number in range(size // 8 + 1))
    return member(name, content[:size])


# Little of the first is hidden, so zeros remain of it; most of the second, so the rest moves together.
LITTLE = [
    [*(large(f"f{number}", 130_000 + number) for number in range(20)), large("gone", 70_000, HIDDEN)],
    [member(".wh.gone"), large("new", 65_536), hard_link("link", "f3")],
    [large("last", 70_000, HIDDEN), large("last", 3900), large("last", 2900)],
]
MUCH = [
    [
        large("first", 200_000),
        *(large(f"f{number}", 70_000 + number, b"kept" if number % 2 else HIDDEN) for number in range(40)),
        large("page", 4096),
    ],
    [large("f17", 4_000_000), large("gone", 65_536, HIDDEN), member("small", b"s" * 5000)],
    [*(large(f"f{number}", 66_000) for number in range(0, 40, 2)), member(".wh.gone"), hard_link("link", "f17")],
]
ALL_GONE = [[large("f", 100_000, HIDDEN)], [member(".wh.f")]]
CASES = {"little": LITTLE, "much": MUCH, "all gone": ALL_GONE}


def source_of(layers: list[list[Member]], *, stored_plain: bool = False) -> MemorySource:
    return MemorySource([tar_of(layer) for layer in layers], compress=bytes if stored_plain else sloppy_gzip)


def erofs(source: MemorySource, path: Path) -> Path:
    unpack(source, path, platform=AMD64, options=UnpackOptions(format="erofs"))
    return path


@needs_root
@pytest.mark.parametrize(
    "source",
    [hard_source(), MemorySource([tar_of(shapes())]), *map(source_of, CASES.values())],
    ids=["hard", "shapes", *CASES],
)
def test_mounted_image_is_the_tree(source: MemorySource, tmp_path: Path) -> None:
    image = erofs(source, tmp_path / "image")
    verify(image)
    unpack(source, tmp_path / "tree", platform=AMD64)
    with mounted(image, "erofs") as root:
        assert hash_tree(root, mtimes=True) == hash_tree(tmp_path / "tree", mtimes=True)


@pytest.mark.parametrize("layers", CASES.values(), ids=CASES)
def test_nothing_hidden_remains_and_little_space_is_lost(layers: list[list[Member]], tmp_path: Path) -> None:
    source = source_of(layers)
    assert any(HIDDEN in content for layer in layers for _, content in layer)
    data = erofs(source, tmp_path / "image").read_bytes()
    assert HIDDEN not in data
    with flattened(source) as image:
        remaining = sum(node.entry.size for node in image.nodes if node.extents)
    assert len(data) < remaining * 1.06 + 4 * BLOCK_BYTES


@pytest.mark.parametrize("layers", [LITTLE, MUCH], ids=["little", "much"])
def test_bytes_do_not_depend_on_how_layers_arrive(layers: list[list[Member]], tmp_path: Path) -> None:
    plain = erofs(source_of(layers, stored_plain=True), tmp_path / "1").read_bytes()
    assert plain == erofs(source_of(layers), tmp_path / "2").read_bytes()


def test_files_stay_where_they_are_written_unless_their_last_block_would_waste_much() -> None:
    sizes = (1, 3855, 3856, 4096, 4097, 17_000, 20_000, 61_440, 61_441, 65_537)
    source = MemorySource([tar_of(member(str(size), b"x" * size) for size in sizes)])
    with (
        tempfile.TemporaryFile() as spool,
        tempfile.TemporaryFile() as file,
        flat_image(source, spool.fileno(), platform=AMD64, limits=Limits(), image_fd=file.fileno()) as image,
    ):
        nodes = {int(path): node for path, node in paths_of(image).items() if path != b"."}
        placed = {size: node.placed.spool_offset for size, node in nodes.items() if node.placed is not None}
        assert sorted(placed) == [3856, 4096, 20_000, 61_440, 65_537]
        assert all(offset % BLOCK_BYTES == 0 < offset for offset in placed.values())
        assert all(image.read(node, 0, 10**6) == b"x" * size for size, node in nodes.items())


@given(st.lists(st.tuples(st.integers(1, 5 * BLOCK_BYTES), st.booleans()), max_size=30), st.booleans())
def test_settled_data_is_that_of_the_files_that_remain(files: list[tuple[int, bool]], is_last_one_whole: bool) -> None:
    with flattened(MemorySource([tar_of([])])) as image, tempfile.TemporaryFile() as file:
        fd, offset, kept = file.fileno(), BLOCK_BYTES, {}
        for number, (size, is_kept) in enumerate(files):
            content = bytes([number + 1]) * size
            os.pwrite(fd, content, offset)
            if is_kept:
                kept[b"%d" % number] = (content, PlacedExtent(0, size, offset))
            offset += size + -size % BLOCK_BYTES
        if is_last_one_whole:
            os.ftruncate(fd, offset)
        settled = flat_of(image, {name: entry_of(EntryType.FILE, len(content)) for name, (content, _) in kept.items()})
        for name, node in settled.root.children or ():
            node.extents = (kept[name][1],)
        settled = replace(settled, image_fd=fd)
        end = settle_placed_data(settled, fd) * BLOCK_BYTES
        assert os.fstat(fd).st_size == end
        for name, node in settled.root.children or ():
            assert settled.read(node, 0, node.entry.size) == kept[name][0]
        zeros = os.pread(fd, end, 0).count(0)
        padding = sum(-len(content) % BLOCK_BYTES for content, _ in kept.values())
        assert zeros == end - sum(len(content) for content, _ in kept.values())
        assert zeros - padding - BLOCK_BYTES <= end // 20


@needs_root
def test_a_file_of_more_than_4_gib_stays_where_it_is(tmp_path: Path) -> None:
    size, path = 5 * 1024**3 + 7, tmp_path / "image"
    with flattened(MemorySource([tar_of([])])) as image, open(path, "w+b") as file:
        os.pwrite(file.fileno(), b"begin", BLOCK_BYTES)
        os.pwrite(file.fileno(), b"end", BLOCK_BYTES + size - 3)
        one = flat_of(image, {b"f": entry_of(EntryType.FILE, size)}, [PlacedExtent(0, size, BLOCK_BYTES)])
        write_erofs(replace(one, image_fd=file.fileno()), file.fileno(), DiskImageOptions())
    with mounted(path, "erofs") as root, open(root / "f", "rb") as file:
        assert (os.fstat(file.fileno()).st_size, file.read(6)) == (size, b"begin\0")
        file.seek(size - 4)
        assert file.read() == b"\0end"


def test_ranges_are_cleared_and_moved_down_even_where_they_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a file system that can't free blocks."""
    for is_refused in (False, True):
        if is_refused:
            monkeypatch.setattr("ociexport.rootfs.disk.linux._libc", object)
        with tempfile.TemporaryFile() as file:
            fd, content = file.fileno(), os.urandom(3_000_000)
            os.pwrite(fd, content, 0)
            clear_range(fd, 4096, 2_000_000)
            expected = content[:4096] + bytes(2_000_000) + content[2_004_096:]
            assert os.pread(fd, 4_000_000, 0) == expected
            os.pwrite(fd, content, 0)
            copy_range(fd, 5000, fd, 904, 2_995_000)
            assert os.pread(fd, 4_000_000, 0) == content[:904] + content[5000:] + content[-4096:]


def test_room_is_needed_once_and_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    require(root=True)
    source = MemorySource([tar_of([member("f", os.urandom(600_000)), member("g", b"g" * 10_000)])])
    with mounted_as(tmp_path / "disk", "-t", "tmpfs", "-o", "size=1M", "tmpfs") as disk:
        erofs(source, disk / "x")
        assert os.listdir(disk) == ["x"]
        with pytest.raises(OSError, match=r"data of its small files need room at once\)") as caught:
            unpack(source, disk / "y", platform=AMD64, options=UnpackOptions(format="erofs", preflight=False))
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{disk}/y")
        assert os.listdir(disk) == ["x"]


def test_full_image_is_an_error_though_the_spool_has_room() -> None:
    source = MemorySource([tar_of(member(f"f{number}", b"x" * 4096) for number in range(3000))])
    with (
        tempfile.TemporaryFile() as spool,
        open("/dev/full", "r+b", buffering=0) as full,
        pytest.raises(OSError, match="No space left"),
        flat_image(source, spool.fileno(), platform=AMD64, limits=Limits(), image_fd=full.fileno()),
    ):
        pass
    assert not any(thread.name == "spool" for thread in threading.enumerate())
