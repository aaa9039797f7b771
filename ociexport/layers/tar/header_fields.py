"""Numbers and checksums in tar headers.

Spec: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format", for base-256.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from ociexport.errors import InvalidImageError, quoted_path

# The kernel counts seconds in 64 bits; file systems clamp times that they can't store.
_MAX_TIME_NS = 2**62 * 1_000_000_000


def parse_number(field: bytes, name: str) -> int:
    """Return the number in a header field: octal text, or GNU's base-256 for numbers too large for octal.

    Raises:
        InvalidImageError: it is neither.
    """
    # The form that nearly all programs write: digits up to the last byte but one.
    digits = field[:-1]
    if digits.isdigit() and field[-1] in (0x00, 0x20):
        try:
            return int(digits, 8)
        except ValueError:  # an 8 or a 9
            pass
    if field[0] & 0x80:
        # The first bit marks the format, the second is the sign of a two's complement number.
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    # Some programs write NULs before the digits. Go skips them, so a size after NULs decides where the next header is.
    text = field.lstrip(b" \0").partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    # int() would also accept signs, underscores and other blanks, which no tar program writes.
    if text.strip(b"01234567"):
        raise InvalidImageError(f"tar: header field {name}: expected an octal number, got {quoted_path(field)}")
    return int(text, 8)


# Owners, modes, times and checksums repeat from entry to entry, and a lookup is much faster than parsing.
@lru_cache(maxsize=4096)
def parse_mode_and_owner(fields: bytes) -> tuple[int, int, int]:
    """Return permission bits, uid and gid from the three adjacent fields.

    Raises:
        InvalidImageError: one of them is not a number.
    """
    mode, uid, gid = fields[:8], fields[8:16], fields[16:]
    return parse_number(mode, "mode") & 0o7777, parse_number(uid, "uid"), parse_number(gid, "gid")


@lru_cache(maxsize=4096)
def parse_mtime(field: bytes) -> int:
    """Return the time in a header field, in nanoseconds.

    Raises:
        InvalidImageError: it is not a number.
    """
    return parse_number(field, "mtime") * 1_000_000_000


def parse_prefix(block: bytes) -> bytes:
    """Return the directory that a header stores apart from the name, with a slash; empty if there is none."""
    prefix = block[345:500]
    if block[257:263] == b"ustar\0":
        # star stores times in the last bytes of the prefix, and marks its headers with "tar" at the very end.
        prefix = prefix if block[508:] != b"tar\0" else prefix[:131]
        directory = prefix.partition(b"\0")[0]
    else:
        directory = _parse_prefix_of_old_go(prefix) if block[257:265] == b"ustar  \0" else b""
    return directory and directory + b"/"


def _parse_prefix_of_old_go(field: bytes) -> bytes:
    """Return the directory that stands in a GNU header where ustar has its prefix; empty if there is none.

    GNU tar stores atime and ctime at the start of this field. Go before 1.8, and so docker before 17.06, wrote ustar's
    prefix there if a number of the entry needed base 256. What does not parse as times and is ASCII is such a prefix.

    Spec: Go's archive/tar, `Reader.readHeader`; https://go.dev/issue/12594.
    """
    try:
        for time, name in ((field[:12], "atime"), (field[12:24], "ctime")):
            if time[0]:  # GNU tar leaves a time that it does not store empty
                parse_number(time, name)
    except InvalidImageError:
        prefix = field.partition(b"\0")[0]
        return prefix if prefix.isascii() else b""
    return b""


def verify_times(name: bytes, mtime_ns: int, atime_ns: int | None) -> None:
    """Return if the kernel can set the times of the entry ``name``.

    Raises:
        InvalidImageError: it can't.
    """
    for key, time_ns in (("mtime", mtime_ns), ("atime", atime_ns)):
        if time_ns is not None and not -_MAX_TIME_NS <= time_ns <= _MAX_TIME_NS:
            raise InvalidImageError(
                f"tar: {quoted_path(name)}: {key}: expected within 2**62 s of 1970, got {time_ns} ns"
            )


@lru_cache(maxsize=16384)
def _adler_of_block_with(field: bytes) -> int:
    """Return the lower half of the Adler-32 of any header for which the checksum in ``field`` is right."""
    return parse_number(field, "checksum") - 256 + (zlib.adler32(field) & 0xFFFF)


def verify_checksum(block: bytes) -> None:
    """Return if the header's checksum is right: the sum of its bytes, with the checksum field itself as spaces.

    The lower half of Adler-32 is one plus the sum of the bytes, modulo 65521. It is computed in C, fifty times faster
    than by `sum`. If it differs, the slow way decides, which also accepts the signed sums of old systems.

    Raises:
        InvalidImageError: neither sum is the stored one.
    """
    if zlib.adler32(block) & 0xFFFF == _adler_of_block_with(block[148:156]):
        return
    stored = parse_number(block[148:156], "checksum")
    others = block[:148] + block[156:]
    unsigned = sum(others) + 256
    signed = sum(byte - 256 if byte > 127 else byte for byte in others) + 256
    if stored not in (unsigned, signed):
        raise InvalidImageError(f"tar: header checksum: expected {unsigned}, got {stored}")
