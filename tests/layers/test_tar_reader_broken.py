"""tar.reader: broken and false headers are reported, and none can fill the memory."""

from __future__ import annotations

import pytest

from ociexport.errors import InvalidImageError, LimitExceededError
from tests.layers.test_tar_reader import header, read_all


@pytest.mark.parametrize(
    ("tar", "message"),
    [
        (header(size=b"00000000100\0"), "tar: expected data of an entry, got the end of the tar"),
        (header()[:300], "tar: expected a block of 512 bytes, got the end of the tar"),
        (
            header(size=b"9" + bytes(11)),
            "tar: header field size: expected an octal number, got '9" + r"\x00" * 11 + "'",
        ),
        (header(flag=b"M"), "tar: expected a known entry type, got 'M'"),
        (header(flag=b"x"), "tar: expected an entry after an extended header, got the end"),
        (
            header(size=b"\xff" * 12),
            "tar: 'a': size: expected 0 to 9223372036854775807, got -1",
        ),
        (
            header(uid=b"\x80" + b"\x7f" * 7),
            "tar: 'a': owner: expected ids from 0 to 4294967294, got 35887507618889599:0",
        ),
        (bytes(512) + header(), "tar: expected a second zero block at the end, got other bytes"),
    ],
)
def test_broken_tar_is_told(tar: bytes, message: str) -> None:
    records = bytes(1024) if message.startswith("tar: expected an entry after") else b""
    with pytest.raises(InvalidImageError) as caught:
        read_all(tar + records)
    assert str(caught.value) == message


def test_global_headers_hold_little_together() -> None:
    """Each entry with attributes of its own has a copy of the global ones."""

    def global_header(numbers: range, value: bytes = b"") -> bytes:
        records = b"".join(pax_record(b"SCHILY.xattr.user.%d" % number, value) for number in numbers)
        return header(flag=b"g", size=b"%011o\0" % len(records)) + records + bytes(-len(records) % 512)

    read_all(global_header(range(32)) + global_header(range(64)) + header() + bytes(1024))
    with pytest.raises(LimitExceededError) as caught:
        read_all(global_header(range(32)) + header() + global_header(range(32, 65)) + header() + bytes(1024))
    assert str(caught.value) == "tar: global headers: expected at most 64 attributes, got 65"
    large = [global_header(range(number, number + 1), b"x" * 100_000) + header() for number in range(11)]
    with pytest.raises(LimitExceededError) as caught:
        read_all(b"".join(large) + bytes(1024))
    assert str(caught.value) == "tar: global headers: expected at most 1048576 bytes, got 1100067"
    assert caught.value.hint == "if you trust the image, raise --max-header"


def pax_record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while length != len(key) + len(value) + 3 + len(str(length)):
        length = len(key) + len(value) + 3 + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def test_wrong_checksum_is_told() -> None:
    block = bytearray(header())
    block[0] ^= 1
    with pytest.raises(InvalidImageError) as caught:
        read_all(bytes(block) + bytes(1024))
    assert str(
        caught.value
    ) == f"tar: header checksum: expected {sum(header()) - sum(header()[148:156]) + 255}, got " + str(
        int(bytes(block)[148:154], 8)
    )


def test_signed_checksum_of_old_systems_is_taken() -> None:
    block = bytearray(header(name=b"\xe9\xe9"))
    block[148:156] = b"        "
    signed = sum(byte - 256 if byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % signed
    assert read_all(bytes(block) + bytes(1024))[0][0].name == b"\xe9\xe9"


def pax(data: bytes) -> bytes:
    padded = data + bytes(-len(data) % 512)
    return header(flag=b"x", size=b"%011o\0" % len(data)) + padded + header() + bytes(1024)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"garbage", "tar: PAX record: expected a decimal length and a space, got 'garbage'"),
        (
            b"99 path=a\n",
            "tar: PAX record: expected a record of that length that ends with a newline, got '99 path=a\\n'",
        ),
        (
            b"0 path=a\n",
            "tar: PAX record: expected a record of that length that ends with a newline, got '0 path=a\\n'",
        ),
        (b"7 path\n", "tar: PAX record: expected key=value, got 'path'"),
        (b"9 uid=-1\n", "tar: PAX record: expected a decimal number for 'uid', got '-1'"),
        (b"11 mtime=x\n", "tar: PAX record: expected a time in seconds for 'mtime', got 'x'"),
        (b"27 SCHILY.xattr.user.\0a=xy\n", "tar: PAX record: expected names of attributes without NUL, got '\\x00'"),
    ],
)
def test_broken_pax_record_is_told(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        read_all(pax(data))
    assert str(caught.value) == message


def test_large_extended_header_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitExceededError) as caught:
        read_all(header(flag=b"x", size=b"%011o\0" % (2 << 20)))
    assert str(caught.value) == "tar: extended header: expected at most 1048576 bytes, got 2097152"


def test_endless_row_of_extended_headers_is_refused() -> None:
    with pytest.raises(LimitExceededError):
        read_all(header(flag=b"L") * 100 + header() + bytes(1024))
