"""What a `FakeRegistry` receives and sends, byte by byte, and the faults that it makes on the way."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from tests.support.fake_registry import FakeRegistry

_CHUNK_BYTES = 64 * 1024
_ENDLESS_SECONDS = 0.01


@dataclass(frozen=True)
class Fault:
    """One way to answer wrongly; the rest of the answer is right.

    Args:
        status: replaces the right status; the body is then ``body`` or empty.
        headers: added, or replacing the right ones; None removes a header, a list repeats it.
        body: replaces the right body.
        change: returns a changed body; Content-Length matches it.
        cut_after: bytes of the body that are sent before the connection is closed in good order.
        reset_after: bytes of the body that are sent before the connection is reset; -1 resets before the headers.
        stall_after: bytes of the body that are sent before a pause of ``delay_seconds``; then the rest is sent.
        trickle_seconds: pause between the bytes of the body.
        delay_seconds: pause before the headers, unless ``stall_after`` is given.
        raw: replaces the whole answer; then the connection is closed.
        endless: sent after ``raw``, again and again, until the client disconnects.
    """

    status: int | None = None
    headers: Mapping[str, str | list[str] | None] = field(default_factory=dict)
    body: bytes | None = None
    change: Callable[[bytes], bytes] | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    stall_after: int | None = None
    trickle_seconds: float | None = None
    delay_seconds: float = 0
    raw: bytes | None = None
    endless: bytes = b""


@dataclass(frozen=True)
class Request:
    """A request as it arrived; the names of headers are in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    connection: int


@dataclass
class Answer:
    """The right answer, to which a `Fault` is applied."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    is_blob: bool = False


class WireServer(ThreadingHTTPServer):
    """The server of a `FakeRegistry`, which says what each request is answered with, and how wrongly."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        self.address_family = socket.AF_INET6 if ":" in registry.address else socket.AF_INET
        super().__init__((registry.address, 0), _Handler)

    def server_bind(self) -> None:
        """Bind without `HTTPServer`'s lookup of the host's name, which may wait for a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.registry.address, int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: clients that disconnect during a body are expected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: WireServer

    def setup(self) -> None:
        if self.server.registry.tls is not None:
            # Not in accept(): the TLS handshake of one client must not block the others.
            self.request.settimeout(self.timeout)
            self.request = self.server.registry.tls.wrap_socket(self.request, server_side=True)
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number = self.server.registry.note_connection(self.connection)

    def finish(self) -> None:
        super().finish()
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.close()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        uploads = self.server.registry.uploads
        uploads.url = self.server.registry.url
        lowered = {name.lower(): value for name, value in self.headers.items()}
        body = uploads.read_body(self.command, parts.path, lowered, self.rfile)
        if body is None:
            self._reset()
            return
        request = Request(
            method=self.command,
            path=parts.path,
            query=parse_qs(parts.query),
            headers=lowered,
            body=body,
            connection=self._number,
        )
        asked = time.monotonic()
        answer, fault = self.server.registry.take(request)
        if self.server.registry.round_trip_seconds:
            time.sleep(self.server.registry.round_trip_seconds)
            self.server.registry.round_trips.append((asked, time.monotonic()))
        self._send(answer, fault)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that http.server looks for

    def _send(self, answer: Answer, fault: Fault) -> None:
        if fault.stall_after is None:
            time.sleep(fault.delay_seconds)
        if fault.reset_after == -1:
            return self._reset()
        if fault.raw is not None:
            return self._send_raw(fault.raw, fault.endless)
        if fault.status is not None:
            answer = Answer(fault.status, b"")
        body = answer.body if fault.body is None else fault.body
        if fault.change is not None:
            body = fault.change(body)
        chunked = self.server.registry.chunked and answer.is_blob
        answer.headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
        wrong = {name.lower() for name in fault.headers}
        self.send_response(answer.status)
        for name, value in [
            *((n, v) for n, v in answer.headers.items() if n.lower() not in wrong),
            *fault.headers.items(),
        ]:
            for each in [value] if isinstance(value, str) else value or []:
                self.send_header(name, each)
        self.end_headers()
        if self.command == "HEAD":
            return None
        return self._send_body(body, fault, chunked=chunked)

    def _send_body(self, body: bytes, fault: Fault, *, chunked: bool) -> None:
        ends = [end for end in (fault.cut_after, fault.reset_after) if end is not None]
        end = min([len(body), *ends])
        sent = 0
        while sent < end:
            stop = min(end, sent + (_CHUNK_BYTES if fault.trickle_seconds is None else 1))
            time.sleep(fault.trickle_seconds or 0)
            if fault.stall_after is not None and sent <= fault.stall_after < stop:
                self._write(body[sent : fault.stall_after], chunked=chunked)
                sent = fault.stall_after
                time.sleep(fault.delay_seconds)
            self._write(body[sent:stop], chunked=chunked)
            sent = stop
        if fault.reset_after is not None:
            return self._reset()
        if fault.cut_after is not None or end < len(body):
            self.close_connection = True
            return None
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        return None

    def _write(self, part: bytes, *, chunked: bool) -> None:
        if part:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        if self.server.registry.bytes_per_second:
            time.sleep(len(part) / self.server.registry.bytes_per_second)

    def _send_raw(self, raw: bytes, endless: bytes) -> None:
        self.close_connection = True
        self.wfile.write(raw)
        with contextlib.suppress(OSError):
            while endless:
                self.wfile.write(endless)
                time.sleep(_ENDLESS_SECONDS)

    def _reset(self) -> None:
        self.close_connection = True
        # With a linger time of zero, close sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Closed behind the server's back; the server would send FIN first.
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
