"""compression: a layer's bytes become the chunks of a tar, in every supported format."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, LimitExceededError, SizeMismatchError
from ociexport.spec.digest import Digest, VerifyingReader
from ociexport.system.compression import MAX_SMALL_STREAMS, TAR_CHUNK_BYTES, read_tar_chunks

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = bytes(range(256)) * 8192
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def decompressed(stored: bytes) -> bytes:
    return b"".join(read_tar_chunks(io.BytesIO(stored)))


@pytest.mark.parametrize("name", COMPRESSORS)
def test_format_is_told_by_content(name: str) -> None:
    assert decompressed(COMPRESSORS[name](CONTENT)) == CONTENT


@pytest.mark.parametrize("name", COMPRESSORS)
def test_chunks_are_bounded(name: str) -> None:
    zeros = bytes(20 * TAR_CHUNK_BYTES)
    sizes = [len(chunk) for chunk in read_tar_chunks(io.BytesIO(COMPRESSORS[name](zeros)))]
    assert max(sizes) <= TAR_CHUNK_BYTES
    assert sum(sizes) == len(zeros)


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_chunks_may_be_smaller(name: str) -> None:
    chunks = list(read_tar_chunks(io.BytesIO(COMPRESSORS[name](CONTENT)), 1000))
    assert (max(map(len, chunks)), b"".join(chunks)) == (1000, CONTENT)


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_several_streams_are_one_tar(name: str) -> None:
    """RFC 1952 §2.2 for gzip members, RFC 8878 §3.1 for zstd frames; estargz has a member for each file."""
    compress = COMPRESSORS[name]
    assert decompressed(compress(b"first") + compress(b"") + compress(b"second")) == b"firstsecond"


def test_skippable_zstd_frames_are_skipped() -> None:
    """RFC 8878 §3.1.2; zstd:chunked keeps its table of contents in such frames, also at the beginning."""
    skippable = b"\x5e\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"table"
    assert decompressed(skippable + zstd.compress(b"data") + skippable) == b"data"


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_zeros_after_the_end_are_padding(name: str) -> None:
    assert decompressed(COMPRESSORS[name](b"data") + bytes(700_000)) == b"data"


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_other_bytes_after_the_end_are_refused(name: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        decompressed(COMPRESSORS[name](b"data") + b"junk and more of it")
    assert str(caught.value) == f"{name} data: expected the end or another {name} stream, got other bytes"


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_truncated_stream_is_told(name: str) -> None:
    stored = COMPRESSORS[name](CONTENT)
    with pytest.raises(InvalidImageError) as caught:
        decompressed(stored[: len(stored) // 2])
    assert str(caught.value) == f"{name} data: expected a complete stream, got one that ends too soon"


def test_wrong_gzip_checksum_is_told() -> None:
    stored = bytearray(gzip.compress(CONTENT))
    stored[-6] ^= 1
    with pytest.raises(InvalidImageError, match=r"^gzip data: expected a valid stream, got a damaged one"):
        decompressed(bytes(stored))


def test_empty_blob_is_an_empty_tar() -> None:
    assert decompressed(b"") == b""


def test_blob_is_read_to_its_verified_end() -> None:
    """A blob that is truncated within the padding after the gzip stream is too short, not a valid layer."""
    stored = gzip.compress(b"data") + bytes(100)
    digest = Digest.of(stored)
    reader = VerifyingReader(io.BytesIO(stored[:-1]), digest, len(stored), subject="blob")
    with pytest.raises(SizeMismatchError):
        list(read_tar_chunks(reader))


@given(st.sampled_from(["gzip", "zstd", "xz", "bzip2"]), st.data())
def test_damaged_data_gives_no_foreign_exception(name: str, data: st.DataObject) -> None:
    stored = bytearray(COMPRESSORS[name](b"some layer " * 20))
    for _ in range(data.draw(st.integers(1, 4))):
        stored[data.draw(st.integers(6, len(stored) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidImageError):
        decompressed(bytes(stored) + data.draw(st.binary(max_size=20)))


SKIPPABLE = b"\x50\x2a\x4d\x18\0\0\0\0"
SMALL_STREAMS: dict[str, tuple[str, bytes]] = {
    **{f"empty {name}": (name, compress(b"")) for name, compress in COMPRESSORS.items() if name != "plain"},
    **{f"nearly empty {name}": (name, compress(b"x")) for name, compress in COMPRESSORS.items() if name != "plain"},
    "skippable zstd": ("zstd", SKIPPABLE),
    "gzip and zeros": ("gzip", gzip.compress(b"") + bytes(5)),
}


class EndlessStream:
    """Repeats a stream for ever, and counts the bytes read."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self.read_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream * max(1, size // len(self._stream))
        self.read_bytes += len(data)
        return data

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("kind", SMALL_STREAMS)
def test_endless_row_of_streams_that_give_next_to_nothing_is_refused(kind: str) -> None:
    """Each stream takes processor time, and a limit on bytes is never reached."""
    name, stream = SMALL_STREAMS[kind]
    endless = EndlessStream(stream)
    with pytest.raises(LimitExceededError) as caught:
        for _ in read_tar_chunks(endless):
            pass
    assert str(caught.value) == (
        f"{name} data: expected at most 10000 streams of less than 512 bytes, and 2 more for each larger one, "
        "got 10001 beside 0 larger ones"
    )
    assert endless.read_bytes <= 10_001 * len(stream) + 1024 * 1024


@pytest.mark.parametrize(
    "rows",
    [
        [gzip.compress(b"")] * MAX_SMALL_STREAMS,
        [gzip.compress(bytes(512), 1)] * (MAX_SMALL_STREAMS + 5000),
        [SKIPPABLE, zstd.compress(bytes(1024))] * (MAX_SMALL_STREAMS + 5000),
    ],
    ids=["as many as may be", "eStargz", "pzstd"],
)
def test_many_streams_of_honest_tools_are_one_tar(rows: list[bytes]) -> None:
    assert decompressed(b"".join(rows)) == b"".join(map(decompressed, rows))


@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name != "plain"])
@pytest.mark.parametrize("read_bytes", [1, 7, 4096, 1 << 20])
def test_streams_and_zeros_between_them_may_end_anywhere(name: str, read_bytes: int) -> None:
    parts = [CONTENT[:3], b"", CONTENT[:5000], CONTENT[:70_000]]
    stored = b"".join(COMPRESSORS[name](part) + bytes(number * 3) for number, part in enumerate(parts))

    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(read_bytes)

    assert b"".join(read_tar_chunks(Dripping(stored))) == b"".join(parts)
