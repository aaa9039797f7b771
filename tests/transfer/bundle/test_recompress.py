"""Layers that zlib and the zstd library compressed are compressed to the same bytes again; others are told apart."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from ociexport.errors import InvalidImageError
from ociexport.spec.json_fields import parse_json_object
from ociexport.system.zstd import zstd
from ociexport.transfer.bundle.delta.recompress import Compression, find_compression, parse_compression
from tests.support.deltas import library
from tests.support.memory_source import tar_of

with open(__file__, "rb") as _file:
    TAR = (_file.read() * 600)[: 3 * 1024**2] + bytes(10240)


def _chunks(data: bytes, size: int = 65536) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _gzip(level: int, name: str = "") -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(name, "wb", level, buffer, mtime=5) as file:
        file.write(TAR)
    return buffer.getvalue()


def _zstd(**options: int) -> bytes:
    return zstd.compress(TAR, options={zstd.CompressionParameter[key]: value for key, value in options.items()})


def _zstd_stream(level: int, piece: int) -> bytes:
    compressor = zstd.ZstdCompressor(level=level)
    return b"".join(compressor.compress(chunk) for chunk in _chunks(TAR, piece)) + compressor.flush()


MADE_AGAIN = {
    "plain": TAR,
    "gzip 6": _gzip(6),
    "gzip 9 with a name": _gzip(9, "layer.tar"),
    "gzip 1": _gzip(1),
    "zstd 3": _zstd(compression_level=3),
    "zstd 9 with a checksum": _zstd(compression_level=9, checksum_flag=1),
    "zstd 19": _zstd(compression_level=19),
    "zstd stream": _zstd_stream(3, 100_000),
}


@pytest.mark.parametrize("blob", MADE_AGAIN.values(), ids=MADE_AGAIN)
def test_the_same_bytes_are_made_again_from_what_a_document_says(blob: bytes) -> None:
    found = find_compression(lambda: _chunks(blob), lambda: _chunks(TAR), len(TAR))
    assert found is not None
    read = parse_compression(parse_json_object(json.dumps(found.to_json()).encode(), where="x"))
    assert read == found
    assert b"".join(read.compress(_chunks(TAR, 1_000_000), len(TAR))) == blob


def test_zstd_makes_a_tar_again_that_it_got_as_a_whole() -> None:
    """It chooses other blocks then, which only shows in data that hardly compresses."""
    noise = tar_of(library(1))
    blob = zstd.compress(noise)
    found = find_compression(lambda: _chunks(blob), lambda: _chunks(noise), len(noise))
    assert found is not None
    assert found.is_whole
    read = parse_compression(parse_json_object(json.dumps(found.to_json()).encode(), where="x"))
    assert b"".join(read.compress(_chunks(noise, 1_000), len(noise))) == blob
    with pytest.raises(InvalidImageError, match="expected a tar of at most"):
        read.verify_fits(2**30)


NOT_MADE_AGAIN = {
    "two members": gzip.compress(TAR[:1000]) + gzip.compress(TAR[1000:]),
    "a level that differs at the end": gzip.compress(TAR, 6)[:-8] + bytes(8),
    "bytes behind the member": gzip.compress(TAR, 6) + bytes(512),
    "a header that does not end": b"\x1f\x8b\x08\x08" + b"x" * 10_000,
    "a short header": b"\x1f\x8b\x08",
    "another zstd window": _zstd(compression_level=3, window_log=12),
    "a short zstd header": b"\x28\xb5\x2f\xfd",
    "nothing": b"",
}


@pytest.mark.parametrize("blob", NOT_MADE_AGAIN.values(), ids=NOT_MADE_AGAIN)
def test_a_blob_that_no_known_compressor_makes_is_told_as_such(blob: bytes) -> None:
    assert find_compression(lambda: _chunks(blob), lambda: _chunks(TAR), len(TAR)) is None


@pytest.mark.parametrize("command", ["gzip -6n", "zstd -q -c", "zstd -q -c -19 --single-thread"])
def test_what_a_program_makes_is_made_again_or_told_as_not(command: str) -> None:
    program = command.split()
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    blob = subprocess.run(program, input=TAR, capture_output=True, check=True).stdout
    found = find_compression(lambda: _chunks(blob), lambda: _chunks(TAR), len(TAR))
    if found is not None:
        assert b"".join(found.compress(_chunks(TAR), len(TAR))) == blob


@pytest.mark.parametrize(
    "members",
    [
        {"name": "lzma"},
        {"name": "gzip", "level": 10, "memoryLevel": 8, "header": "1f8b0800"},
        {"name": "gzip", "level": 6, "memoryLevel": 1, "header": "1f8b0800"},
        {"name": "gzip", "level": 6, "memoryLevel": 8, "header": "zz"},
        {"name": "gzip", "level": 6, "memoryLevel": 8, "header": "00"},
        {"name": "zstd", "level": 99, "workers": 0},
        {"name": "zstd", "level": 3, "workers": 200},
        {"level": 3},
    ],
)
def test_a_document_that_no_compressor_can_follow_is_refused(members: dict[str, object]) -> None:
    with pytest.raises(InvalidImageError, match=r"^x: (name|level|memoryLevel|header|workers): expected"):
        parse_compression(parse_json_object(json.dumps(members).encode(), where="x"))


def test_a_plain_layer_needs_nothing() -> None:
    assert Compression("none").to_json() == {"name": "none"}
