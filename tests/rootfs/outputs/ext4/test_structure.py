"""ext4: its parts, without mounting anything: checksums, hashes, layouts, limits."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, UsageError
from ociexport.layers.limits import Limits
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY
from ociexport.rootfs.outputs.ext4 import write_ext4
from ociexport.rootfs.outputs.ext4.checksums import ALL_ONES, crc32c, crc32c_of_rows
from ociexport.rootfs.outputs.ext4.directories import verify_leaves
from ociexport.rootfs.outputs.ext4.extents import Piece, allocate, extent_tree, most_tree_blocks
from ociexport.rootfs.outputs.ext4.hashes import half_md4_of
from ociexport.rootfs.outputs.ext4.inodes import file_inode
from ociexport.rootfs.outputs.ext4.layout import (
    BLOCKS_PER_GROUP,
    Allocator,
    Geometry,
    default_journal_blocks,
    geometry_for,
    has_superblock,
)
from ociexport.rootfs.outputs.formats import DiskImageOptions
from tests.support.disk_images import flattened
from tests.support.memory_source import Member, MemorySource, hard_link, member, symlink, tar_of
from tests.support.sparse_members import sparse_member
from tests.support.system_parts import require

SEED = bytes(range(1, 17))


def little(crc: int) -> bytes:
    return crc.to_bytes(4, "little")


def test_crc_has_the_known_value() -> None:
    assert crc32c(b"123456789") ^ ALL_ONES == 0xE3069283  # RFC 3720's polynomial, as its catalogues check it


@given(
    st.integers(4, 40) | st.integers(250, 520), st.integers(0, 30) | st.integers(250, 520), st.integers(1, 6), st.data()
)
def test_crc_of_rows_is_that_of_each_row(width: int, zeros: int, count: int, data: st.DataObject) -> None:
    cells = st.sampled_from([b"\0", b"\xff", b"a", b"b"])  # whole columns are often the same
    pattern = b"".join(data.draw(st.lists(cells, min_size=1, max_size=100)))
    rows = (pattern * (width * count // len(pattern) + 1))[: width * count]
    seeds = data.draw(st.lists(st.integers(0, ALL_ONES), min_size=count, max_size=count))
    each = [crc32c(rows[width * row : width * (row + 1)] + bytes(zeros), seeds[row]) for row in range(count)]
    assert crc32c_of_rows(rows, width, b"".join(map(little, seeds)), zeros=zeros) == b"".join(map(little, each))


def test_hashes_are_those_of_debugfs() -> None:
    require("debugfs")
    names = [f"{letter * size}.{size}" for letter in "az" for size in (1, 2, 3, 29, 30, 31, 32, 33, 63, 64, 100, 251)]
    commands = "".join(f"dx_hash -h half_md4 -s {uuid.UUID(bytes=SEED)} {name}\n" for name in names)
    result = subprocess.run(["debugfs"], input=commands, capture_output=True, text=True, check=True, timeout=60)
    shown = [line for line in result.stdout.splitlines() if line.startswith("Hash of")]
    found = half_md4_of([name.encode() for name in names], SEED)
    assert shown == [
        f"Hash of {name} is 0x{major:x} (minor 0x{minor:x})"
        for name, (major, minor) in zip(names, found, strict=True)
    ]  # fmt: skip


def test_hash_of_a_name_does_not_depend_on_the_others() -> None:
    names = [bytes([number % 255 + 1]) * (number % 255 + 1) for number in range(5000)]
    assert half_md4_of(names, SEED) == [half_md4_of([name], SEED)[0] for name in names[:255]] * 19 + half_md4_of(
        names[:155], SEED
    )


@settings(max_examples=200, deadline=None)
@given(
    needed=st.integers(1, 3_000_000),
    free=st.integers(0, 30_000_000) | st.integers(0, 5000),
    inodes=st.integers(11, 2_000_000) | st.integers(11, 5000),
)
def test_layout_has_the_space_and_nothing_overlaps(needed: int, free: int, inodes: int) -> None:
    geometry, journal = geometry_for(needed, free, inodes, journal=True)
    assert journal == default_journal_blocks(geometry.blocks)
    assert geometry.groups == -(-geometry.blocks // BLOCKS_PER_GROUP)
    assert inodes <= geometry.groups * geometry.inodes_per_group
    assert geometry.inodes_per_group <= BLOCKS_PER_GROUP
    assert geometry.data_blocks >= needed + journal + free + geometry.kernel_reserve
    runs = [(begin, begin + geometry.head_blocks) for begin in (group * BLOCKS_PER_GROUP for group in geometry.backups)]
    for places, size in (
        (geometry.block_bitmaps, 1),
        (geometry.inode_bitmaps, 1),
        (geometry.tables, geometry.table_blocks),
    ):
        assert len(places) == geometry.groups
        runs += [(place, place + size) for place in places]
    runs = sorted(runs + geometry.free_runs)
    assert [end for _, end in runs] == [*(begin for begin, _ in runs[1:]), geometry.blocks]
    assert runs[0][0] == 0


def test_file_system_without_free_space_is_as_small_as_its_content() -> None:
    geometry, journal = geometry_for(100, 0, 20, journal=True)
    # Superblock, descriptors, 15 reserved blocks, two bitmaps, two blocks of inodes.
    assert (geometry.blocks - geometry.kernel_reserve, journal) == (100 + 21 + 2, 0)


def test_superblocks_are_in_groups_0_1_and_powers() -> None:
    assert [group for group in range(400) if has_superblock(group)] == [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]


def test_journal_sizes_are_those_of_mke2fs(tmp_path: Path) -> None:
    require("mke2fs", "dumpe2fs")
    image = tmp_path / "image"
    for blocks in (2_048, 32_767, 32_768, 262_143, 262_144, 524_288, 4_194_304):
        image.unlink(missing_ok=True)
        command = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-N", "16", "-E", "lazy_journal_init=1"]
        subprocess.run([*command, image, str(blocks)], check=True, capture_output=True, timeout=60)
        shown = subprocess.run(["dumpe2fs", "-h", image], check=True, capture_output=True, text=True, timeout=60).stdout
        assert f"Total journal blocks:     {default_journal_blocks(blocks)}\n" in shown
    assert default_journal_blocks(2_047) == 0


@pytest.mark.parametrize(("pieces", "blocks"), [(4, 0), (5, 1), (340, 1), (341, 2), (1360, 4), (1361, 6)])
def test_extent_tree_has_the_blocks_that_were_counted(pieces: int, blocks: int) -> None:
    runs = [(2 * number, 1) for number in range(pieces)]
    assert most_tree_blocks(runs) == blocks
    allocator = Allocator(Geometry(20_000, 20))
    _, tree = extent_tree(allocate(runs, allocator), allocator, 0)
    assert len({place for place, _ in tree}) == blocks
    assert all(len(content) == 4096 for _, content in tree)


def test_long_runs_are_cut_where_an_extent_ends() -> None:
    first, _ = (geometry := Geometry(200_000, 20)).free_runs[0]
    pieces = allocate([(7, 40_000)], Allocator(geometry))
    assert pieces[0] == Piece(7, first, BLOCKS_PER_GROUP - first)
    assert sum(piece.length for piece in pieces) == 40_000
    assert max(piece.length for piece in allocate([(0, 100_000)], Allocator(Geometry(200_000, 20)))) <= 32_768


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [member("lost+found")],
            "'lost+found': expected a directory, as e2fsck requires of every ext4 file system, got a file",
        ),
        (
            [sparse_member("d/huge", 2**44, {0: b"x"})],
            "'d/huge': size: expected at most 17592186040320 bytes in an ext4 file, got 17592186044416",
        ),
        (
            [symlink("s", "x"), hard_link("d/s", "s")],
            "'d/s': hard links: expected at most 65000 names in ext4, got 65001",
        ),
    ],
)
def test_what_ext4_can_not_hold_is_refused(tmp_path: Path, members: list[Member], message: str) -> None:
    source = MemorySource([tar_of(members)])
    with flattened(source, limits=Limits(max_bytes=2**60)) as image, open(tmp_path / "image", "w+b") as file:
        for node in image.nodes:
            if node.links == 2 and not node.is_directory:
                node.links = 65_001
        with pytest.raises(InvalidImageError) as raised:
            write_ext4(image, file.fileno(), DiskImageOptions())
        assert file.seek(0, 2) == 0
    assert str(raised.value) == message


def test_directory_larger_than_its_index_is_refused() -> None:
    verify_leaves(507 * 510)
    with pytest.raises(
        InvalidImageError, match=r"^names: expected at most 258570 blocks in an ext4 directory, got 258571$"
    ):
        verify_leaves(507 * 510 + 1)


@pytest.mark.parametrize(("links", "stored"), [(2, 2), (65_000, 65_000), (65_001, 1), (100_000, 1)])
def test_directory_with_too_many_links_has_one(links: int, stored: int) -> None:
    """kernel.org ext4/inodes.rst, i_links_count: 1 stands for a number that does not fit."""
    inode = file_inode(
        IMPLIED_DIRECTORY, links=links, size=4096, blocks=1, places=b"", flags=0, xattr_block=0, xattrs=b""
    )
    assert int.from_bytes(inode[26:28], "little") == stored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "zstd"}, "ext4: expected no compression, which the format does not have, got zstd"),
        ({"free_bytes": 2**44}, "ext4: expected less than 16 TiB in all, got "),
        ({"free_bytes": 2**80}, "ext4: expected less than 16 TiB in all, got "),
    ],
)
def test_options_that_ext4_does_not_have_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with flattened(MemorySource([tar_of([member("x")])])) as image, open(tmp_path / "image", "w+b") as file:
        with pytest.raises(UsageError) as raised:
            write_ext4(image, file.fileno(), DiskImageOptions(**options))
        assert file.seek(0, 2) == 0
    assert str(raised.value).startswith(message)
