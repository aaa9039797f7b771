"""tar.sparse: maps of sparse files in all their formats, correct and false."""

from __future__ import annotations

import subprocess
import tracemalloc
from pathlib import Path

import pytest

from ociexport.errors import InvalidImageError, counted
from ociexport.layers.tar.reader import TarReader
from tests.layers.test_tar_reader import header, member, read_all, tar_of
from tests.system_tests.test_readers_agree import file, pax


@pytest.fixture
def sparse_file(tmp_path: Path) -> Path:
    """A file with a hole at its end and more segments than fit in a header."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for number in range(40):
            file.seek(number * 65536)
            file.write(b"%d" % number)
        file.truncate(50 * 65536)
    return path


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=pax", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0"))],
    ids=["old", "0.0", "0.1", "1.0"],
)
def test_sparse_files_of_gnu_tar_keep_their_holes(sparse_file: Path, options: list[str]) -> None:
    """GNU tar manual, "Storing Sparse Files"."""
    command = [
        "tar",
        "-C",
        str(sparse_file.parent),
        "--hole-detection=raw",
        "-S",
        *options,
        "-cf",
        "-",
        sparse_file.name,
    ]
    tar = subprocess.run(command, check=True, capture_output=True).stdout
    ((entry, data),) = read_all(tar, 1000)
    assert entry.name == b"sparse"
    assert entry.segments is not None
    rebuilt = bytearray(entry.size)
    position = 0
    for offset, count in entry.segments:
        rebuilt[offset : offset + count] = data[position : position + count]
        position += count
    assert position == len(data) < entry.size
    assert bytes(rebuilt) == sparse_file.read_bytes()


@pytest.mark.parametrize(
    "segments",
    ["0,1024", "512,512,0,512", "0,512,256,512", "9,99999", f"{2**63},512"],
    ids=["more", "order", "overlap", "beyond", "no file's"],
)
def test_lying_sparse_map_is_refused(segments: str) -> None:
    info = member("a")
    info.pax_headers = {"GNU.sparse.map": segments, "GNU.sparse.size": "2048"}
    with pytest.raises(InvalidImageError, match=r"^tar: sparse map: "):
        read_all(tar_of([(info, b"x" * 512)]))


def sparse_member(*records: tuple[bytes, bytes]) -> bytes:
    """Return a file of 6 bytes of data, in segments of 3 bytes, with these records of GNU's."""
    prefixed = [(b"GNU.sparse." + key, value) for key, value in (*records, (b"size", b"2048"))]
    return pax(*prefixed) + file(b"a", b"abcdef") + bytes(1024)


def pairs_of_format_0_0(*numbers: bytes) -> list[tuple[bytes, bytes]]:
    return [((b"offset", b"numbytes")[index % 2], number) for index, number in enumerate(numbers)]


MAPS = {"0.0": pairs_of_format_0_0(b"0", b"3", b"512", b"3"), "0.1": [(b"map", b"0,3,512,3")]}


@pytest.mark.parametrize("version", MAPS)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("count", [b"0", b"1", b"3", b"4", b"0000000000000000001", b"9" * 19])
def test_map_with_another_number_of_segments_than_its_record_says_is_refused(
    count: bytes, first: bool, version: str
) -> None:
    """GNU tar manual, "PAX Format, Versions 0.0 and 0.1": numblocks is the number of blocks in the map."""
    said = [(b"numblocks", count)]
    with pytest.raises(InvalidImageError) as caught:
        read_all(sparse_member(*(said + MAPS[version] if first else MAPS[version] + said)))
    assert (
        str(caught.value) == f"tar: sparse map: expected {counted(int(count), 'segment')} (GNU.sparse.numblocks), got 2"
    )


@pytest.mark.parametrize("version", [[], [(b"major", b"0"), (b"minor", b"1")]], ids=["no version", "0.1"])
@pytest.mark.parametrize("count", [[], [(b"numblocks", b"0")]], ids=["no count", "count of 0"])
def test_map_without_numbers_is_refused(
    count: list[tuple[bytes, bytes]], version: list[tuple[bytes, bytes]], tmp_path: Path
) -> None:
    """GNU tar refuses such a map; bsdtar and Go would give the file another size, of holes or of the stored data."""
    records = [(b"GNU.sparse." + key, value) for key, value in (*version, *count, (b"map", b""), (b"size", b"5000"))]
    tar = pax(*records) + file(b"a", b"") + file(b"last", b"x") + bytes(1024)
    with pytest.raises(InvalidImageError) as caught:
        read_all(tar)
    assert str(caught.value) == "tar: sparse map: expected pairs of numbers in GNU.sparse.map, got none"
    ended = subprocess.run(["tar", "-xf", "-", "-C", tmp_path], check=False, input=tar, capture_output=True)
    assert (ended.returncode, b"invalid GNU.sparse.map=" in ended.stderr) == (2, True)


@pytest.mark.parametrize("version", MAPS)
@pytest.mark.parametrize("said", [[(b"numblocks", b"2")], [(b"numblocks", b"7"), (b"numblocks", b"02")], []])
def test_map_with_the_number_of_segments_that_its_record_says_is_read(
    said: list[tuple[bytes, bytes]], version: str
) -> None:
    ((entry, data),) = read_all(sparse_member(*said, *MAPS[version]))
    assert (list(entry.segments or ()), entry.size, data) == ([(0, 3), (512, 3)], 2048, b"abcdef")


@pytest.mark.parametrize("count", [b"-1", b"", b"x", b"+2", b"9" * 20])
def test_number_of_segments_that_is_none_is_refused(count: bytes) -> None:
    with pytest.raises(InvalidImageError, match=r"expected a decimal number for 'GNU\.sparse\.numblocks', got "):
        read_all(sparse_member((b"numblocks", count), *MAPS["0.1"]))


@pytest.mark.parametrize(
    "records",
    [
        [(b"numbytes", b"3"), (b"offset", b"0")],
        [(b"offset", b"0"), (b"offset", b"3")],
        [(b"offset", b"0"), (b"numbytes", b"3"), (b"offset", b"512")],
        [(b"offset", b"0"), (b"numbytes", b"3"), (b"numbytes", b"512"), (b"numbytes", b"3")],
        [(b"offset", b"0"), (b"numbytes", b"3,512,3")],
    ],
    ids=["order", "two offsets", "half a pair", "two lengths", "several numbers in one"],
)
def test_pairs_of_format_0_0_are_an_offset_and_a_length(records: list[tuple[bytes, bytes]]) -> None:
    """Go's archive/tar, parsePAX, refuses others: without their keys, the numbers would be a different map."""
    with pytest.raises(InvalidImageError, match=r"^tar: PAX record: expected GNU\.sparse\.offset and "):
        read_all(sparse_member(*records))


def test_old_sparse_header_with_numbers_that_no_file_has_is_refused() -> None:
    """GNU tar manual, "Extensions": base 256 holds 95 bits."""
    segment = b"\x80" + (2**80).to_bytes(11, "big") + b"00000000001\0"
    block = header(flag=b"S", magic=b"ustar  \0", at_386=segment, at_483=b"00000001000\0")
    with pytest.raises(InvalidImageError, match=r"^tar: sparse map: expected segments in order, got 1 byte at 12089"):
        read_all(block + bytes(1024))


def test_long_sparse_map_takes_sixteen_bytes_for_each_segment() -> None:
    """One entry may have a map of any length, so a segment must take little memory."""
    count = 100_000
    sparse_map = b"%d\n" % count + b"".join(b"%d\n0\n" % (4096 * number) for number in range(count))
    info = member("a")
    info.size = len(sparse_map) + -len(sparse_map) % 512
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(4096 * count)}
    tar = tar_of([(info, sparse_map.ljust(info.size, b"\0"))])
    tracemalloc.start()
    try:
        (entry,) = TarReader(iter([tar]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert entry.segments is not None
    assert len(entry.segments) == count
    assert peak < 3 * 16 * count
