"""RecordedLines: the lines of a request's head as they were received, for `serve`."""

from __future__ import annotations

import re
from io import BufferedIOBase

# RFC 9112 5: a header, or the empty line after the last one.
_HEADER_LINE_PATTERN = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*)?\r?\n")


class RecordedLines(BufferedIOBase):
    """Reads lines and keeps them unchanged; http.server keeps only parsed headers, with continuation lines joined."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.lines: list[bytes] = []

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line."""
        line = self._file.readline(size)
        self.lines.append(line)
        return line


def is_header_line(line: bytes) -> bool:
    """Whether ``line`` is one whole header, or the empty line after the last one."""
    return _HEADER_LINE_PATTERN.fullmatch(line) is not None
