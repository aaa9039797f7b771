"""The head of an answer: its status line and header lines, read here and not by http.client.

http.client ends the header block at the first line that it does not understand. It drops the lines after that one, and
without Content-Length the body seems to have no end. It also takes an interim answer (103 Early Hints) for the final
one, takes the end of the connection for the end of the header block, and refuses more than 100 headers.

Here each line is read, or the answer is refused. The lines that are read are those that Go's net/http reads, since most
clients of registries are written in Go.

Spec: RFC 9112 2.2, 4, 5 and 6.3; RFC 9110 15.2, "Informational 1xx".
"""

from __future__ import annotations

import io
import re
from http.client import BadStatusLine, HTTPMessage, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any

from ociexport.errors import quoted
from ociexport.registry.http.failures import MalformedAnswerError
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.numerals import number_in

# For all header lines of an answer and of the interim answers before it, and again for its trailers.
MAX_HEAD_BYTES = 1024 * 1024
# A server sends one or two. Each could be short, so the limit of bytes alone would allow very many.
MAX_INTERIM_ANSWERS = 100

# What has no end of a line for so long is no HTTP.
_MAX_STATUS_LINE_BYTES = 64 * 1024

_STATUS_LINE = re.compile(r"(HTTP/(?:1\.[0-9]+|0\.9))[ \t]+([1-9][0-9]{2})(?:[ \t]+(.*))?")
# After 101 the connection would speak another protocol: this is a final answer.
_SWITCHING_PROTOCOLS = 101
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BLANKS = " \t\r\n"
# These say where the body ends, and whether the connection stays open.
_FRAMING_NAMES = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection"})
# No sensible value is longer, and http.client refuses long lines.
_MAX_FRAMING_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class Head:
    """The head of the final answer; names and values are in latin-1, as http.client has them."""

    version: str
    status: int
    reason: str
    fields: list[tuple[str, str]]

    def message(self) -> HTTPMessage:
        """Return the headers as http.client and urllib3 expect them."""
        message = HTTPMessage()
        for name, value in self.fields:
            # For parsers; other ways refuse names beyond ASCII.
            message.set_raw(name, value)
        return message

    def framing(self) -> bytes:
        """Return the header lines from which http.client finds the end of the body, and a blank line."""
        first: dict[str, str] = {}
        for name, value in self.fields:
            if name.lower() in _FRAMING_NAMES:
                first.setdefault(name.lower(), value[:_MAX_FRAMING_CHARACTERS])
        lines = (f"{name}: {value}\r\n" for name, value in first.items())
        return "".join([*lines, "\r\n"]).encode("latin-1")


class CheckedResponse(HTTPResponse):
    """http.client's response, whose head is read by `read_head`.

    http.client calls `_read_status` for the answers to requests, which `begin` reads, and for those to CONNECT.
    """

    _stream: io.BufferedReader | None = None
    _head: Head | None = None

    def _read_status(self) -> tuple[str, int, str]:
        stream = self.fp
        self._head = read_head(stream)
        # What http.client reads next are header lines: it gets those that it understands.
        self._stream, self.fp = stream, io.BufferedReader(io.BytesIO(self._head.framing()))
        return self._head.version, self._head.status, self._head.reason

    def begin(self, *arguments: Any, **options: Any) -> None:
        """Read the head of the answer, after which the body can be read.

        Raises:
            MalformedAnswerError: the head can't be read, or is too long.
            IncompleteRead: the connection was closed within the head.
            RemoteDisconnected: it was closed before.
        """
        try:
            super().begin(*arguments, **options)
        finally:
            self._take_stream_back()
        if self._head is not None:
            self.headers = self.msg = self._head.message()

    def close(self) -> None:
        """Close the response, and with it the stream."""
        self._take_stream_back()
        super().close()

    def _take_stream_back(self) -> None:
        if self._stream is not None:
            self.fp, self._stream = self._stream, None

    def _read_and_discard_trailer(self) -> None:
        """Skip the trailers of a chunked body, of which http.client would read any number."""
        lines = _Lines(self.fp)
        while lines.read_or_end().strip(b"\r\n"):
            pass


class _Lines:
    """Reads the lines of a head, up to the limit of their size."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._left = MAX_HEAD_BYTES

    def read_or_end(self, max_bytes: int = MAX_HEAD_BYTES + 1) -> bytes:
        """Return the next line with its end, or its first ``max_bytes``; ``b""`` at the end of the connection.

        Raises:
            MalformedAnswerError: the lines are larger than the limit.
        """
        line = self._stream.readline(min(max_bytes, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise MalformedAnswerError(f"expected at most {MAX_HEAD_BYTES} bytes of headers, got more")
        return line

    def read(self) -> bytes:
        """Return the next line, with its end.

        Raises:
            IncompleteRead: the connection was closed within the line or before it.
            MalformedAnswerError: the lines are larger than the limit.
        """
        line = self.read_or_end()
        if not line.endswith(b"\n"):
            raise IncompleteRead(b"")
        return line


def read_head(stream: io.BufferedReader) -> Head:
    """Return the head of the final answer in ``stream``; interim answers before it are passed over.

    Raises:
        MalformedAnswerError: a line is no header, there is more than one Content-Length, or the limits are exceeded.
        BadStatusLine: this is not HTTP/1.
        IncompleteRead: the connection was closed within the head.
        RemoteDisconnected: it was closed before.
    """
    lines = _Lines(stream)
    for _ in range(MAX_INTERIM_ANSWERS + 1):
        version, status, reason = _read_status_line(lines)
        fields = _read_fields(lines)
        if status >= 200 or status == _SWITCHING_PROTOCOLS:
            return Head(version, status, reason, _with_one_length(fields))
    raise MalformedAnswerError(f"expected at most {MAX_INTERIM_ANSWERS} interim answers (1xx), got more")


def _read_status_line(lines: _Lines) -> tuple[str, int, str]:
    line = lines.read_or_end(_MAX_STATUS_LINE_BYTES)
    if not line:
        raise RemoteDisconnected("Remote end closed connection without response")
    text = line.decode("latin-1")
    is_whole = text.endswith("\n")
    if not is_whole and len(line) < _MAX_STATUS_LINE_BYTES and text[:7] == "HTTP/1."[: len(text)]:
        raise IncompleteRead(b"")
    matched = _STATUS_LINE.fullmatch(text.strip(_BLANKS))
    if matched is None or not is_whole:
        raise BadStatusLine(text)
    return matched[1], int(matched[2]), matched[3] or ""


def _read_fields(lines: _Lines) -> list[tuple[str, str]]:
    fields: list[tuple[str, list[str]]] = []
    while (line := lines.read()) not in (b"\r\n", b"\n"):
        text = line.decode("latin-1")
        if text[0] in " \t":
            if not fields:
                raise _malformed(text)
            # A value that goes on. All parts are joined at the end, since there may be very many.
            fields[-1][1].append(text.strip(_BLANKS))
            continue
        name, colon, value = text.partition(":")
        # Blanks before the colon belong to nothing (RFC 9112 5.1).
        name = name.rstrip(" \t")
        if not colon or _CONTROL_CHARACTER.search(name):
            raise _malformed(text)
        fields.append((name, [value.strip(_BLANKS)]))
    # Like Go, skip what has no name.
    return [(name, " ".join(filter(None, parts))) for name, parts in fields if name]


def _with_one_length(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return ``fields`` with at most one Content-Length, which is a number.

    Spec: RFC 9112 6.3: the same number repeated is that number, and Transfer-Encoding overrides it.
    """
    names = {name.lower() for name, _ in fields}
    if "content-length" not in names or "transfer-encoding" in names:
        return fields
    values = ", ".join(value for name, value in fields if name.lower() == "content-length")
    lengths = {length.strip() for length in values.split(",")}
    if len(lengths) > 1 or number_in(values.partition(",")[0].strip()) is None:
        raise MalformedAnswerError(f"expected one number in Content-Length, got {quoted(values)}")
    others = [(name, value) for name, value in fields if name.lower() != "content-length"]
    return [*others, ("Content-Length", lengths.pop())]


def _malformed(line: str) -> MalformedAnswerError:
    return MalformedAnswerError(f"expected a header 'Name: value', got {quoted(line.strip(_BLANKS))}")
