"""cat of a layer that was read before reads only near the file, from access points that the layout keeps."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError
from ociexport.inspection.access import Access
from ociexport.inspection.list_files import list_files
from ociexport.inspection.open_files import copy_files, open_files
from ociexport.spec.digest import Digest
from ociexport.spec.platforms import parse_platform
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.stamps import STAMPS_FILE, BlobStamp, BlobStamps, IndexName
from ociexport.system import access_points
from ociexport.system.access_points import AccessPoints, load_points
from ociexport.system.gzip_points import PointInflater
from ociexport.transfer.pull import pull
from tests.support.gzip_members import gzip_member, in_frames, in_members
from tests.support.memory_source import MemorySource, directory, member, tar_of
from tests.support.read_bytes import bytes_read_by
from tests.support.sparse_members import sparse_member

ACCESS = Access(platform=parse_platform("linux/amd64"))
SPACING = 256 * 1024
SEED = random.Random(7)
FILES = {f"d/{number}": SEED.randbytes(100_000) + bytes(SEED.randint(0, 100_000)) for number in range(40)}
SPARSE = {4096: b"a" * 4096, 199_000: b"b" * 1000}
TAR = tar_of(
    [
        directory("d"),
        *(member(name, content) for name, content in FILES.items()),
        sparse_member("sparse", 200_000, SPARSE),
        member("empty"),
        member("last", b"z" * 5000),
    ]
)
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda tar: gzip_member(tar, 1),
    "gzip stored": lambda tar: gzip_member(tar, 0),
    "gzip members": lambda tar: in_members(tar, 90_000),
    "zstd frames": lambda tar: in_frames(tar, 90_000),
    "plain": bytes,
}
BLOBS = {name: compress(TAR) for name, compress in FORMS.items()}
# No file is so large, and no points are so far apart; a read of the whole layer takes four megabytes.
NEAR = 2_000_000


@pytest.fixture(autouse=True)
def _near_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_points, "_SPACING_BYTES", SPACING)


def made(place: Path, form: str) -> Path:
    pull(MemorySource([TAR], compress=lambda tar: BLOBS[form]), place / "layout", platform=ACCESS.platform)
    return place / "layout"


def points_of(layout: Path) -> list[Path]:
    return sorted((layout / ".ociexport" / "layers").glob("*.points"))


def listed(layout: Path) -> object:
    return list_files(str(layout), recursive=True, access=ACCESS)


def content_of(layout: Path, *paths: str) -> list[bytes]:
    found = []
    for file in open_files(str(layout), paths, access=ACCESS):
        with file:
            found.append(file.read())
    return found


def copied(layout: Path, *paths: str) -> list[bytes]:
    output = io.BytesIO()
    copy_files(str(layout), paths, output.write, access=ACCESS)
    return [output.getvalue()]


@pytest.mark.parametrize("read", [content_of, copied])
@pytest.mark.parametrize("form", FORMS)
def test_third_look_reads_only_near_the_file(form: str, read: Callable[..., list[bytes]], tmp_path: Path) -> None:
    layout = made(tmp_path, form)
    listed(layout)
    assert read(layout, "last") == [b"z" * 5000]
    assert bool(points_of(layout)) == (form != "plain")
    for path in ("last", "d/39", "d/20", "d/0", "empty"):
        assert bytes_read_by(lambda path=path: read(layout, path)) < NEAR  # type: ignore[misc]
        assert read(layout, path) == [FILES.get(path, b"" if path == "empty" else b"z" * 5000)]


@pytest.mark.parametrize("form", ["gzip members", "zstd frames"])
def test_streams_of_a_layer_are_points_from_the_first_look_on(form: str, tmp_path: Path) -> None:
    layout = made(tmp_path, form)
    listed(layout)
    assert bytes_read_by(lambda: content_of(layout, "d/38")) < NEAR


@pytest.mark.parametrize("path", ["last", "/d/../d/39"])
def test_first_cat_makes_points_while_it_reads(path: str, tmp_path: Path) -> None:
    layout = made(tmp_path, "gzip")
    first = content_of(layout, path)
    second: list[object] = []
    if len(os.sched_getaffinity(0)) > 1 and path == "last":
        assert bytes_read_by(lambda: second.append(content_of(layout, path))) < NEAR
    else:
        second.append(content_of(layout, path))
    assert second == [first]


def test_points_grow_as_far_as_files_are_read(tmp_path: Path) -> None:
    layout = made(tmp_path, "gzip")
    listed(layout)
    counts = []
    for path in ("d/3", "d/10", "d/5", "d/30", "d/39"):
        assert content_of(layout, path) == [FILES[path]]
        points = load_points(points_of(layout)[0].read_bytes()) if points_of(layout) else AccessPoints()
        assert points is not None
        counts.append(len(points))
    assert counts == sorted(counts)
    assert counts[0] < counts[1] == counts[2] < counts[3] < counts[4]


def test_many_files_at_once_and_a_sparse_one(tmp_path: Path) -> None:
    layout = made(tmp_path, "gzip")
    names = [*reversed(FILES), "sparse", "last", "empty", "d/7"]
    sparse = bytearray(200_000)
    for offset, data in SPARSE.items():
        sparse[offset : offset + len(data)] = data
    expected = [FILES.get(name, {"last": b"z" * 5000, "sparse": bytes(sparse)}.get(name, b"")) for name in names]
    for _ in range(3):
        assert content_of(layout, *names) == expected
        assert copied(layout, "sparse", "d/8") == [bytes(sparse) + FILES["d/8"]]


def _truncate(points: Path) -> None:
    os.truncate(points, points.stat().st_size // 2)


def _alter(points: Path) -> None:
    points.write_bytes(points.read_bytes()[:-5] + b"other")


def _be_a_directory(points: Path) -> None:
    points.unlink()
    points.mkdir()
    (points / "file").touch()


def _copy_from_elsewhere(points: Path) -> None:
    """A layout from elsewhere brings its own points."""
    layout = points.parent.parent.parent
    shutil.copytree(layout, layout.with_name("copy"))
    shutil.rmtree(layout)
    layout.with_name("copy").rename(layout)


def _replace_consistently(points: Path, content: bytes) -> None:
    """Let the layout believe in other points."""
    layout = ImageLayout(points.parent.parent.parent)
    digest = Digest.of(BLOBS["gzip"])
    status = os.stat(layout.blob_path(digest))
    points.write_bytes(content)
    stamps = BlobStamps(layout.directory)
    name = stamps.index_of(digest, status)
    assert name is not None
    stamps.add(digest, status, IndexName(name.diff_id, name.digest, Digest.of(content)))
    stamps.save()
    assert stamps.index_of(digest, status) == (name.diff_id, name.digest, Digest.of(content))
    assert stamps.is_verified(digest, status)
    assert BlobStamp.of(status).size == len(BLOBS["gzip"])


def _be_wrong(points: Path) -> None:
    right = load_points(points.read_bytes())
    assert right is not None
    wrong = AccessPoints()
    for point in right:
        wrong.add(point._replace(tar_offset=point.tar_offset + 1))
    _replace_consistently(points, wrong.dump())


def _be_of_another_version(points: Path) -> None:
    _replace_consistently(points, points.read_bytes().replace(b'"version": 1', b'"version": 2'))


def _replace_the_blob(points: Path) -> None:
    layout = points.parent.parent.parent
    blob = Path(ImageLayout(layout).blob_path(Digest.of(BLOBS["gzip"])))
    shutil.copyfile(blob, layout / "copy")
    (layout / "copy").rename(blob)


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _alter,
        os.unlink,
        _be_a_directory,
        _copy_from_elsewhere,
        _be_wrong,
        _be_of_another_version,
        _replace_the_blob,
    ],
)
def test_damaged_points_change_no_answer(damage: Callable[[Path], object], tmp_path: Path) -> None:
    layout = made(tmp_path, "gzip")
    listed(layout)
    content_of(layout, "last")
    damage(points_of(layout)[0])
    for _ in range(2):
        assert content_of(layout, "d/39", "last") == [FILES["d/39"], b"z" * 5000]
        assert copied(layout, "d/37") == [FILES["d/37"]]


def test_damaged_blob_is_an_error_although_its_stamp_fits(tmp_path: Path) -> None:
    layout = made(tmp_path, "gzip")
    listed(layout)
    content_of(layout, "last")
    blob = Path(ImageLayout(layout).blob_path(Digest.of(BLOBS["gzip"])))
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    lines = (layout / STAMPS_FILE).read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(str(Digest.of(BLOBS["gzip"]))))
    fields = line.split()
    lines[lines.index(line)] = " ".join([fields[0], *map(str, BlobStamp.of(blob.stat())), *fields[5:]])
    (layout / STAMPS_FILE).write_text("\n".join(lines) + "\n")
    os.utime(layout / STAMPS_FILE, ns=(0, blob.stat().st_ctime_ns + 1))
    assert content_of(layout, "d/0") == [FILES["d/0"]]
    wrong = 0
    for path, expected in FILES.items():
        try:
            assert content_of(layout, path) == [expected]
        except InvalidImageError as error:
            wrong += "digest mismatch" in str(error)
    assert 0 < wrong < 5


def test_points_go_with_their_layer(tmp_path: Path) -> None:
    layout = made(tmp_path, "gzip members")
    listed(layout)
    assert points_of(layout)
    os.unlink(ImageLayout(layout).blob_path(Digest.of(BLOBS["gzip members"])))
    with ImageLayout(layout).hold_alone():
        pass
    assert points_of(layout) == []


def test_points_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_points, "_SPACING_BYTES", 8 * 1024 * 1024)
    assert not AccessPoints().is_far(2**24 - 1)
    blob = gzip.compress(b"".join(FILES.values()) * 6, 1)
    points = AccessPoints()

    def open_blob(offset: int) -> io.BytesIO:
        stream = io.BytesIO(blob)
        stream.seek(offset)
        return stream

    PointInflater(open_blob, access_points.START, points).make_points(2**40)
    assert len(points)
    assert len(points.dump()) < len(blob) / 100


def test_no_points_are_made_that_could_not_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = made(tmp_path, "gzip")
    listed(layout)
    if os.geteuid() == 0:
        os.chown(layout, 12345, 12345)
    else:
        layout.chmod(0o500)
    points: list[AccessPoints] = []
    monkeypatch.setattr(AccessPoints, "add", lambda self, point: points.append(self))
    assert content_of(layout, "last", "d/0") == [b"z" * 5000, FILES["d/0"]]
    assert (points, points_of(layout)) == ([], [])
    layout.chmod(0o700)
