"""Reads a layer's tar, a stream of chunks, as typed entries: v7, ustar, GNU and PAX headers.

The standard library's reader is not used: it keeps every member in memory, supports neither xattrs nor nanoseconds,
and takes more time than the rest of unpacking together. For any input, the only error raised is `InvalidImageError`.

Spec: POSIX.1-2017 pax, "pax Interchange Format", "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

This is a long file, since the headers of an entry, its data and what is left of a chunk are one state.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from enum import Enum

from ociexport.errors import InvalidImageError, LimitExceededError, counted, quoted_path
from ociexport.layers.tar.header_fields import (
    parse_mode_and_owner,
    parse_mtime,
    parse_number,
    parse_prefix,
    verify_checksum,
    verify_times,
)
from ociexport.layers.tar.pax import PaxRecords, parse_pax_records
from ociexport.layers.tar.sparse import (
    SparseSegments,
    parse_gnu_sparse_headers,
    parse_pax_sparse,
    verify_sparse_segments,
)
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.numerals import MAX_SIZE

BLOCK_BYTES = 512
_ZERO_BLOCK = bytes(BLOCK_BYTES)

# PAX records and GNU long names are read into memory; Go's archive/tar has the same limit.
MAX_EXTENDED_HEADER_BYTES = 1024 * 1024
# Without a limit, a chain of extended headers with no entry after them would be read forever.
_MAX_EXTENDED_HEADERS_PER_ENTRY = 16
# No known program writes global attributes, and few files have more than a few attributes.
_MAX_GLOBAL_XATTRS = 64
# The largest id that the kernel accepts; a header can hold 95 bits.
_MAX_ID = 2**32 - 2


class EntryType(Enum):
    """The kind of file that an entry makes."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "fifo"


# The formats of stat(2); a hard link has none of its own, but that of its target.
FILE_FORMATS = {
    EntryType.FILE: stat.S_IFREG,
    EntryType.DIRECTORY: stat.S_IFDIR,
    EntryType.SYMLINK: stat.S_IFLNK,
    EntryType.CHARACTER_DEVICE: stat.S_IFCHR,
    EntryType.BLOCK_DEVICE: stat.S_IFBLK,
    EntryType.FIFO: stat.S_IFIFO,
}
DEVICE_TYPES = frozenset({EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE})
# The largest numbers that Linux's dev_t holds.
_MAX_DEVICE_MAJOR, _MAX_DEVICE_MINOR = 2**12 - 1, 2**20 - 1
# By the header's type flag. GNU's "D" is a directory with a list of names as its data. "7" is a contiguous file, which
# POSIX says to treat as a regular file.
_ENTRY_TYPES = {
    b"0": EntryType.FILE,
    b"\0": EntryType.FILE,
    b"7": EntryType.FILE,
    b"S": EntryType.FILE,
    b"1": EntryType.HARD_LINK,
    b"2": EntryType.SYMLINK,
    b"3": EntryType.CHARACTER_DEVICE,
    b"4": EntryType.BLOCK_DEVICE,
    b"5": EntryType.DIRECTORY,
    b"D": EntryType.DIRECTORY,
    b"6": EntryType.FIFO,
}
_DEVICE_FLAGS = frozenset({b"3", b"4"})
# These have no data, even if their size is not 0. Tar programs disagree; Go, which writes most layers, reads it so.
_DATALESS_FLAGS = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})

# Name; mode, uid and gid; size; mtime; link name; first byte of the prefix.
_HEADER = struct.Struct("100s 24s 12s 12s 9x 100s 88x 1s 166x")


class Entry(NamedTuple):
    """One file, directory, link or device of a layer.

    Args:
        type: the kind of file.
        name: any bytes, as in the tar; `paths.parse_image_path` turns it into a path.
        link_name: the target of a link, as in the tar.
        mode: permission bits, setuid, setgid and sticky.
        uid: numeric owner; names are ignored, since only the image's own passwd file could resolve them.
        gid: numeric group.
        size: bytes of the file, holes included.
        mtime_ns: nanoseconds since 1970, may be negative.
        atime_ns: time of the last access, in the same unit; None if the tar does not contain it.
        xattrs: extended attributes by name.
        device: major and minor number.
        segments: the (offset, bytes) segments of a sparse file; None for a file without holes.
    """

    type: EntryType
    name: bytes
    link_name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    atime_ns: int | None
    xattrs: dict[bytes, bytes] | None
    device: tuple[int, int]
    segments: SparseSegments | None


def verify_device(entry: Entry) -> None:
    """Return if the numbers of a device fit Linux's dev_t.

    Raises:
        InvalidImageError: they do not fit.
    """
    major, minor = entry.device
    if not (0 <= major <= _MAX_DEVICE_MAJOR and 0 <= minor <= _MAX_DEVICE_MINOR):
        raise InvalidImageError(f"device: expected numbers that Linux supports, got {major}:{minor}")


# Describes a directory that is only part of others' paths; fixed values, so that an image always gives the same tree.
IMPLIED_DIRECTORY = Entry(EntryType.DIRECTORY, b"", b"", 0o755, 0, 0, 0, 0, None, None, (0, 0), None)


class TarReader:
    """Reads entries from the chunks of a tar, each once and in order.

    Args:
        chunks: the tar; `drain` reads the rest.
        max_extended_header_bytes: a larger PAX or GNU extension is refused.
    """

    def __init__(self, chunks: Iterator[bytes], *, max_extended_header_bytes: int = MAX_EXTENDED_HEADER_BYTES) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._view = memoryview(b"")
        self._position = 0
        # Bytes of the chunks before the current one.
        self._earlier_bytes = 0
        self._max_extended_header_bytes = max_extended_header_bytes
        # Unread bytes of the current entry's data, and of the padding after it.
        self._data_left = 0
        self._padding = 0
        self._global_records: PaxRecords = {}

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries up to the end marker or the end of the chunks; unread data is skipped."""
        while (entry := self._next_entry()) is not None:
            yield entry

    @property
    def data_offset(self) -> int:
        """The place in the tar of what is read next; before `read_data`, that of the current entry's stored data."""
        return self._earlier_bytes + self._position

    def read_data(self) -> Iterator[memoryview]:
        """Return the current entry's data as stored; for a sparse file, its segments one after another."""
        start, count = self._position, self._data_left
        if start + count > len(self._chunk):
            return self._read_pieces()
        self._position = start + count
        self._data_left = 0
        return iter((self._view[start : start + count],) if count else ())

    def _read_pieces(self) -> Iterator[memoryview]:
        while self._data_left:
            available = len(self._chunk) - self._position
            if not available:
                self._next_chunk("data")
                continue
            count = min(available, self._data_left)
            start = self._position
            self._position += count
            self._data_left -= count
            yield self._view[start : start + count]

    def drain(self) -> None:
        """Read to the end of the chunks, since the diff_id includes the bytes after the end marker."""
        self._take_chunk(b"")
        for _ in self._chunks:
            pass

    def _next_entry(self) -> Entry | None:
        block = self._next_header()
        if block is None:
            return None
        flag = block[156:157]
        if flag in _ENTRY_TYPES:  # most entries have no extended header
            return self._parse_entry(block, flag, self._global_records, None, None)
        local_records: bytes | None = None
        gnu_name = gnu_link_name = None
        entry_must_follow = False
        for _ in range(_MAX_EXTENDED_HEADERS_PER_ENTRY):
            size = _parse_size(block)
            entry_must_follow |= flag in b"xXLK"  # headers that describe the next entry
            if flag in (b"x", b"X"):
                # A second one replaces the first, as in Go and GNU tar.
                local_records = self._read_extension(size)
            elif flag == b"g":
                self._global_records = parse_pax_records(self._read_extension(size), self._global_records)
                self._global_records.pop("sparse", None)  # a map belongs to one file
                self._verify_global_xattrs()
            elif flag == b"L":
                gnu_name = self._read_extension(size).partition(b"\0")[0] or None
            elif flag == b"K":
                gnu_link_name = self._read_extension(size).partition(b"\0")[0] or None
            elif flag in (b"V", b"N"):  # a volume label, and long names in a format older than GNU tar 1.0
                self._begin_data(size)
            else:
                raise InvalidImageError(f"tar: expected a known entry type, got {quoted_path(flag)}")
            block = self._next_header()
            if block is None:
                if not entry_must_follow:
                    return None
                raise InvalidImageError("tar: expected an entry after an extended header, got the end")
            flag = block[156:157]
            if flag in _ENTRY_TYPES:
                records = self._global_records
                if local_records is not None:
                    records = parse_pax_records(local_records, records)
                return self._parse_entry(block, flag, records, gnu_name, gnu_link_name)
        raise LimitExceededError(
            f"tar: expected at most {_MAX_EXTENDED_HEADERS_PER_ENTRY} extended headers for one entry"
        )

    def _verify_global_xattrs(self) -> None:
        """Return if the global attributes, which entries inherit or copy, are few and small.

        Raises:
            LimitExceededError: they are not.
        """
        xattrs = self._global_records.get("xattrs", {})
        if len(xattrs) > _MAX_GLOBAL_XATTRS:
            raise LimitExceededError(
                f"tar: global headers: expected at most {_MAX_GLOBAL_XATTRS} attributes, got {len(xattrs)}"
            )
        self._verify_header_bytes("global headers", sum(len(name) + len(value) for name, value in xattrs.items()))

    def _verify_header_bytes(self, what: str, count: int) -> None:
        if count > self._max_extended_header_bytes:
            raise LimitExceededError(
                f"tar: {what}: expected at most {counted(self._max_extended_header_bytes, 'byte')}, got {count}",
                hint="if you trust the image, raise --max-header",
            )

    def _parse_entry(
        self, block: bytes, flag: bytes, records: PaxRecords, gnu_name: bytes | None, gnu_link_name: bytes | None
    ) -> Entry:
        name, mode_and_owner, size_field, mtime_field, link_name, first_of_prefix = _HEADER.unpack(block)
        kind = _ENTRY_TYPES[flag]
        name = name.partition(b"\0")[0]
        link_name = link_name.partition(b"\0")[0] if link_name[0] else b""
        if first_of_prefix != b"\0":
            name = parse_prefix(block) + name
        mode, uid, gid = parse_mode_and_owner(mode_and_owner)
        size, mtime_ns = parse_number(size_field, "size"), parse_mtime(mtime_field)
        xattrs = segments = atime_ns = None
        if records:
            name, link_name = records.get("path", name), records.get("linkpath", link_name)
            uid, gid = records.get("uid", uid), records.get("gid", gid)
            size = records.get("size", size)
            mtime_ns, atime_ns = records.get("mtime", mtime_ns), records.get("atime")
            xattrs = records.get("xattrs")
        # A GNU name takes precedence over a PAX one, as in Go, and so in docker, containerd and umoci.
        if gnu_name is not None:
            name = gnu_name
        if gnu_link_name is not None:
            link_name = gnu_link_name
        if flag == b"\0" and name[-1:] == b"/":
            # v7 tars have no type for directories, and mark them by the slash.
            kind, flag = EntryType.DIRECTORY, b"5"
        if flag in _DATALESS_FLAGS:
            size = 0
        if not 0 <= size <= MAX_SIZE:
            raise InvalidImageError(f"tar: {quoted_path(name)}: size: expected 0 to {MAX_SIZE}, got {size}")
        if not (0 <= uid <= _MAX_ID and 0 <= gid <= _MAX_ID):
            raise InvalidImageError(
                f"tar: {quoted_path(name)}: owner: expected ids from 0 to {_MAX_ID}, got {uid}:{gid}"
            )
        verify_times(name, mtime_ns, atime_ns)
        stored_bytes = size
        if flag == b"S":
            segments, size = parse_gnu_sparse_headers(block, self._read_block)
        self._begin_data(stored_bytes)
        if records and "sparse" in records and kind is EntryType.FILE and segments is None:
            sparse = records["sparse"]
            if (found := parse_pax_sparse(sparse, size, self._read_data_block)) is not None:
                segments, size = found
                name = sparse.get(b"GNU.sparse.name") or name
        if segments is not None:
            verify_sparse_segments(segments, size, self._data_left)
        device = (0, 0)
        if flag in _DEVICE_FLAGS:
            device = (parse_number(block[329:337], "devmajor"), parse_number(block[337:345], "devminor"))
        # Faster than Entry's own constructor, which is a Python function.
        values = (kind, name, link_name, mode, uid, gid, size, mtime_ns, atime_ns, xattrs, device, segments)
        return tuple.__new__(Entry, values)

    def _read_data_block(self) -> bytes:
        """Return the next block of the current entry's data."""
        if self._data_left < BLOCK_BYTES:
            raise InvalidImageError("tar: sparse map: expected another block, got the end of the entry")
        self._data_left -= BLOCK_BYTES
        return self._read_block()

    def _begin_data(self, size: int) -> None:
        self._data_left = size
        self._padding = -size % BLOCK_BYTES

    def _read_extension(self, size: int) -> bytes:
        """Return the data of an extended header."""
        self._verify_header_bytes("extended header", size)
        self._begin_data(size)
        return b"".join(self.read_data())

    def _next_header(self) -> bytes | None:
        """Return the next header block, its checksum verified; None at the end marker or the end of the chunks."""
        if self._data_left or self._padding:
            if self._data_left:
                self._skip(self._data_left)
                self._data_left = 0
            self._position += self._padding
            if self._position > len(self._chunk):
                self._follow_padding()
            self._padding = 0
        position = self._position
        block = self._chunk[position : position + BLOCK_BYTES]
        if len(block) == BLOCK_BYTES:
            self._position = position + BLOCK_BYTES
        else:
            block = self._read_block(end_allowed=True)
            if not block:
                return None
        if block == _ZERO_BLOCK:
            following = self._read_block(end_allowed=True)
            if following not in (b"", _ZERO_BLOCK):
                raise InvalidImageError("tar: expected a second zero block at the end, got other bytes")
            return None
        verify_checksum(block)
        return block

    def _read_block(self, *, end_allowed: bool = False) -> bytes:
        """Return the next 512 bytes; ``b""`` at the end of the chunks if ``end_allowed``."""
        parts: list[bytes] = []
        missing = BLOCK_BYTES
        while missing:
            part = self._chunk[self._position : self._position + missing]
            self._position += len(part)
            missing -= len(part)
            parts.append(part)
            if missing and not self._try_next_chunk():
                if end_allowed and missing == BLOCK_BYTES:
                    return b""
                raise InvalidImageError("tar: expected a block of 512 bytes, got the end of the tar")
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while count:
            step = min(count, len(self._chunk) - self._position)
            self._position += step
            count -= step
            if count:
                self._next_chunk("data")

    def _follow_padding(self) -> None:
        """Move on to the chunk after the padding, which may be missing at the end of a tar that was not closed."""
        while self._position > len(self._chunk):
            beyond = self._position - len(self._chunk)
            if not self._try_next_chunk():
                return
            self._position = beyond

    def _next_chunk(self, expected: str) -> None:
        if not self._try_next_chunk():
            raise InvalidImageError(f"tar: expected {expected} of an entry, got the end of the tar")

    def _try_next_chunk(self) -> bool:
        self._take_chunk(next(self._chunks, b""))
        return bool(self._chunk)

    def _take_chunk(self, chunk: bytes) -> None:
        self._earlier_bytes += len(self._chunk)
        self._chunk, self._view = chunk, memoryview(chunk)
        self._position = 0


def _parse_size(block: bytes) -> int:
    size = parse_number(block[124:136], "size")
    if size < 0:
        raise InvalidImageError(f"tar: header field size: expected 0 or more, got {size}")
    return size
