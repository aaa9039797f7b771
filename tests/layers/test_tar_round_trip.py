"""tar.writer and tar.reader: an entry that the reader may return is read back unchanged after it was written."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, SizeMismatchError
from ociexport.layers.tar.reader import DEVICE_TYPES, Entry, EntryType, TarReader
from ociexport.layers.tar.writer import TarWriter
from tests.layers.test_tar_reader import header, pax_header, read_all

FILE = Entry(EntryType.FILE, b"f", b"", 0o644, 0, 0, 0, 0, None, None, (0, 0), None)
# The reader accepts times up to here.
LATEST_NS = 2**62 * 1_000_000_000
OWNERS = st.one_of(st.integers(0, 2**32 - 2), st.sampled_from([0o7777777, 0o7777777 + 1, 2**32 - 2]))
TIMES = st.one_of(
    st.integers(-LATEST_NS, LATEST_NS),
    st.integers(-(10**10), 10**10),
    st.sampled_from([8**11 - 1, 8**11, 10**18 - 1, 10**18, -(10**18)]).map(lambda seconds: seconds * 1_000_000_000),
)
NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name)
XATTRS = st.none() | st.dictionaries(NAMES, st.binary(max_size=50), min_size=1, max_size=3)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(EntryType))
    return Entry(
        kind,
        draw(NAMES),
        draw(NAMES) if kind in (EntryType.SYMLINK, EntryType.HARD_LINK) else b"",
        draw(st.integers(0, 0o7777)),
        draw(OWNERS),
        draw(OWNERS),
        0,
        draw(TIMES),
        None,
        draw(XATTRS),
        draw(st.tuples(st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1))) if kind in DEVICE_TYPES else (0, 0),
        None,
    )


@given(st.lists(entries(), min_size=1, max_size=3))
@example([FILE._replace(mtime_ns=LATEST_NS)])
@example([FILE._replace(mtime_ns=-LATEST_NS)])
@example([FILE._replace(mtime_ns=LATEST_NS - 1)])
@settings(max_examples=300)
def test_written_entries_are_read_back(written: list[Entry]) -> None:
    buffer = io.BytesIO()
    writer = TarWriter(buffer.write)
    for entry in written:
        writer.write_entry(entry)
    writer.finish()
    assert [entry for entry, _ in read_all(buffer.getvalue())] == written


@pytest.mark.parametrize("size", [1, 8**11 - 1, 8**11, 10**18, 2**63 - 1])
def test_written_size_is_read_back(size: int) -> None:
    buffer = io.BytesIO()
    with contextlib.suppress(SizeMismatchError):  # only the header matters
        TarWriter(buffer.write).write_file(FILE._replace(size=size), [])
    assert next(iter(TarReader(iter([buffer.getvalue()])))).size == size


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("key", ["mtime", "atime"])
def test_time_that_the_kernel_can_not_count_is_told(key: str, sign: str) -> None:
    """The kernel counts seconds in 64 bits, and 19 digits may be more."""
    latest = pax_header(record(f"{key}={sign}{2**62}")) + header()
    assert len(read_all(latest)) == 1
    for seconds in (f"{2**62}.000000001", "9" * 19):
        with pytest.raises(
            InvalidImageError, match=rf"^tar: 'a': {key}: expected within 2\*\*62 s of 1970, got -?\d+ ns$"
        ):
            read_all(pax_header(record(f"{key}={sign}{seconds}")) + header())
    with pytest.raises(InvalidImageError, match=rf"^tar: PAX record: expected a time in seconds for '{key}', got "):
        read_all(pax_header(record(f"{key}={sign}{10**19}")) + header())


def record(text: str) -> bytes:
    """Return a PAX record of 10 to 99 bytes."""
    return f"{len(text) + 4} {text}\n".encode()
