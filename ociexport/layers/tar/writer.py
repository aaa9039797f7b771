"""Writes a tar: ustar headers, and PAX records for values that do not fit them. The same entries give the same bytes.

Spec: POSIX.1-2017 pax, "pax Interchange Format", "ustar Interchange Format".
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from urllib.parse import quote_from_bytes

from ociexport.errors import SizeMismatchError, counted, quoted_path
from ociexport.layers.tar.reader import BLOCK_BYTES, Entry, EntryType

_FLAGS = {
    EntryType.FILE: b"0",
    EntryType.HARD_LINK: b"1",
    EntryType.SYMLINK: b"2",
    EntryType.CHARACTER_DEVICE: b"3",
    EntryType.BLOCK_DEVICE: b"4",
    EntryType.DIRECTORY: b"5",
    EntryType.FIFO: b"6",
}
_NANOSECONDS = 1_000_000_000
_MAX_NAME_BYTES = 100
_MAX_OCTAL_7, _MAX_OCTAL_11 = 0o7777777, 0o77777777777


class TarWriter:
    """Writes entries one after another, each with exactly as much data as its header declares.

    A reader takes bytes beyond that for the next header, which no check has seen.

    Args:
        write: called with the bytes.
        max_mtime_ns: newer times are written as this one, for SOURCE_DATE_EPOCH; None to write all times unchanged.
    """

    def __init__(self, write: Callable[[bytes | memoryview], object], *, max_mtime_ns: int | None = None) -> None:
        self._write = write
        self._max_mtime_ns = max_mtime_ns

    def write_entry(self, entry: Entry) -> None:
        """Write an entry without data.

        Raises:
            SizeMismatchError: its size is not 0; nothing of it was written.
        """
        if entry.size:
            raise _wrong_size(entry, "none")
        self._write_header(entry)

    def write_file(self, entry: Entry, data: Iterable[bytes | memoryview]) -> None:
        """Write ``entry`` with its data.

        Raises:
            SizeMismatchError: the data has more or fewer bytes than ``entry`` declares. The tar is then incomplete, but
                nothing was written beyond the entry's size.
        """
        self._write_header(entry)
        written = 0
        for chunk in data:
            written += len(chunk)
            if written > entry.size:
                raise _wrong_size(entry, f"at least {written}")
            self._write(chunk)
        if written != entry.size:
            raise _wrong_size(entry, str(written))
        self._pad(written)

    def _write_header(self, entry: Entry) -> None:
        mtime_ns = entry.mtime_ns
        if self._max_mtime_ns is not None:
            mtime_ns = min(mtime_ns, self._max_mtime_ns)
        records = _records(entry, mtime_ns)
        if records:
            data = b"".join(sorted(records))
            self._write(_header(b"PaxHeaders/entry", b"x", size=len(data)))
            self._write(data)
            self._pad(len(data))
        self._write(
            _header(
                entry.name[:_MAX_NAME_BYTES],
                _FLAGS[entry.type],
                link_name=entry.link_name[:_MAX_NAME_BYTES],
                mode=entry.mode,
                uid=entry.uid,
                gid=entry.gid,
                size=entry.size,
                mtime=max(0, mtime_ns // _NANOSECONDS),
                device=entry.device,
            )
        )

    def _pad(self, size: int) -> None:
        """Fill the last block of ``size`` bytes of data."""
        self._write(bytes(-size % BLOCK_BYTES))

    def finish(self) -> None:
        """Write the end marker."""
        self._write(bytes(2 * BLOCK_BYTES))


def _wrong_size(entry: Entry, got: str) -> SizeMismatchError:
    return SizeMismatchError(
        f"tar to write: {quoted_path(entry.name)}: expected {counted(entry.size, 'byte')} of data, got {got}"
    )


def _records(entry: Entry, mtime_ns: int) -> list[bytes]:
    """Return PAX records for the values that do not fit the header."""
    records = []
    if len(entry.name) > _MAX_NAME_BYTES:
        records.append(_record(b"path", entry.name))
    if len(entry.link_name) > _MAX_NAME_BYTES:
        records.append(_record(b"linkpath", entry.link_name))
    if records and not _is_utf8(entry.name + entry.link_name):
        records.append(_record(b"hdrcharset", b"BINARY"))
    for key, number, limit in ((b"uid", entry.uid, _MAX_OCTAL_7), (b"gid", entry.gid, _MAX_OCTAL_7)):
        if number > limit:
            records.append(_record(key, b"%d" % number))
    if entry.size > _MAX_OCTAL_11:
        records.append(_record(b"size", b"%d" % entry.size))
    if mtime_ns % _NANOSECONDS or not 0 <= mtime_ns // _NANOSECONDS <= _MAX_OCTAL_11:
        records.append(_record(b"mtime", _decimal_time(mtime_ns)))
    records += [_xattr_record(name, value) for name, value in (entry.xattrs or {}).items()]
    return records


def _xattr_record(name: bytes, value: bytes) -> bytes:
    if b"=" not in name:
        return _record(b"SCHILY.xattr." + name, value)
    # A key ends at the first "=", which is escaped in libarchive's form.
    return _record(b"LIBARCHIVE.xattr." + quote_from_bytes(name, safe="").encode(), b64encode(value))


def _record(key: bytes, value: bytes) -> bytes:
    """Return ``length key=value\\n``, where the length includes its own digits."""
    body = b" %s=%s\n" % (key, value)
    length = len(body)
    while length != len(body) + len(b"%d" % length):
        length = len(body) + len(b"%d" % length)
    return b"%d%s" % (length, body)


def _decimal_time(time_ns: int) -> bytes:
    sign = b"-" if time_ns < 0 else b""
    seconds, nanoseconds = divmod(abs(time_ns), _NANOSECONDS)
    fraction = b".%09d" % nanoseconds if nanoseconds else b""
    return sign + b"%d" % seconds + fraction.rstrip(b"0")


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _header(
    name: bytes,
    flag: bytes,
    *,
    link_name: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    device: tuple[int, int] = (0, 0),
) -> bytes:
    fields = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % (uid if uid <= _MAX_OCTAL_7 else 0),
            b"%07o\0" % (gid if gid <= _MAX_OCTAL_7 else 0),
            b"%011o\0" % (size if size <= _MAX_OCTAL_11 else 0),
            b"%011o\0" % min(mtime, _MAX_OCTAL_11),
            b"        ",
            flag,
            link_name.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0" % device[0],
            b"%07o\0" % device[1],
            bytes(155 + 12),
        )
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]
