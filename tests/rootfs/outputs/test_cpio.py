"""cpio: an archive as the kernel and other readers unpack it, with the same bytes each time."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ociexport.errors import InvalidImageError
from ociexport.rootfs.disk.metadata import XattrMode
from ociexport.rootfs.outputs.cpio import write_cpio
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.support.disk_images import AMD64, flattened, hard_source, write_image
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.sparse_members import sparse_member
from tests.support.system_parts import require


class Header(NamedTuple):
    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime: int
    size: int
    device: tuple[int, int]
    data: bytes


def entries_of(archive: bytes) -> Iterator[tuple[bytes, Header]]:
    """Yield the entries of an archive, read as buffer-format.rst describes it."""
    offset = 0
    while True:
        assert (offset % 4, archive[offset : offset + 6]) == (0, b"070701")
        fields = [int(archive[offset + at : offset + at + 8], 16) for at in range(6, 110, 8)]
        ino, mode, uid, gid, nlink, mtime, size, major, minor, rdev_major, rdev_minor, name_size, check = fields
        assert (major, minor, check) == (0, 0, 0)
        name = archive[offset + 110 : offset + 110 + name_size - 1]
        assert archive[offset + 110 + name_size - 1] == 0
        begin = offset + 110 + name_size + (-(110 + name_size) % 4)
        if name == b"TRAILER!!!":
            assert (archive[begin:], nlink) == (b"", 1)
            return
        yield (
            name,
            Header(ino, mode, uid, gid, nlink, mtime, size, (rdev_major, rdev_minor), archive[begin : begin + size]),
        )
        offset = begin + size + -size % 4


def archive_of(tmp_path: Path, *layers: list[Member]) -> list[tuple[bytes, Header]]:
    path = write_image(tmp_path / "x.cpio", write_cpio, MemorySource([tar_of(layer) for layer in layers]))
    return list(entries_of(path.read_bytes()))


def test_headers_have_what_the_image_declares(tmp_path: Path) -> None:
    """buffer-format.rst, "cpio"; the data of a file with several names is at the last one, as GNU cpio wants it."""
    found = archive_of(
        tmp_path,
        [
            directory("./", 0o711, mtime=4),
            directory("d", 0o3775, uid=5, gid=2**32 - 2, mtime=5),
            member("d/f", b"abcde", mode=0o4755, pax_headers={"mtime": "7.9"}),
            hard_link("a", "d/f"),
            hard_link("z", "d/f"),
            symlink("s", "target", mtime=-9),
            hard_link("s2", "s"),
            member("n", type=b"3", devmajor=4095, devminor=1048575, mtime=5_000_000_000),
            member("p", type=b"6"),
        ],
    )
    assert [name for name, _ in found] == [b".", b"a", b"d", b"d/f", b"n", b"p", b"s", b"s2", b"z"]
    entries = dict(found)
    assert entries[b"."][1:7] == (stat.S_IFDIR | 0o711, 0, 0, 3, 4, 0)
    assert entries[b"d"][1:6] == (stat.S_IFDIR | 0o3775, 5, 2**32 - 2, 2, 5)
    for name in (b"a", b"d/f", b"z"):
        assert entries[name][1:6] == (stat.S_IFREG | 0o4755, 0, 0, 3, 7)
        assert entries[name].data == (b"abcde" if name == b"z" else b"")
        assert entries[name].ino == entries[b"a"].ino
    for name in (b"s", b"s2"):
        assert entries[name][1:6] == (stat.S_IFLNK | 0o777, 0, 0, 1, 0)
        assert entries[name].data == b"target"
    assert (entries[b"n"].mode, entries[b"n"].device, entries[b"n"].mtime) == (
        stat.S_IFCHR | 0o644, (4095, 1048575), 2**32 - 1
    )  # fmt: skip
    assert stat.S_ISFIFO(entries[b"p"].mode)


def test_file_that_has_the_name_of_the_end_does_not_end_the_archive(tmp_path: Path) -> None:
    found = archive_of(tmp_path, [member("TRAILER!!!", b"x"), directory("d"), member("d/TRAILER!!!"), member("z")])
    assert [name for name, _ in found] == [b".", b"./TRAILER!!!", b"d", b"d/TRAILER!!!", b"z"]
    for words in (["cpio", "-it", "--quiet"], ["bsdtar", "-t"], ["busybox", "cpio", "-t"]):
        require(words[0])
        listed = subprocess.run(
            words, input=(tmp_path / "x.cpio").read_bytes(), capture_output=True, check=True
        ).stdout.splitlines()
        assert listed[-2:] == [b"d/TRAILER!!!", b"z"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            sparse_member("d/big", 2**32, {0: b"x"}),
            "'d/big': file of 4294967296 bytes: expected less than 4 GiB in a cpio archive",
        ),
        (
            member("/".join(["d" * 255] * 16)),
            f"'{'d' * 200}…': path of 4095 bytes: expected at most 4095 in a cpio archive",
        ),
    ],
)
def test_what_the_format_cannot_store_is_refused(tmp_path: Path, entry: Member, message: str) -> None:
    """init/initramfs.c skips a longer name without a word."""
    if len(entry[0].name) > 255:
        write_image(tmp_path / "x", write_cpio, MemorySource([tar_of([entry])]))
        deeper = member(f"{entry[0].name[:-4]}/{'e' * 4}")
        message = message.replace("4095 bytes", "4096 bytes")
        entry = deeper
    with pytest.raises(InvalidImageError) as caught:
        write_image(tmp_path / "x", write_cpio, MemorySource([tar_of([entry])]))
    assert str(caught.value) == message


def test_lost_attributes_and_times_are_counted() -> None:
    with flattened(hard_source()) as image, open("/dev/null", "wb") as file:
        write_cpio(image, file.fileno(), DiskImageOptions())
        lines = list(image.losses.lines())
    assert len(lines) == 3
    assert lines[0] == "times: 2 became the nearest that this format can store"
    assert lines[1].startswith("xattrs: 41 left out, which this format can't store: ")


EXTRACTORS = {
    "cpio": ["cpio", "-idm", "--quiet"],
    "bsdtar": ["bsdtar", "-xp", "--numeric-owner"],
    "busybox": ["busybox", "cpio", "-idm"],
}


@pytest.mark.system
def test_programs_unpack_the_tree_that_unpack_makes(tmp_path: Path) -> None:
    require(*EXTRACTORS, "gzip", root=True)
    options = DiskImageOptions(compression="gzip")
    packed = write_image(tmp_path / "x.cpio.gz", write_cpio, hard_source(), options).read_bytes()
    archive = subprocess.run(["gzip", "-d"], input=packed, capture_output=True, check=True).stdout
    unpack(hard_source(), tmp_path / "tree", platform=AMD64, options=UnpackOptions(xattrs=XattrMode.NONE))
    expected = hash_tree(tmp_path / "tree")
    for program, words in EXTRACTORS.items():
        place = tmp_path / program
        place.mkdir()
        subprocess.run(words, input=archive, cwd=place, check=True, capture_output=True)
        if program != "bsdtar":  # they leave the directory that they are in as it is
            place.chmod(0o711)
        assert (program, hash_tree(place)) == (program, expected)


def test_bytes_depend_on_the_image_alone(tmp_path: Path) -> None:
    written = {
        write_image(
            tmp_path / "x.cpio", write_cpio, hard_source(), DiskImageOptions(compression="zstd", threads=threads)
        ).read_bytes()
        for threads in (1, 3)
    }
    assert len(written) == 1
