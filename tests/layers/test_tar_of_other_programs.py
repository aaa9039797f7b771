"""tar.reader: headers that old and unusual programs write, read as Go's archive/tar and GNU tar read them."""

from __future__ import annotations

import pytest

from ociexport.errors import InvalidImageError
from ociexport.layers.tar.reader import EntryType
from tests.layers.test_tar_reader import header, pax_header, read_all


def base_256(number: int, width: int = 12) -> bytes:
    mark = b"\x80" if number >= 0 else b"\xff"
    return mark + number.to_bytes(width - 1, "big", signed=True)


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        (b"dir", b"dir/a"),
        (b"usr/share", b"usr/share/a"),
        (b"d" * 60 + b"/" + b"e" * 60, b"d" * 60 + b"/" + b"e" * 60 + b"/a"),
        (b"p" * 155, b"p" * 155 + b"/a"),
        (b"7days", b"7days/a"),
        (b"2019/01", b"2019/01/a"),
        (b"00000000001/", b"00000000001//a"),
        (b"00000000001\0not a time", b"00000000001/a"),
        (b"00000000001\000000000002\0", b"a"),
        (b"00000000001 00000000002 ", b"a"),
        (b"00000000001\0" + bytes(12) + b"rest", b"a"),
        (bytes(12) + b"00000000002\0", b"a"),
        (bytes(12) + b"dir", b"a"),
        (base_256(-5) + base_256(-6), b"a"),
        (base_256(2**40) + b"00000000002\0", b"a"),
        (b"755", b"a"),
        (b"caf\xc3\xa9/dir", b"a"),
        (b"\xff" * 12 + b"dir", b"a"),
    ],
)
@pytest.mark.parametrize("flag", [b"0", b"1", b"2", b"5", b"\0"])
def test_prefix_that_old_go_wrote_under_gnu_magic_is_joined(prefix: bytes, name: bytes, flag: bytes) -> None:
    """Go's archive/tar, readHeader: what is not a pair of times, but ASCII text, is a prefix."""
    block = header(magic=b"ustar  \0", flag=flag, uid=base_256(3_000_000, 8), at_345=prefix)
    assert read_all(block + bytes(1024))[0][0].name == name


@pytest.mark.parametrize("magic", [b"ustar 00", b"ustar\0", bytes(8)])
def test_only_whole_magics_have_a_prefix(magic: bytes) -> None:
    expected = b"dir/a" if magic == b"ustar\0" else b"a"
    assert read_all(header(magic=magic, at_345=b"dir") + bytes(1024))[0][0].name == expected


@pytest.mark.parametrize("before", [b"\0", b"\0\0\0", b" \0", b"\0 \0 "])
@pytest.mark.parametrize("after", [b"", b"\0", b" ", b" \0", b"\0junk"])
def test_blanks_and_nuls_before_digits_are_skipped(before: bytes, after: bytes) -> None:
    """Go's archive/tar, parseOctal: numbers may be padded with spaces and NULs on both sides."""

    def number(digits: bytes, width: int) -> bytes:
        return (before + digits + after).ljust(width, b"\0")[:width]

    fields = {"mode": number(b"755", 8), "uid": number(b"7", 8), "size": number(b"3", 12), "mtime": number(b"5", 12)}
    ((entry, data), (following, _)) = read_all(header(**fields) + b"abc" + bytes(509) + header(name=b"b"))
    assert (entry.mode, entry.uid, entry.mtime_ns, data) == (0o755, 7, 5_000_000_000, b"abc")
    assert following.name == b"b"


@pytest.mark.parametrize("before", [b"\0", b" \0", b"\0 "])
def test_number_after_nuls_is_no_other_text(before: bytes) -> None:
    with pytest.raises(InvalidImageError, match=r"^tar: header field size: expected an octal number, got "):
        read_all(header(size=before + b"junk") + bytes(1024))


@pytest.mark.parametrize("size", [b"00000000001\0", b"00000002000\0"], ids=["1", "1024"])
@pytest.mark.parametrize(("records", "name"), [(b"", b"d/"), (b"11 path=d/\n", b"a")], ids=["header", "PAX"])
def test_size_of_an_old_directory_means_nothing(records: bytes, name: bytes, size: bytes) -> None:
    """Go, bsdtar and Python read the next header right after the directory's, as after a directory of type 5."""
    before = pax_header(records) if records else b""
    directory = header(name=name, flag=b"\0", magic=bytes(8), size=size)
    tar = before + directory + header(name=b"b") + header(name=b"c") + bytes(1024)
    assert [(entry.name, entry.type, entry.size) for entry, _ in read_all(tar)] == [
        (b"d/", EntryType.DIRECTORY, 0),
        (b"b", EntryType.FILE, 0),
        (b"c", EntryType.FILE, 0),
    ]


def test_old_file_whose_record_takes_the_slash_away_has_data() -> None:
    tar = pax_header(b"9 path=d\n") + header(name=b"a/", flag=b"\0", size=b"00000000003\0") + b"abc" + bytes(509)
    assert [(entry.name, entry.type, data) for entry, data in read_all(tar)] == [(b"d", EntryType.FILE, b"abc")]


def test_size_record_of_an_old_directory_means_nothing() -> None:
    tar = pax_header(b"12 size=512\n") + header(name=b"d/", flag=b"\0") + header(name=b"b") + bytes(1024)
    assert [(entry.name, entry.size) for entry, _ in read_all(tar)] == [(b"d/", 0), (b"b", 0)]


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024)], ids=["none", "half", "whole"])
@pytest.mark.parametrize("before", [b"", header()], ids=["alone", "after an entry"])
@pytest.mark.parametrize("flags", [b"g", b"V", b"N", b"gg", b"gV"])
def test_headers_that_describe_no_single_entry_may_be_last(flags: bytes, before: bytes, end: bytes) -> None:
    """`git archive` of an empty tree writes a global header and nothing else."""
    records = b"12 comment=\n"
    last = [
        header(flag=bytes([flag]), size=b"%011o\0" % len(records)) + records + bytes(-len(records) % 512)
        for flag in flags
    ]
    assert [entry.name for entry, _ in read_all(before + b"".join(last) + end)] == ([b"a"] if before else [])


@pytest.mark.parametrize("flags", [b"x", b"X", b"L", b"K", b"gx", b"xg", b"LV"])
def test_headers_that_describe_the_next_entry_may_not_be_last(flags: bytes) -> None:
    headers = b"".join(header(flag=bytes([flag])) for flag in flags)
    with pytest.raises(InvalidImageError, match=r"^tar: expected an entry after an extended header, got the end$"):
        read_all(header() + headers + bytes(1024))
