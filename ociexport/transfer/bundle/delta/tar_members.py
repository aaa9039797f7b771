"""Where the members of a tar file are: each header with its extended headers, the content, and the padding.

Only what is compared between two tars is read. The bytes that no member covers, and a tar that has no valid headers at
all, are simply new bytes for a recipe; so nothing here can fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ociexport.errors import InvalidImageError
from ociexport.layers.tar.header_fields import parse_number, parse_prefix, verify_checksum
from ociexport.layers.tar.reader import BLOCK_BYTES
from ociexport.spec.named_tuple import NamedTuple

_EXTENDED_FLAGS = b"xgLK"
_DATALESS_FLAGS = b"123456"
_NUL_BLOCK = bytes(BLOCK_BYTES)
_MAX_EXTENDED_BYTES = 64 * 1024
# Headers are read with some of the bytes behind them: most files are small, so that is most often the next header.
_READ_BYTES = 64 * 1024


class TarMember(NamedTuple):
    """One member of a tar file; all numbers are offsets in the file.

    Args:
        name: as in the header, or in the PAX or GNU header before it.
        start: of the first of its headers.
        content: of its content.
        end_of_content: where the content ends and the padding begins.
        end: where the next member begins.
    """

    name: bytes
    start: int
    content: int
    end_of_content: int
    end: int

    @property
    def size(self) -> int:
        """The length of the content in bytes."""
        return self.end_of_content - self.content


def tar_members(fd: int) -> Iterator[TarMember]:
    """Yield the members of the tar in the file ``fd``, up to the first block that is no header."""
    size = os.fstat(fd).st_size
    reader = _Window(fd)
    position = start = 0
    name = b""
    while position + BLOCK_BYTES <= size:
        header = reader.read(position, BLOCK_BYTES)
        if header == _NUL_BLOCK:
            return
        try:
            verify_checksum(header)
            length = parse_number(header[124:136], "size")
        except InvalidImageError:
            return
        flag = header[156:157]
        content = position + BLOCK_BYTES
        if flag in _DATALESS_FLAGS or length < 0:
            length = 0
        end = content + (length + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES
        if end > size:
            return
        if flag and flag in _EXTENDED_FLAGS:
            if length <= _MAX_EXTENDED_BYTES:
                name = _extended_name(flag, reader.read(content, length)) or name
        else:
            own = parse_prefix(header) + header[:100].rstrip(b"\0")
            yield TarMember(name or own, start, content, content + length, end)
            start, name = end, b""
        position = end


def _extended_name(flag: bytes, data: bytes) -> bytes:
    """Return the name that a PAX or GNU header gives to the next member; empty if it gives none."""
    if flag == b"L":
        return data.rstrip(b"\0")
    if flag == b"x":
        begin = data.find(b" path=")
        if begin >= 0:
            return data[begin + 6 :].partition(b"\n")[0]
    return b""


class _Window:
    """Reads small pieces of a file, mostly one after another."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._start = 0
        self._data = b""

    def read(self, offset: int, count: int) -> bytes:
        begin = offset - self._start
        if begin < 0 or begin + count > len(self._data):
            self._data, self._start, begin = os.pread(self._fd, max(count, _READ_BYTES), offset), offset, 0
        return self._data[begin : begin + count]
