"""kept_layers, layer_indexes, change_index: a layer of a layout that was read once gives the same answers unread."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError
from ociexport.inspection.access import Access
from ociexport.inspection.list_files import list_files, list_layers
from ociexport.inspection.open_files import open_files
from ociexport.inspection.trace_path import trace_path
from ociexport.layers.change_index import LayerIndex, dump_index, load_index
from ociexport.layers.limits import Limits
from ociexport.layers.paths import ImagePath
from ociexport.layers.record import ChangeKind, LayerChange
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.layers.tar.sparse import SparseSegments
from ociexport.spec.digest import Digest
from ociexport.spec.platforms import parse_platform
from ociexport.storage.layout import layer_indexes
from ociexport.storage.layout.layer_indexes import MIN_INDEXED_BYTES
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.stamps import STAMPS_FILE, BlobStamp, BlobStamps, IndexName
from ociexport.transfer.pull import pull
from tests.support.memory_source import MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.read_bytes import bytes_read_by

AMD64 = parse_platform("linux/amd64")
ACCESS = Access(platform=AMD64)
LARGE = os.urandom(MIN_INDEXED_BYTES)
TARS = [
    tar_of(
        [
            directory("d", 0o750, uid=5, mtime=7),
            member("d/f", b"first", uid=3_000_000_000, mtime=-5, xattrs={"user.note": b"v\x01"}),
            member("d/g", b"later hidden"),
            symlink("link", "d"),
            member("large", LARGE),
            hard_link("d/twin", "large"),
            member("caf\udce9", b"no UTF-8"),
            member("last", b"z" * 5000),
        ]
    ),
    tar_of([member("d/.wh.g"), member("link/new", b"through the link"), member("large", LARGE[::-1])]),
]


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    pull(MemorySource(TARS, compress=bytes), tmp_path / "layout", platform=AMD64)
    return tmp_path / "layout"


def indexes_of(layout: Path) -> list[Path]:
    return sorted((layout / ".ociexport" / "layers").glob("*"))


def contents_of(layout: Path, *paths: str) -> list[bytes]:
    found = []
    for file in open_files(str(layout), paths, access=ACCESS):
        with file:
            found.append(file.read())
    return found


QUESTIONS: list[Callable[[Path], object]] = [
    lambda layout: list_files(str(layout), recursive=True, access=ACCESS),
    lambda layout: list_files(str(layout), "link", access=ACCESS),
    lambda layout: [
        [(change.kind, change.path, change.target, change.entry and change.entry[2:]) for change in listed.changes]
        for listed in list_layers(str(layout), access=ACCESS)
    ],
    lambda layout: [
        (trace_path(str(layout), path, access=ACCESS).touches, trace_path(str(layout), path, access=ACCESS).file)
        for path in ("d/g", "large", "d/twin", "link/new", "d")
    ],
    lambda layout: contents_of(layout, "d/f", "link/new", "last", b"caf\xe9".decode("utf-8", "surrogateescape")),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=["ls", "ls-link", "ls-layers", "which-layer", "cat"])
def test_answers_are_the_same_without_reading_the_layers(layout: Path, question: Callable[[Path], object]) -> None:
    answers: list[object] = []
    read = [bytes_read_by(lambda: answers.append(question(layout))) for _ in range(2)]
    assert len(indexes_of(layout)) == 2
    assert read[0] >= 2 * MIN_INDEXED_BYTES
    assert read[1] < MIN_INDEXED_BYTES
    assert answers[0] == answers[1]


def test_first_answer_of_another_kind_is_enough(layout: Path) -> None:
    QUESTIONS[0](layout)
    for question in QUESTIONS[1:4]:
        assert bytes_read_by(lambda question=question: question(layout)) < MIN_INDEXED_BYTES  # type: ignore[misc]


def test_only_as_much_of_a_layer_is_read_as_a_file_needs(layout: Path) -> None:
    QUESTIONS[0](layout)
    assert bytes_read_by(lambda: contents_of(layout, "d/f", "last")) < MIN_INDEXED_BYTES
    assert contents_of(layout, "large", "d/twin", "d/f") == [LARGE[::-1], LARGE, b"first"]


def _blob(layout: Path, number: int) -> Path:
    return Path(ImageLayout(layout).blob_path(Digest.of(TARS[number])))


def _alter_index(layout: Path) -> None:
    for path in indexes_of(layout):
        path.write_bytes(path.read_bytes().replace(b"d/f", b"d/x").replace(b"large", b"other"))


def _alter_blob(layout: Path) -> None:
    shutil.copyfile(_blob(layout, 0), layout / "copy")
    (layout / "copy").rename(_blob(layout, 0))


def _copy_from_elsewhere(layout: Path) -> None:
    """A layout from elsewhere brings its own files in ``.ociexport``."""
    shutil.copytree(layout, layout.with_name("copy"))
    shutil.rmtree(layout)
    layout.with_name("copy").rename(layout)


@pytest.mark.parametrize("change", [_alter_index, _alter_blob, _copy_from_elsewhere])
def test_layer_is_read_again_when_its_index_may_be_wrong(layout: Path, change: Callable[[Path], object]) -> None:
    before = QUESTIONS[0](layout)
    change(layout)
    answers: list[object] = []
    assert bytes_read_by(lambda: answers.append(QUESTIONS[0](layout))) >= MIN_INDEXED_BYTES
    assert answers == [before]
    assert bytes_read_by(lambda: QUESTIONS[0](layout)) < MIN_INDEXED_BYTES


def test_other_limits_are_compared_with_the_layers(layout: Path) -> None:
    QUESTIONS[0](layout)
    with pytest.raises(InvalidImageError, match="expected at most 3 entries"):
        list_files(str(layout), access=Access(platform=AMD64, limits=Limits(max_entries=3)))


def test_damaged_content_is_an_error_although_the_stamps_fit(layout: Path) -> None:
    QUESTIONS[0](layout)
    blob = _blob(layout, 0)
    blob.write_bytes(blob.read_bytes().replace(b"zzzz", b"yyyy"))
    lines = (layout / STAMPS_FILE).read_text().splitlines()
    kept = [line for line in lines if not line.startswith(str(Digest.of(TARS[0])))]
    (damaged,) = set(lines) - set(kept)
    stamp = " ".join(map(str, BlobStamp.of(blob.stat())))
    kept.append(" ".join([damaged.split()[0], stamp, *damaged.split()[-2:]]))
    (layout / STAMPS_FILE).write_text("\n".join(kept) + "\n")
    os.utime(layout / STAMPS_FILE, ns=(0, blob.stat().st_ctime_ns + 1))
    assert contents_of(layout, "d/f") == [b"first"]
    with pytest.raises(InvalidImageError, match="digest mismatch"):
        contents_of(layout, "last")


def test_layout_of_another_user_and_small_layers_get_no_index(layout: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(layout, 12345, 12345)
        QUESTIONS[0](layout)
        assert indexes_of(layout) == []
    pull(MemorySource([tar_of([member("f", b"x")])]), tmp_path / "small", platform=AMD64)
    list_files(str(tmp_path / "small"), access=ACCESS)
    assert not (tmp_path / "small" / ".ociexport").exists()


def test_index_goes_with_its_layer(layout: Path) -> None:
    QUESTIONS[0](layout)
    _blob(layout, 1).unlink()
    with ImageLayout(layout).hold_alone():
        pass
    assert [path.name for path in indexes_of(layout)] == [f"sha256-{Digest.of(TARS[0]).encoded}"]


def test_indexes_take_bounded_room(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    QUESTIONS[0](layout)
    sizes = [path.stat().st_size for path in indexes_of(layout)]
    _alter_index(layout)
    monkeypatch.setattr(layer_indexes, "_MAX_TOTAL_BYTES", max(sizes))
    trace_path(str(layout), "large", latest=True, access=ACCESS)  # which reads the upper layer only
    assert len(indexes_of(layout)) == 1


def test_stamp_of_a_changed_blob_brings_no_index_back(layout: Path) -> None:
    QUESTIONS[0](layout)
    digest = Digest.of(TARS[0])
    stamps = BlobStamps(ImageLayout(layout).directory)
    assert isinstance(stamps.index_of(digest, _blob(layout, 0).stat()), IndexName)
    _alter_blob(layout)
    status = _blob(layout, 0).stat()
    stamps.add(digest, status)
    stamps.save()
    assert stamps.is_verified(digest, status)
    assert stamps.index_of(digest, status) is None


NUMBER = st.integers(0, 2**63 - 1)
NAME = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)
ENTRY = st.builds(
    Entry,
    st.sampled_from([kind for kind in EntryType if kind is not EntryType.HARD_LINK]),
    st.just(b""),
    NAME | st.just(b""),
    st.integers(0, 0o7777),
    NUMBER,
    NUMBER,
    NUMBER,
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.none() | NUMBER,
    st.none() | st.dictionaries(NAME, st.binary(max_size=9), min_size=1, max_size=3),
    st.tuples(NUMBER, NUMBER),
    st.none(),
)
CHANGE = st.builds(
    lambda kind, path, entry: LayerChange(kind, ImagePath(path), entry._replace(name=path)),
    st.sampled_from([ChangeKind.FILE, ChangeKind.DIRECTORY, ChangeKind.SYMLINK, ChangeKind.DEVICE]),
    NAME | st.just(b""),
    ENTRY,
) | st.builds(
    lambda kind, path, target: LayerChange(kind, ImagePath(path), None, ImagePath(target)),
    st.sampled_from([ChangeKind.HARD_LINK, ChangeKind.WHITEOUT, ChangeKind.OPAQUE]),
    NAME,
    NAME | st.just(b""),
)


@st.composite
def segments_of_files(draw: st.DrawFn) -> dict[int, SparseSegments]:
    found = {}
    for number in draw(st.sets(st.integers(0, 9), max_size=3)):
        found[number] = SparseSegments()
        for offset, count in draw(st.lists(st.tuples(NUMBER, NUMBER), max_size=3)):
            found[number].add(offset, count)
    return found


@given(
    st.lists(CHANGE, max_size=6),
    st.lists(st.tuples(NUMBER, st.binary(min_size=32, max_size=32)), max_size=4),
    st.none() | segments_of_files(),
)
def test_index_has_all_of_its_changes(
    changes: list[LayerChange], files: list[tuple[int, bytes]], segments: dict[int, SparseSegments] | None
) -> None:
    offsets, digests = [offset for offset, _ in files], [digest for _, digest in files]
    content = dump_index(LayerIndex(changes, offsets, b"".join(digests), segments))
    assert content is not None
    index = load_index(content)
    assert index is not None
    assert (list(index.changes), list(index.offsets), index.segments) == (changes, offsets, segments)
    assert [index.digest_of(number) for number in range(len(files))] == digests


def test_index_with_a_number_too_large_is_not_written(layout: Path) -> None:
    entry = Entry(EntryType.FILE, b"f", b"", 0, 0, 0, 0, 10**30, None, None, (0, 0), None)
    assert dump_index(LayerIndex([LayerChange(ChangeKind.FILE, ImagePath(b"f"), entry)], [0], bytes(32), {})) is None
    with closing(ImageLayout(layout).open_image()):
        pass
