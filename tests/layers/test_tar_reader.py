"""tar.reader: headers as Python's tarfile and GNU tar write them, and headers that no program should write."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError
from ociexport.layers.tar.reader import Entry, EntryType, TarReader


def chunked(tar: bytes, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
    return (tar[start : start + chunk_bytes] for start in range(0, len(tar), chunk_bytes))


def read_all(tar: bytes, chunk_bytes: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    reader = TarReader(chunked(tar, chunk_bytes))
    return [(entry, b"".join(reader.read_data())) for entry in reader]


def one_entry(member: tarfile.TarInfo, content: bytes = b"", format: int = tarfile.PAX_FORMAT) -> Entry:
    return read_all(tar_of([(member, content)], format))[0][0]


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def header(**replaced: bytes) -> bytes:
    """Return the header block of a file ``a``, with some fields replaced and a correct checksum."""
    fields = {
        "name": (0, b"a"),
        "mode": (100, b"0000644\0"),
        "uid": (108, b"0000000\0"),
        "gid": (116, b"0000000\0"),
        "size": (124, b"00000000000\0"),
        "mtime": (136, b"00000000000\0"),
        "flag": (156, b"0"),
        "link": (157, b""),
        "magic": (257, b"ustar\x0000"),
    }
    block = bytearray(512)
    for key, (offset, default) in fields.items():
        value = replaced.get(key, default)
        block[offset : offset + len(value)] = value
    for extra, value in replaced.items():
        if extra.startswith("at_"):
            offset = int(extra.removeprefix("at_"))
            block[offset : offset + len(value)] = value
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_every_type_is_read(format: int) -> None:
    tar = tar_of(
        [
            (member("dir/", type=tarfile.DIRTYPE, mode=0o1777, mtime=5), b""),
            (member("dir/file", mode=0o4755, uid=1000, gid=50, mtime=1_700_000_000), b"content"),
            (member("link", type=tarfile.SYMTYPE, linkname="dir/file"), b""),
            (member("hard", type=tarfile.LNKTYPE, linkname="dir/file"), b""),
            (member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
            (member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0), b""),
            (member("pipe", type=tarfile.FIFOTYPE), b""),
        ],
        format,
    )
    entries = [entry for entry, _ in read_all(tar)]
    assert [entry.type for entry in entries] == [
        EntryType.DIRECTORY,
        EntryType.FILE,
        EntryType.SYMLINK,
        EntryType.HARD_LINK,
        EntryType.CHARACTER_DEVICE,
        EntryType.BLOCK_DEVICE,
        EntryType.FIFO,
    ]
    assert (entries[1].mode, entries[1].uid, entries[1].gid, entries[1].size) == (0o4755, 1000, 50, 7)
    assert entries[1].mtime_ns == 1_700_000_000_000_000_000
    assert (entries[2].link_name, entries[4].device) == (b"dir/file", (1, 3))


@pytest.mark.parametrize("chunk_bytes", [1, 7, 511, 512, 513, 1 << 20])
def test_chunks_may_end_anywhere(chunk_bytes: int) -> None:
    tar = tar_of([(member("x" * 150), b"a" * 1500), (member("b"), b"b" * 512), (member("c"), b"")], tarfile.GNU_FORMAT)
    assert [(entry.name[:1], content) for entry, content in read_all(tar, chunk_bytes)] == [
        (b"x", b"a" * 1500),
        (b"b", b"b" * 512),
        (b"c", b""),
    ]


def test_unread_data_is_skipped() -> None:
    tar = tar_of([(member("a"), b"a" * 5000), (member("b"), b"b")])
    assert [entry.name for entry in TarReader(chunked(tar, 700))] == [b"a", b"b"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_long_names_and_link_names_are_whole(format: int) -> None:
    """GNU tar manual, types L and K; POSIX pax, path and linkpath."""
    entry = one_entry(member("n" * 300, type=tarfile.SYMTYPE, linkname="l" * 400), format=format)
    assert (entry.name, entry.link_name) == (b"n" * 300, b"l" * 400)


def test_ustar_prefix_is_joined() -> None:
    name = "p" * 100 + "/" + "n" * 90
    assert one_entry(member(name), format=tarfile.USTAR_FORMAT).name == name.encode()


def test_star_times_are_no_part_of_the_prefix() -> None:
    """star stores atime and ctime in the last 24 bytes of the prefix and marks its headers with "tar"."""
    block = header(at_345=b"dir", at_476=b"00000000001 ", at_508=b"tar\0")
    assert read_all(block + bytes(1024))[0][0].name == b"dir/a"


def test_gnu_magic_has_no_prefix() -> None:
    """GNU tar stores times and sparse maps where ustar has its prefix."""
    block = header(magic=b"ustar  \0", at_345=b"00000000001")
    assert read_all(block + bytes(1024))[0][0].name == b"a"


def test_names_may_be_any_bytes() -> None:
    assert read_all(header(name=b"caf\xe9") + bytes(1024))[0][0].name == b"caf\xe9"


def test_base_256_numbers_are_read() -> None:
    """GNU tar manual, "Basic Tar Format": the first bit marks a binary number, negative ones for times before 1970."""
    block = header(
        uid=b"\x80" + (3_000_000_000).to_bytes(7, "big"), mtime=b"\xff" + (-1).to_bytes(11, "big", signed=True)
    )
    entry = read_all(block + bytes(1024))[0][0]
    assert (entry.uid, entry.mtime_ns) == (3_000_000_000, -1_000_000_000)


def test_pax_numbers_override_the_header() -> None:
    info = member("a", uid=3_000_000_000, gid=7, mtime=1_600_000_000.25)
    info.pax_headers = {"atime": "1500000000.123456789"}
    entry = one_entry(info)
    assert (entry.uid, entry.gid) == (3_000_000_000, 7)
    assert (entry.mtime_ns, entry.atime_ns) == (1_600_000_000_250_000_000, 1_500_000_000_123_456_789)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1.5", 1_500_000_000),
        ("0.000000001", 1),
        ("1.0000000019", 1_000_000_001),
        ("-1.25", -1_250_000_000),
        ("-0.0000000001", -1),
        ("12", 12_000_000_000),
        ("3.", 3_000_000_000),
    ],
)
def test_pax_times_are_cut_to_nanoseconds(text: str, nanoseconds: int) -> None:
    info = member("a")
    info.pax_headers = {"mtime": text}
    assert one_entry(info).mtime_ns == nanoseconds


def test_xattrs_of_both_kinds_are_read() -> None:
    """libarchive's tar(5): SCHILY has the raw value, LIBARCHIVE the value in base64 and a URL-encoded name."""
    info = member("a")
    info.pax_headers = {
        "SCHILY.xattr.security.capability": "\x01\x00\udc80",
        "LIBARCHIVE.xattr.user.a%3Db": "AQID",
        "LIBARCHIVE.xattr.security.capability": "/////w",
    }
    assert one_entry(info).xattrs == {b"security.capability": b"\x01\x00\x80", b"user.a=b": b"\x01\x02\x03"}


def test_global_headers_hold_for_all_that_follow() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"mtime": "7"}) as tar:
        tar.addfile(member("a"))
        tar.addfile(member("b"))
    assert [entry.mtime_ns for entry, _ in read_all(buffer.getvalue())] == [7_000_000_000, 7_000_000_000]


def test_local_header_adds_to_the_global_one_and_replaces_record_by_record() -> None:
    """POSIX pax, "pax Header Block": a value in a typeflag x header overrides the one in a typeflag g header."""
    everywhere = {"SCHILY.xattr.user.all": "1", "SCHILY.xattr.user.own": "1", "mtime": "7", "uid": "5"}
    own = member("a", mtime=3)
    own.pax_headers = {"SCHILY.xattr.user.own": "2", "LIBARCHIVE.xattr.user.all": "Mw", "uid": "6"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=everywhere) as tar:
        tar.addfile(own)
        tar.addfile(member("b"))
    (first, _), (second, _) = read_all(buffer.getvalue())
    assert (first.xattrs, first.uid) == ({b"user.all": b"3", b"user.own": b"2"}, 6)
    assert (first.mtime_ns, second.mtime_ns) == (7_000_000_000, 7_000_000_000)
    assert (second.xattrs, second.uid) == ({b"user.all": b"1", b"user.own": b"1"}, 5)


def test_empty_pax_value_takes_back_what_the_global_header_says() -> None:
    """POSIX pax, "pax Extended Header Keyword Precedence"; the header block's own value is used."""
    info = member("a", mtime=3)
    info.pax_headers = {"comment": "none of ours", "uid": ""}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "5"}) as tar:
        tar.addfile(info)
        tar.addfile(member("b"))
    assert [entry.uid for entry, _ in read_all(buffer.getvalue())] == [0, 5]


def test_empty_pax_value_says_nothing() -> None:
    info = member("a", uid=5)
    info.pax_headers = {"path": ""}
    assert one_entry(info).name == b"a"


def test_old_tars_tell_directories_by_a_slash() -> None:
    """Only old tars do: Go, and so docker and umoci, ignores a slash after the name of a file in a newer tar."""
    block = header(name=b"dir/", flag=b"\0", magic=b"\0" * 8)
    assert read_all(block + bytes(1024))[0][0].type is EntryType.DIRECTORY
    assert read_all(header(name=b"file/", size=b"00000000001\0") + b"x" + bytes(511))[0][0].type is EntryType.FILE


def gnu_long(flag: bytes, name: bytes) -> bytes:
    return header(flag=flag, magic=b"ustar  \0", size=b"%011o\0" % len(name)) + name + bytes(-len(name) % 512)


def pax_header(data: bytes) -> bytes:
    return header(flag=b"x", size=b"%011o\0" % len(data)) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    "headers",
    [gnu_long(b"L", b"gnu") + pax_header(b"12 path=pax\n"), pax_header(b"12 path=pax\n") + gnu_long(b"L", b"gnu")],
    ids=["L x", "x L"],
)
def test_name_in_both_extensions_is_gnus(headers: bytes) -> None:
    """docker, containerd and umoci read tars with Go's reader; GNU tar and bsdtar do not agree with each other."""
    assert read_all(headers + header())[0][0].name == b"gnu"


def test_empty_long_name_says_nothing() -> None:
    headers = gnu_long(b"L", b"\0") + gnu_long(b"K", b"\0")
    entry = read_all(headers + header(flag=b"2", link=b"target"))[0][0]
    assert (entry.name, entry.link_name) == (b"a", b"target")


def test_second_extended_header_stands_in_place_of_the_first() -> None:
    """Go and GNU tar drop all records of the first one."""
    entry = read_all(pax_header(b"12 path=pax\n") + pax_header(b"11 mtime=5\n") + header())[0][0]
    assert (entry.name, entry.mtime_ns) == (b"a", 5_000_000_000)


@pytest.mark.parametrize("chunk_bytes", [1, 514, 515, 600, 1 << 20])
@pytest.mark.parametrize("read", [True, False])
def test_last_padding_may_be_missing(chunk_bytes: int, read: bool) -> None:
    """Go's writer omits the padding if it is not closed, and Go's reader only refuses missing data."""
    tar = header(size=b"00000000003\0") + b"abc"
    reader = TarReader(chunked(tar, chunk_bytes))
    assert [b"".join(reader.read_data()) if read else b"abc" for _ in reader] == [b"abc"]
    with pytest.raises(InvalidImageError):
        list(TarReader(chunked(tar[:-1], chunk_bytes)))


def test_contiguous_file_is_a_file() -> None:
    assert read_all(header(flag=b"7") + bytes(1024))[0][0].type is EntryType.FILE


def test_size_of_links_means_nothing() -> None:
    """POSIX allows a hard link to have data. Go's archive/tar, which writes most layers, does not read it."""
    tar = header(flag=b"1", link=b"b", size=b"00000000777\0") + header(name=b"c") + bytes(1024)
    assert [(entry.name, entry.size) for entry, _ in read_all(tar)] == [(b"a", 0), (b"c", 0)]


def test_end_marker_ends_and_the_rest_is_drained() -> None:
    chunks = chunked(header() + bytes(1024) + b"junk" * 1000, 600)
    reader = TarReader(chunks)
    assert len(list(reader)) == 1
    reader.drain()
    assert next(chunks, None) is None


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024)], ids=["none", "half", "whole"])
def test_end_marker_may_be_missing(end: bytes) -> None:
    assert len(read_all(header() + end)) == 1


@given(st.binary(max_size=3000))
@settings(max_examples=300)
def test_arbitrary_bytes_give_no_foreign_exception(tar: bytes) -> None:
    with contextlib.suppress(InvalidImageError):
        read_all(tar, 97)


@given(st.data())
@settings(max_examples=500)
def test_altered_headers_give_no_foreign_exception(data: st.DataObject) -> None:
    """The checksum is corrected after the fields are altered, so that the reader gets past it."""
    flag = data.draw(st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"7", b"S", b"x", b"g", b"L", b"K", b"D", b"\0"]))
    fields = {
        f"at_{data.draw(st.integers(0, 500))}": data.draw(st.binary(min_size=1, max_size=12))
        for _ in range(data.draw(st.integers(0, 4)))
    }
    size = data.draw(st.integers(0, 1200))
    tar = header(flag=flag, size=b"%011o\0" % size, **fields) + data.draw(st.binary(max_size=2000)) + header()
    with contextlib.suppress(InvalidImageError):
        read_all(tar, 512)


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=120),
            st.binary(max_size=1500),
            st.integers(0, 0o7777),
            st.integers(0, 2**32 - 2),
            st.floats(-1e9, 1e10),
        ),
        max_size=4,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_tarfile_writes_is_read_back(wanted: list[tuple[str, bytes, int, int, float]], format: int) -> None:
    members = [
        (member(f"d/{name}", mode=mode, uid=owner, mtime=int(mtime)), content)
        for name, content, mode, owner, mtime in wanted
    ]
    got = [
        (entry.name.decode(), content, entry.mode, entry.uid, entry.mtime_ns)
        for entry, content in read_all(tar_of(members, format), 333)
    ]
    assert got == [
        (f"d/{name}", content, mode, owner, int(mtime) * 10**9) for name, content, mode, owner, mtime in wanted
    ]


def test_python_reads_the_same_from_a_tar_of_this_directory() -> None:
    """The standard library's reader serves as an independent reference."""
    here = os.path.dirname(__file__)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(here, "tests")
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        expected = [(info.name.encode(), info.size, info.mode) for info in tar]
    got = [(entry.name.rstrip(b"/"), entry.size, entry.mode) for entry, _ in read_all(buffer.getvalue())]
    assert got == expected
