"""part_reader, access_points, gzip_points: any part of a layer's tar, read from the nearest point, is that part."""

from __future__ import annotations

import ctypes
import io
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError
from ociexport.layers.limits import Limits
from ociexport.layers.part_reader import PartReader
from ociexport.spec.config import Layer
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.system import gzip_points
from ociexport.system.access_points import START, WINDOW_BYTES, AccessPoint, AccessPoints, load_points
from ociexport.system.compression import read_tar_chunks
from ociexport.system.gzip_points import PointInflater
from ociexport.system.progress.protocol import SILENT
from tests.support.gzip_members import gzip_member, in_frames, in_members

SPACING = 5_000


def content_of(size: int, seed: int) -> bytes:
    """Return bytes that compress about as a layer does, with matches far back."""
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randint(1, 60)) for _ in range(50)]
    parts: list[bytes] = []
    while sum(map(len, parts[-1000:])) < size and len(parts) < 1000:
        parts.append(chance.choice(words) if chance.random() < 0.8 else chance.randbytes(chance.randint(1, 300)))
    return b"".join(parts)[:size]


class Blob:
    """A source with one blob, which counts what is read of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read_bytes = 0

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        return self.open(offset)

    def open(self, offset: int) -> ByteStream:
        stream = io.BytesIO(self.content)
        stream.seek(offset)
        return stream

    def reader(self, points: AccessPoints) -> PartReader:
        digest = Digest.of(self.content)
        layer = Layer(1, 1, Descriptor("", digest, len(self.content)), digest)
        return PartReader(self, layer, points, Limits(), SILENT)


MEMBER = st.tuples(
    st.integers(0, 60_000),
    st.integers(0, 5),
    st.sampled_from([0, 1, 6, 9]),
    st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY]),
    st.sampled_from([0, 0, 1_000, 30_000]),
)
PLACES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40_000)), min_size=1, max_size=6)


def places_in(content: bytes, places: list[tuple[float, int]]) -> Iterator[tuple[int, int]]:
    for share, count in places:
        offset = int(share * len(content))
        yield offset, min(count, len(content) - offset)


def verify_reads(content: bytes, blob: bytes, points: AccessPoints, places: list[tuple[float, int]]) -> None:
    reader = Blob(blob).reader(points)
    for offset, count in places_in(content, places):
        assert b"".join(reader.read(offset, count)) == content[offset : offset + count]
    reader.close()


@given(st.lists(MEMBER, min_size=1, max_size=4), st.sampled_from([b"", b"\0" * 7, b"\0" * 1024]), PLACES, PLACES)
def test_gzip_of_any_members(
    members: list[tuple[int, int, int, int, int]],
    padding: bytes,
    first: list[tuple[float, int]],
    then: list[tuple[float, int]],
) -> None:
    contents = [content_of(size, seed) for size, seed, *_ in members]
    content = b"".join(contents)
    blob = padding.join(gzip_member(part, *how) for part, (_, _, *how) in zip(contents, members, strict=True)) + padding
    points = AccessPoints(SPACING)
    verify_reads(content, blob, points, first)
    again = load_points(points.dump())
    assert again is not None
    assert list(again) == list(points)
    verify_reads(content, blob, again, then)
    PointInflater(Blob(blob).open, START, again).make_points(len(content))
    for point in again:
        chunks = PointInflater(Blob(blob).open, point, AccessPoints()).chunks(0)
        assert b"".join(chunks) == content[point.tar_offset :]


@given(st.integers(0, 200_000), st.integers(300, 30_000), st.sampled_from([in_members, in_frames]), PLACES)
def test_streams_of_any_size(
    size: int, piece: int, compress: Callable[[bytes, int], bytes], places: list[tuple[float, int]]
) -> None:
    content = content_of(size, size % 7) or b"x"
    blob = compress(content, piece)
    points = AccessPoints(SPACING)
    assert b"".join(read_tar_chunks(io.BytesIO(blob), points=points)) == content
    assert all(point.window is None for point in points)
    assert piece > SPACING or len(points) >= len(content) // (SPACING + piece) - 1
    verify_reads(content, blob, points, places)


def test_plain_tar_needs_no_points() -> None:
    content = content_of(100_000, 1)
    verify_reads(content, content, AccessPoints(SPACING), [(0.9, 5), (0.1, 70_000), (0.2, 9), (0.21, 10), (1.0, 0)])


CONTENT = content_of(400_000, 3)
BLOB = gzip_member(CONTENT, flush_every=3_000)


def points_of_blob() -> AccessPoints:
    points = AccessPoints(SPACING)
    PointInflater(Blob(BLOB).open, START, points).make_points(len(CONTENT))
    assert not any(points.is_far(offset) for offset in range(0, len(CONTENT), 100))
    return points


@pytest.mark.parametrize(
    "damage",
    [
        lambda point: point._replace(bit=point.bit + 1),
        lambda point: point._replace(bit=10**9),
        lambda point: point._replace(bit=8 * len(BLOB) - 3),
        lambda point: point._replace(window=b"no zlib"),
        lambda point: point._replace(window=None),
        lambda point: point._replace(window=zlib.compress(bytes(10 * WINDOW_BYTES))),
    ],
)
def test_damaged_point_gives_bytes_or_an_error_in_one_line(damage: Callable[[AccessPoint], AccessPoint]) -> None:
    points = AccessPoints(SPACING)
    points.add(damage(list(points_of_blob())[-1]))
    (point,) = points
    offset = point.tar_offset
    with suppress(InvalidImageError):
        list(Blob(BLOB).reader(points).read(offset, len(CONTENT) - offset))


def test_read_beyond_the_end_and_of_cut_data_is_an_error() -> None:
    with pytest.raises(InvalidImageError, match="got the end of the tar"):
        list(Blob(BLOB).reader(points_of_blob()).read(len(CONTENT) - 5, 6))
    with pytest.raises(InvalidImageError, match="ends too soon"):
        list(Blob(BLOB[:-1000]).reader(points_of_blob()).read(len(CONTENT) - 5, 5))
    with pytest.raises(InvalidImageError, match="got other bytes"):
        list(Blob(BLOB + b"other bytes").reader(AccessPoints(SPACING)).read(len(CONTENT), 1))


def test_many_points_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociexport.system.access_points._MAX_POINTS", 8)
    points = points_of_blob()
    assert len(points) <= 8
    assert points.spacing > SPACING
    verify_reads(CONTENT, BLOB, points, [(0.95, 100), (0.5, 9_000), (0.01, 1)])


def test_without_zlib_gzip_is_read_from_members(monkeypatch: pytest.MonkeyPatch) -> None:
    points = points_of_blob()

    def no_library(name: object) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    gzip_points._library.cache_clear()
    try:
        assert not gzip_points.can_inflate_from_points()
        verify_reads(CONTENT, BLOB, points, [(0.9, 100), (0.5, 9_000)])
    finally:
        gzip_points._library.cache_clear()


def test_points_of_another_version_are_not_read() -> None:
    assert load_points(points_of_blob().dump().replace(b'"version": 1', b'"version": 0')) is None
