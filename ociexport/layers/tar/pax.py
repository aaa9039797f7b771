"""Parsing of PAX extended header records, which describe the next entry or all later ones.

Spec: POSIX.1-2017 pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files"; libarchive's tar(5).
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, TypedDict, cast
from urllib.parse import unquote_to_bytes

from ociexport.errors import InvalidImageError, quoted_path

_NANOSECONDS = 1_000_000_000
# 19 digits hold each time that the writer may write; the reader verifies the range.
_TIME_PATTERN = re.compile(rb"(-?)(\d{1,19})(?:\.(\d*))?")
_NUMBER_PATTERN = re.compile(rb"\d{1,19}")
_SCHILY_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_GNU_SPARSE = b"GNU.sparse."
_SPARSE_PAIR = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_EXPECTED_PAIR = "GNU.sparse.offset and GNU.sparse.numbytes in turn, each with one number"
# Keys that are also keys of `PaxRecords`.
_SIMPLE_KEYS = frozenset({b"path", b"linkpath", b"uid", b"gid", b"size", b"mtime", b"atime"})


if TYPE_CHECKING:

    class PaxRecords(TypedDict, total=False):
        """The relevant records, parsed; ``sparse`` has GNU's as raw text, with the pairs of format 0.0 joined."""

        path: bytes
        linkpath: bytes
        uid: int
        gid: int
        size: int
        mtime: int
        atime: int
        xattrs: dict[bytes, bytes]
        sparse: dict[bytes, bytes]

else:  # start-up: the class would compile each annotation
    PaxRecords = dict


def parse_pax_records(data: bytes, inherited: PaxRecords) -> PaxRecords:
    """Return the records in ``data`` merged over the ``inherited`` ones; records with other keys are ignored.

    A record with an empty value deletes an earlier one, except for attributes, whose values may be empty.

    Args:
        data: the data of an extended header.
        inherited: the records of the global headers so far.

    Raises:
        InvalidImageError: a record is not of the form ``length key=value\\n``, or a value has the wrong type.
    """
    records: PaxRecords = {**inherited}
    xattrs: dict[bytes, bytes] = {}
    sparse: dict[bytes, bytes] = {}
    sparse_pairs: list[tuple[bytes, bytes]] = []
    for key, value in _split_records(data):
        if key.startswith(_SCHILY_XATTR):
            xattrs[key.removeprefix(_SCHILY_XATTR)] = value
        elif key.startswith(_LIBARCHIVE_XATTR):
            # bsdtar writes both forms of an attribute. The plain form, which needs no decoding, takes precedence.
            xattrs.setdefault(unquote_to_bytes(key.removeprefix(_LIBARCHIVE_XATTR)), _decode_base64(key, value))
        elif key.startswith(_GNU_SPARSE):
            if key in _SPARSE_PAIR:
                sparse_pairs.append((key, value))
            else:
                sparse[key] = value
        elif not value:
            if key in _SIMPLE_KEYS:
                cast("dict[str, object]", records).pop(key.decode(), None)
        elif key == b"path":
            records["path"] = value
        elif key == b"linkpath":
            records["linkpath"] = value
        elif key == b"uid":
            records["uid"] = parse_decimal(key, value)
        elif key == b"gid":
            records["gid"] = parse_decimal(key, value)
        elif key == b"size":
            records["size"] = parse_decimal(key, value)
        elif key == b"mtime":
            records["mtime"] = _parse_time(key, value)
        elif key == b"atime":
            records["atime"] = _parse_time(key, value)
    if any(b"\0" in name for name in xattrs):
        raise _broken(b"\0", "names of attributes without NUL")
    if xattrs:
        records["xattrs"] = {**inherited.get("xattrs", {}), **xattrs}
    if sparse_pairs:
        sparse[b"GNU.sparse.map"] = _join_sparse_pairs(sparse_pairs)
    if sparse:
        records["sparse"] = sparse
    return records


def _split_records(data: bytes) -> list[tuple[bytes, bytes]]:
    pairs = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        if space < 0 or not _NUMBER_PATTERN.fullmatch(data, position, space):
            raise _broken(data[position : position + 20], "a decimal length and a space")
        end = position + int(data[position:space])
        if end > len(data) or end <= space or data[end - 1] != 0x0A:
            raise _broken(data[position : position + 20], "a record of that length that ends with a newline")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise _broken(data[space + 1 : end - 1], "key=value")
        pairs.append((key, value))
        position = end
    return pairs


def _join_sparse_pairs(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """Return the map of sparse format 0.1 for the pairs of format 0.0, which repeats two keys for each segment."""
    for index, (key, value) in enumerate(pairs):
        if key != _SPARSE_PAIR[index % 2] or b"," in value:
            raise _broken(key + b"=" + value, _EXPECTED_PAIR)
    if len(pairs) % 2:
        raise _broken(b"=".join(pairs[-1]), _EXPECTED_PAIR)
    return b",".join(value for _, value in pairs)


def parse_decimal(key: bytes, value: bytes) -> int:
    """Return the number in a record's value.

    Raises:
        InvalidImageError: it is not a number.
    """
    if not _NUMBER_PATTERN.fullmatch(value):
        raise _broken(value, f"a decimal number for {quoted_path(key)}")
    return int(value)


def _parse_time(key: bytes, value: bytes) -> int:
    """Return a time in nanoseconds; further digits are rounded towards the past, as POSIX requires."""
    match = _TIME_PATTERN.fullmatch(value)
    if match is None:
        raise _broken(value, f"a time in seconds for {quoted_path(key)}")
    sign, seconds, fraction = match.groups(default=b"")
    nanoseconds = int(seconds) * _NANOSECONDS + int(fraction[:9].ljust(9, b"0"))
    if sign:
        return -nanoseconds - (1 if fraction[9:].strip(b"0") else 0)
    return nanoseconds


def _decode_base64(key: bytes, value: bytes) -> bytes:
    try:
        # libarchive omits the padding.
        import base64  # noqa: PLC0415 - start-up: few layers need it

        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise _broken(value, f"base64 for {quoted_path(key)}") from error


def _broken(got: bytes, expected: str) -> InvalidImageError:
    return InvalidImageError(f"tar: PAX record: expected {expected}, got {quoted_path(got)}")
