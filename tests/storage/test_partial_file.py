"""Partial files of blobs: bytes written in order and ahead of their turn, and how many are trusted after a crash."""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import DigestMismatchError
from ociexport.spec.digest import Digest
from ociexport.storage.layout.blobs import PartialFile, trusted_bytes

BLOB = bytes(range(250)) * 20
SIZE = len(BLOB)
DIGEST = Digest.of(BLOB)
MAGIC = b"ociexport ahead\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partial"


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def opened(fd: int, path: Path, size: int | None = SIZE) -> PartialFile:
    return PartialFile(fd, str(path), DIGEST, size)


def test_bytes_ahead_are_hashed_when_their_turn_comes(fd: int, path: Path) -> None:
    file = opened(fd, path)
    file.place(BLOB[3000:], 3000)
    file.place(BLOB[1000:3000], 1000)
    file.write(BLOB[:1000])
    assert file.offset == 1000
    file.take(SIZE - 1000)
    file.verify()
    assert path.read_bytes() == BLOB


def test_bytes_in_order_replace_those_that_came_ahead(fd: int, path: Path) -> None:
    """If parts can't be fetched, the whole blob is fetched again over one connection."""
    file = opened(fd, path)
    file.place(b"wrong", 2000)
    file.write(BLOB)
    file.verify()
    assert path.read_bytes() == BLOB


def test_after_a_crash_only_the_beginning_is_trusted(fd: int, path: Path) -> None:
    """A file's length does not show the gaps before its last byte."""
    file = opened(fd, path)
    file.place(BLOB[3000:], 3000)
    file.write(BLOB[:1000])
    assert path.stat().st_size > SIZE
    assert trusted_bytes(fd, SIZE) == 1000
    again = opened(fd, path)
    assert again.offset == 1000
    assert path.read_bytes() == BLOB[:1000]
    again.write(BLOB[1000:])
    again.verify()


def test_beginning_grows_with_what_is_taken(fd: int, path: Path) -> None:
    file = opened(fd, path)
    file.place(BLOB[:3000], 0)
    assert trusted_bytes(fd, SIZE) == 0
    file.take(3000)
    assert trusted_bytes(fd, SIZE) == 3000


def test_restart_forgets_what_came_ahead(fd: int, path: Path) -> None:
    file = opened(fd, path)
    file.place(BLOB[3000:], 3000)
    file.restart()
    file.write(BLOB[:10])
    assert (file.offset, path.read_bytes()) == (10, BLOB[:10])


def test_mark_that_lies_is_found_out_at_the_end(fd: int, path: Path) -> None:
    """A layout from an untrusted source may contain anything."""
    path.write_bytes(bytes(SIZE) + struct.pack("<16sQ", MAGIC, 4000))
    file = opened(fd, path)
    assert file.offset == 4000
    file.write(BLOB[4000:])
    with pytest.raises(DigestMismatchError):
        file.verify()


@pytest.mark.parametrize(
    "end",
    [
        b"x",
        MAGIC,
        struct.pack("<16sQ", b"something else!!", 4000),
        struct.pack("<16sQ", MAGIC, SIZE + 1),
        struct.pack("<16sQ", MAGIC, 2**64 - 1),
        struct.pack("<16sQ", MAGIC, 4000) + b"x",
    ],
)
def test_file_that_is_too_long_for_any_other_reason_is_begun_anew(fd: int, path: Path, end: bytes) -> None:
    path.write_bytes(BLOB + end)
    assert trusted_bytes(fd, SIZE) == 0
    assert opened(fd, path).offset == 0
    assert path.read_bytes() == b""


def test_nothing_comes_ahead_where_nobody_knows_the_end(fd: int, path: Path) -> None:
    with pytest.raises(ValueError, match="known size"):
        opened(fd, path, None).place(b"x", 10)


def test_file_that_somebody_cuts_is_an_error_of_the_disk(fd: int, path: Path) -> None:
    file = opened(fd, path)
    file.place(BLOB, 0)
    os.truncate(path, 100)
    with pytest.raises(OSError, match="truncated") as caught:
        file.take(SIZE)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))


@given(st.data())
def test_any_order_gives_the_blob_and_any_crash_a_beginning(data: st.DataObject) -> None:
    """Parts arrive in any order; after a crash the trusted bytes are the beginning of the blob."""
    cuts = sorted({0, SIZE, *data.draw(st.lists(st.integers(1, SIZE - 1), max_size=6))})
    parts = list(pairwise(cuts))
    fd = os.memfd_create("partial")
    try:
        file = PartialFile(fd, "partial", DIGEST, SIZE)
        placed: set[tuple[int, int]] = set()
        for part in data.draw(st.permutations(parts)):
            file.place(BLOB[slice(*part)], part[0])
            placed.add(part)
            while (following := next((one for one in placed if one[0] == file.offset), None)) is not None:
                file.take(following[1] - following[0])
            if data.draw(st.integers(0, 9)) == 0:
                before = file.offset
                file = PartialFile(fd, "partial", DIGEST, SIZE)
                assert file.offset == before
                assert os.pread(fd, SIZE + 100, 0) == BLOB[:before]
                file.write(BLOB[before:])
                break
        file.verify()
        assert os.pread(fd, SIZE + 100, 0) == BLOB
    finally:
        os.close(fd)


def test_where_the_mark_can_not_be_written_no_bytes_come_ahead(fd: int, path: Path) -> None:
    """Other threads must not write their bytes: without a mark, the gap before them would count as written."""
    file = opened(fd, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE - 1, hard))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="File too large"):
                file.place(BLOB[1000:2000], 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert trusted_bytes(fd, SIZE) == 0
