"""diff of an image in a layout reads each layer once; the next one takes the contents' digests from the indexes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ociexport.inspection.access import Access
from ociexport.inspection.list_files import list_files
from ociexport.inspection.open_files import open_file
from ociexport.layers.limits import Limits
from ociexport.rootfs.changes import Change
from ociexport.rootfs.compare import compare_tree
from ociexport.rootfs.unpack import unpack
from ociexport.spec.platforms import parse_platform
from ociexport.storage.layout.layer_indexes import MIN_INDEXED_BYTES
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.memory_source import MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.read_bytes import bytes_read_by
from tests.support.sparse_members import sparse_member

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners")

AMD64 = parse_platform("linux/amd64")
LARGE = os.urandom(MIN_INDEXED_BYTES)
TARS = [
    tar_of(
        [
            directory("d", 0o750, uid=5),
            member("empty"),
            member("d/f", b"first", uid=7, xattrs={"user.note": b"v"}),
            member("d/g", b"later hidden"),
            symlink("link", "d"),
            member("large", LARGE),
            hard_link("d/twin", "large"),
            sparse_member("sparse", 200_000, {4096: b"a" * 4096, 199_000: b"b" * 1000}),
            member("last", b"z" * 5000),
        ]
    ),
    tar_of([member("d/.wh.g"), member("link/new", b"through"), member("other", LARGE[::-1]), member("last", b"y")]),
    tar_of([member("small", b"no index")]),
]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    pull(MemorySource(TARS, compress=bytes), tmp_path / "layout", platform=AMD64)
    unpack(ImageLayout(tmp_path / "layout").open_image(), tmp_path / "r", platform=AMD64)
    return tmp_path


def compared(work: Path, limits: Limits | None = None) -> list[Change]:
    source = ImageLayout(work / "layout").open_image()
    return compare_tree(str(work / "r"), source, platform=AMD64, limits=limits or Limits())


def test_second_diff_reads_no_layer(work: Path) -> None:
    found: list[list[Change]] = []
    first, second = (bytes_read_by(lambda: found.append(compared(work))) for _ in range(2))
    assert found == [[], []]
    assert first - second >= 2 * MIN_INDEXED_BYTES
    assert bytes_read_by(lambda: compared(work, Limits(max_entries=1000))) >= second + 2 * MIN_INDEXED_BYTES


@pytest.mark.parametrize("path", ["d/f", "large", "link/new", "last", "small", "sparse"])
def test_changed_content_is_found_from_indexes_too(work: Path, path: str) -> None:
    compared(work)
    file = work / "r" / path
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [(change.path, change.what) for change in compared(work)] == [
        (os.fsencode(path.replace("link/", "d/")), ("content",))
    ]


def test_indexes_of_ls_and_of_diff_serve_each_other(work: Path) -> None:
    access, layout = Access(platform=AMD64), str(work / "layout")
    whole = bytes_read_by(lambda: compared(work))
    before = list_files(layout, recursive=True, access=access)
    second = bytes_read_by(lambda: compared(work))
    shutil.rmtree(work / "layout" / ".ociexport")
    assert list_files(layout, recursive=True, access=access) == before
    first = bytes_read_by(lambda: compared(work))
    assert first == second < whole - 2 * MIN_INDEXED_BYTES
    for path in ("large", "sparse"):
        with open_file(layout, path, access=access) as file:
            assert file.read() == (work / "r" / path).read_bytes()
