"""layout.stamps: a blob that was verified once is read again only if its file changed, or if that can't be told."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ociexport.errors import DigestMismatchError
from ociexport.rootfs.unpack import unpack
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.platforms import parse_platform
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.stamps import MIN_STAMPED_BYTES, STAMPS_FILE, BlobStamp, BlobStamps
from ociexport.transfer.pull import pull
from ociexport.verification.verify import verify
from tests.support.memory_source import MemorySource, member, tar_of
from tests.support.read_bytes import bytes_read_by

AMD64 = parse_platform("linux/amd64")
CONTENT = os.urandom(MIN_STAMPED_BYTES)
BLOB = Descriptor("", Digest.of(CONTENT), len(CONTENT))


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    """A layout with one blob that an earlier run wrote."""
    written = ImageLayout(tmp_path / "layout")
    with written.begin(), written.new_blob(BLOB) as writer:
        writer.write(CONTENT)
    return ImageLayout(tmp_path / "layout")


def is_read(layout: ImageLayout, *, is_valid: bool = True) -> bool:
    def look() -> None:
        assert layout.has_blob(BLOB) is is_valid

    return bytes_read_by(look) >= len(CONTENT)


def stamps_of(layout: ImageLayout) -> Path:
    return Path(layout.path) / STAMPS_FILE


def test_blob_of_an_earlier_run_is_not_read(layout: ImageLayout) -> None:
    assert not is_read(layout)
    assert is_read(ImageLayout(layout.path, recheck=True))
    assert not is_read(ImageLayout(layout.path))


def _keep_times(path: Path, change: Callable[[], object]) -> None:
    status = path.stat()
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _write_zeros(path: Path) -> None:
    _keep_times(path, lambda: path.write_bytes(bytes(len(CONTENT))))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    _keep_times(path, lambda: other.rename(path))


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        pytest.param(
            lambda path: _keep_times(path, lambda: path.write_bytes(bytes(len(CONTENT)))), False, id="content"
        ),
        pytest.param(lambda path: path.write_bytes(CONTENT), True, id="same-content"),
        pytest.param(_replace, True, id="other-file"),
        pytest.param(os.utime, True, id="time"),
    ],
)
def test_changed_file_is_read_although_its_size_and_time_are_kept(
    layout: ImageLayout, change: Callable[[Path], object], is_valid: bool
) -> None:
    change(Path(layout.blob_path(BLOB.digest)))
    assert is_read(layout, is_valid=is_valid)


def test_cut_and_removed_files_are_missing(layout: ImageLayout) -> None:
    path = Path(layout.blob_path(BLOB.digest))
    os.truncate(path, 5)
    assert not layout.has_blob(BLOB)
    path.unlink()
    assert not layout.has_blob(BLOB)


def _set_time_to_the_blobs(layout: ImageLayout) -> None:
    """What a file system whose times are whole seconds leaves."""
    ctime_ns = os.stat(layout.blob_path(BLOB.digest)).st_ctime_ns
    os.utime(stamps_of(layout), ns=(ctime_ns, ctime_ns))


def _edit(old: bytes, new: bytes) -> Callable[[ImageLayout], object]:
    def edit(layout: ImageLayout) -> None:
        content = stamps_of(layout).read_bytes()
        assert old in content
        stamps_of(layout).write_bytes(content.replace(old, new))

    return edit


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_set_time_to_the_blobs, id="racy"),
        pytest.param(lambda layout: stamps_of(layout).chmod(0o666), id="written-by-others"),
        pytest.param(lambda layout: stamps_of(layout).unlink(), id="missing"),
        pytest.param(lambda layout: os.truncate(stamps_of(layout), 60), id="cut"),
        pytest.param(_edit(b" %d " % len(CONTENT), b" -1 "), id="no-number"),
        pytest.param(_edit(b" %d " % len(CONTENT), b" " + b"9" * 5000 + b" "), id="huge-number"),
        pytest.param(_edit(b"sha256:", b"\xff\xfe"), id="no-digest"),
        pytest.param(_edit(b"verified 1", b"verified 2"), id="version"),
    ],
)
def test_doubtful_stamps_are_not_trusted_and_are_written_again(
    layout: ImageLayout, spoil: Callable[[ImageLayout], object]
) -> None:
    spoil(layout)
    assert is_read(layout)
    with layout.begin():
        pass
    assert not is_read(ImageLayout(layout.path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_stamps_are_not_trusted(layout: ImageLayout) -> None:
    os.chown(stamps_of(layout), 12345, 12345)
    assert is_read(layout)


def test_link_in_place_of_the_stamps_is_not_followed(layout: ImageLayout, tmp_path: Path) -> None:
    stamps_of(layout).rename(tmp_path / "elsewhere")
    stamps_of(layout).symlink_to(tmp_path / "elsewhere")
    assert is_read(layout)


def test_small_blobs_leave_no_file(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "layout")
    small = Descriptor("", Digest.of(b"small"), 5)
    with layout.begin(), layout.new_blob(small) as writer:
        writer.write(b"small")
    assert not (tmp_path / "layout" / ".ociexport").exists()


def test_stamps_of_two_runs_at_once_are_both_kept(layout: ImageLayout) -> None:
    contents = [os.urandom(MIN_STAMPED_BYTES) for _ in range(2)]
    first, second = ImageLayout(layout.path), ImageLayout(layout.path)
    with first.begin(), second.begin():
        for run, content in zip((first, second), contents, strict=True):
            with run.new_blob(Descriptor("", Digest.of(content), len(content))) as writer:
                writer.write(content)
    lines = stamps_of(layout).read_text().splitlines()[1:]
    assert {line.split()[0] for line in lines} == {str(BLOB.digest), *(str(Digest.of(content)) for content in contents)}


def test_the_file_goes_with_the_last_blob(layout: ImageLayout) -> None:
    os.unlink(layout.blob_path(BLOB.digest))
    with layout.hold_alone():
        pass
    assert not (Path(layout.path) / ".ociexport").exists()


def test_damage_that_keeps_a_stamp_is_seen_by_all_that_read(tmp_path: Path) -> None:
    """A disk that returns other bytes changes no time; here the stamp is rewritten instead."""
    tar = tar_of([member("f", CONTENT * 2)])
    source, digest = MemorySource([tar], compress=bytes), Digest.of(tar)
    pull(source, tmp_path / "layout", platform=AMD64)
    layout = ImageLayout(tmp_path / "layout")
    path = Path(layout.blob_path(digest))
    path.write_bytes(bytes(len(tar)))
    line = " ".join(map(str, (digest, *BlobStamp.of(path.stat()))))
    stamps_of(layout).write_text(f"ociexport verified 1\n{line}\n")
    os.utime(stamps_of(layout), ns=(0, path.stat().st_ctime_ns + 1))
    pull(source, tmp_path / "layout", platform=AMD64)
    assert path.read_bytes() == bytes(len(tar))
    assert not verify(tmp_path / "layout").is_right
    with closing(layout.open_image()) as image, pytest.raises(DigestMismatchError):
        unpack(image, tmp_path / "tree", platform=AMD64)
    pull(source, tmp_path / "layout", platform=AMD64, recheck=True)
    assert path.read_bytes() == tar
    assert verify(tmp_path / "layout").is_right


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_nothing_in_the_layout_of_another_user(tmp_path: Path) -> None:
    """Otherwise a directory of root's stays there, and the user's next pull can write nothing in it."""
    source = MemorySource([tar_of([member("f", CONTENT * 2)])], compress=bytes)
    pull(source, tmp_path / "layout", platform=AMD64)
    (tmp_path / "layout" / STAMPS_FILE).unlink()
    (tmp_path / "layout" / ".ociexport").rmdir()
    os.chown(tmp_path / "layout", 12345, 12345)
    pull(source, tmp_path / "layout", platform=AMD64)
    assert not (tmp_path / "layout" / ".ociexport").exists()


@pytest.mark.parametrize(("count", "most"), [(100, 200), (2000, 200)])
def test_calls_for_a_new_stamp_do_not_grow_with_the_number_of_stamps(
    layout: ImageLayout, count: int, most: int
) -> None:
    """A thousand pulls one after the other would otherwise look for a million files."""
    stamps = BlobStamps(layout.directory)
    directory = Path(layout.blob_path(BLOB.digest)).parent
    digests = [Digest.of(b"%d" % number) for number in range(count)]
    for digest in digests:
        os.link(layout.blob_path(BLOB.digest), directory / digest.encoded)
    for digest in digests:
        stamps.add(digest, os.stat(directory / digest.encoded))
    stamps.save()
    os.utime(directory / digests[0].encoded)
    stamps.add(digests[0], os.stat(directory / digests[0].encoded))
    calls = _system_calls_of(stamps.save) + _system_calls_of(stamps.forget_removed)
    assert calls <= most
    assert len(stamps_of(layout).read_text().splitlines()) == count + 2


def _system_calls_of(action: Callable[[], object]) -> int:
    """How often ``action`` calls functions of the operating system."""
    calls = 0

    def count(frame: object, event: str, called: object) -> None:
        nonlocal calls
        calls += event == "c_call" and getattr(called, "__module__", None) == "posix"

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def test_file_of_lines_that_are_too_short_takes_no_memory(layout: ImageLayout) -> None:
    """A layout from elsewhere may bring a file of millions of empty lines."""
    stamps_of(layout).write_bytes(b"ociexport verified 1\n" + b"\n" * 20_000_000)
    tracemalloc.start()
    try:
        assert is_read(layout)
        assert tracemalloc.get_traced_memory()[1] < 50 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_index_is_not_written_again_if_nothing_changed(tmp_path: Path) -> None:
    """Among a thousand images that are pulled again, each would cost a write of the whole index."""
    source = MemorySource([tar_of([member("f", b"small")])])
    pull(source, tmp_path / "layout", platform=AMD64)
    before = (tmp_path / "layout" / "index.json").stat()
    pull(source, tmp_path / "layout", platform=AMD64)
    assert (tmp_path / "layout" / "index.json").stat().st_ino == before.st_ino
