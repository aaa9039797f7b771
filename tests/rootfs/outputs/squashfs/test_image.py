"""write_squashfs: the same bytes each time, and what can't be stored; system tests read images with other programs."""

from __future__ import annotations

import errno
import hashlib
import struct
import tarfile
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError, LimitExceededError, UsageError
from ociexport.rootfs.outputs.flat_image import FlatNode
from ociexport.rootfs.outputs.formats import DiskImageOptions
from ociexport.rootfs.outputs.squashfs import write_squashfs
from ociexport.spec.lazy_dataclass import replace
from tests.support.disk_images import flattened, hard_source, write_image
from tests.support.memory_source import MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.sparse_members import sparse_member

TIB = 1024**4
NOBODY = 2**32 - 1


def superblock_of(path: Path) -> tuple[int, ...]:
    return struct.unpack("<5I6H8Q", path.read_bytes()[:96])


def losses_of(*members: tuple[tarfile.TarInfo, bytes]) -> list[str]:
    with flattened(MemorySource([tar_of(members)])) as image, open("/dev/null", "r+b") as nowhere:
        with pytest.raises(OSError, match="Invalid argument"):  # a device has no length to set; all else is done
            write_squashfs(image, nowhere.fileno(), DiskImageOptions())
        return list(image.losses.lines())


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_number_of_threads_does_not_change_the_bytes(tmp_path: Path, compression: str) -> None:
    large = [member(f"large/{number}", bytes(range(number, 250)) * 2000) for number in range(12)]
    source = MemorySource([tar_of([*large, *(member(f"{number}", b"%d" % number * 9000) for number in range(200))])])
    digests = set()
    for threads in (1, 2, 7):
        options = DiskImageOptions(compression=compression, threads=threads)
        path = write_image(tmp_path / "image", write_squashfs, source, options)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_image_has_no_time_and_whole_pages(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image", write_squashfs, hard_source())
    magic, _, created, block_bytes, *_ = superblock_of(path)
    assert (magic, created, block_bytes) == (0x73717368, 0, 131_072)
    assert path.stat().st_size % 4096 == 0
    assert path.stat().st_size - 4096 < superblock_of(path)[12] <= path.stat().st_size


def test_files_of_equal_content_are_stored_once(tmp_path: Path) -> None:
    noise = hashlib.shake_256(b"noise").digest(400_000)
    sizes = []
    for names in (["a"], ["a", "b", "c/d"]):
        members = [
            member(f"{size}-{name}", noise[:size]) for name in names for size in (1000, 131_071, 131_072, 400_000)
        ]
        path = write_image(tmp_path / "image", write_squashfs, MemorySource([tar_of(members)]))
        sizes.append(path.stat().st_size)
    assert sizes[1] - sizes[0] <= 4096


def test_zeros_take_no_room(tmp_path: Path) -> None:
    members = [member("zeros", bytes(10_000_000)), sparse_member("holes", 10**11, {10**11 - 1: b"x"})]
    options = DiskImageOptions(compression="gzip")
    assert (
        write_image(tmp_path / "image", write_squashfs, MemorySource([tar_of(members)]), options).stat().st_size
        < 90_000
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DiskImageOptions(compression="xz"), "compression 'xz': expected gzip, zstd or none for squashfs"),
        (DiskImageOptions(compression="gzip", level=10), "compression level 10: expected 1 to 9 for gzip"),
        (DiskImageOptions(compression="gzip", level=0), "compression level 0: expected 1 to 9 for gzip"),
        (DiskImageOptions(compression="zstd", level=23), "compression level 23: expected 1 to 22 for zstd"),
        (DiskImageOptions(compression="none", level=1), "compression level 1: expected none without compression"),
    ],
)
def test_unknown_compression_is_refused(tmp_path: Path, options: DiskImageOptions, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        write_image(tmp_path / "image", write_squashfs, hard_source(), options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "stated"),
    [
        (DiskImageOptions(compression="gzip"), None),
        (DiskImageOptions(compression="gzip", level=9), None),
        (DiskImageOptions(compression="gzip", level=1), struct.pack("<IHH", 1, 15, 0)),
        (DiskImageOptions(compression="zstd"), struct.pack("<I", 3)),
        (DiskImageOptions(compression="zstd", level=15), None),
    ],
)
def test_level_is_stated_unless_readers_assume_it(
    tmp_path: Path, options: DiskImageOptions, stated: bytes | None
) -> None:
    path = write_image(tmp_path / "image", write_squashfs, MemorySource([tar_of([member("f", b"x")])]), options)
    has_options = bool(superblock_of(path)[7] & 0x400)
    assert has_options == (stated is not None)
    if stated is not None:
        assert path.read_bytes()[96:].startswith(struct.pack("<H", 0x8000 | len(stated)) + stated)


def test_times_that_do_not_fit_are_counted() -> None:
    kept = [member("first", mtime=0), member("last", mtime=2**32 - 1), member("half", pax_headers={"mtime": "4.5"})]
    assert losses_of(*kept) == []
    lost = [member("before", pax_headers={"mtime": "-0.5"}), member("after", mtime=2**32), hard_link("more", "after")]
    assert losses_of(*kept, *lost) == ["times: 2 became the nearest that this format can store"]


def test_attributes_that_squashfs_lacks_are_counted() -> None:
    """`unpack` leaves out the second line's too: Linux takes them on no file system."""
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permissions, number)
        for tag, permissions, number in ((1, 6, NOBODY), (2, 4, 7), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
    )
    xattrs = {"user.kept": b"v", "system.posix_acl_access": acl, "btrfs.compression": b"zstd"}
    link, _ = symlink("s", "f")
    link.pax_headers = {"SCHILY.xattr.user.note": "no user attributes on links"}
    assert losses_of(member("f", xattrs=xattrs), (link, b"")) == [
        "xattrs: 1 left out, which this format can't store: system.posix_acl_access",
        "xattrs: 2 could not be set here: btrfs.compression, user.note",
    ]


def test_too_many_owners_are_refused() -> None:
    with (
        flattened(MemorySource([tar_of([directory("d"), member("d/first", type=tarfile.FIFOTYPE)])])) as image,
        open("/dev/null", "r+b") as out,
    ):
        root, above, first = image.nodes
        assert above.children is not None
        nodes = [root, above, first]
        for number in range(2, 32_770):
            more = FlatNode(number + 1, first.entry._replace(uid=2 * number, gid=2 * number + 1), above)
            above.children.append((b"%05d" % number, more))
            nodes.append(more)
        with pytest.raises(InvalidImageError) as caught:
            write_squashfs(replace(image, nodes=nodes), out.fileno(), DiskImageOptions())
    assert str(caught.value) == "'d/32769': squashfs: expected at most 65535 ids of owners and groups in all, got more"


def test_endless_holes_are_refused(tmp_path: Path) -> None:
    """A tar of a few kilobytes must not make a table of gigabytes."""
    members = [sparse_member(f"{number}", TIB, {}) for number in range(9)]
    with pytest.raises(LimitExceededError) as caught:
        write_image(tmp_path / "image", write_squashfs, MemorySource([tar_of(members)]))
    assert str(caught.value) == (
        "files: squashfs: expected at most 67108864 blocks of 131072 bytes in all, holes included, got 75497472"
    )


def test_full_disk_is_an_os_error() -> None:
    with (
        flattened(hard_source()) as image,
        open("/dev/full", "r+b", buffering=0) as full,
        pytest.raises(OSError, match="No space") as caught,
    ):
        write_squashfs(image, full.fileno(), DiskImageOptions(threads=2))
    assert caught.value.errno == errno.ENOSPC
