"""LayoutServer: a read-only registry that serves an OCI layout, for example to docker and podman behind an air gap.

Spec: distribution-spec 1.1, "Pull", "Content Discovery"; RFC 9110 13, "Conditional Requests", 14, "Range Requests".
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from ociexport.errors import (
    InvalidDigestError,
    InvalidReferenceError,
    NotFoundError,
    OciexportError,
    counted,
    quoted,
)
from ociexport.registry.catalog import AmbiguousNameError, LayoutCatalog
from ociexport.registry.conditions import identifying_headers, lists_tag, parse_range
from ociexport.registry.request_lines import RecordedLines, is_header_line
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.spec.numerals import number_up_to
from ociexport.storage.layout.layout import ImageLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

_KINDS = ("manifests", "blobs", "referrers", "tags")
# RFC 9110 5.5: a header's value. No value that we send needs more than ASCII, or more bytes.
_HEADER_VALUE_PATTERN = re.compile(r"[!-~](?:[ -~]{0,8190}[!-~])?")
_MAX_LINE_BYTES = 64 * 1024
# When the server ends a connection, the client may still be sending. Closing the socket with unread bytes would reset
# the connection and lose the answer, so up to this many bytes are read first, for at most this long.
_MAX_LINGER_BYTES = 1024 * 1024
_LINGER_SECONDS = 2
# distribution's default page size; a client may ask for less.
_MAX_PAGE = 1000
_IDLE_SECONDS = 60


class LayoutServer(ThreadingHTTPServer):
    """Serves a layout until `shutdown`; one thread for each connection.

    Args:
        layout: the layout to serve.
        host: address to listen on.
        port: 0 lets the kernel choose one.

    Raises:
        NotFoundError, InvalidImageError: there is no layout, or it is broken.
        OSError: the address is in use, or does not belong to this machine.
    """

    daemon_threads = True
    # Many pulls may begin at the same time.
    request_queue_size = 128

    def __init__(self, layout: ImageLayout, host: str, port: int) -> None:
        self.catalog = LayoutCatalog(layout)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            error.filename = f"{host}:{port}"
            raise

    @property
    def address(self) -> str:
        """``host:port``, as in a reference to an image on this server."""
        host, port = self.server_address[:2]
        name = host if isinstance(host, str) else bytes(host).decode()
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: a client that disconnects early is not an error of the server."""


class _ApiError(OciexportError):
    """An error to send to the client.

    Args:
        status: HTTP status.
        code: error code of the distribution-spec.
        message: text for users.
        headers: further headers that the status requires.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}


def _not_found(code: str, message: str, error: NotFoundError) -> _ApiError:
    """Return the error for what is not served; a name of several images is told with its reason."""
    return _ApiError(404, code, str(error) if isinstance(error, AmbiguousNameError) else message)


def _read_only() -> _ApiError:
    """Return the error for every method but GET and HEAD."""
    return _ApiError(405, "UNSUPPORTED", "this registry is read-only", {"Allow": "GET, HEAD"})


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    # Headers and a small body are sent in one packet, without waiting for an acknowledgement.
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True
    server: LayoutServer
    raw_requestline: bytes
    # Whether the client may still be sending when the connection ends.
    _is_lingering = False

    def version_string(self) -> str:
        """Return the Server header: no version, which would only tell an attacker what to try."""
        return "ociexport"

    def parse_request(self) -> bool:
        """Read the head of a request; returns False if it was refused, after which the connection ends.

        Spec: RFC 9112 2.2, 3.2, 5, 6.3.
        """
        self.command, self.requestline = "", ""
        if not self.raw_requestline.strip():
            # One empty line before a request is ignored.
            self.raw_requestline = self.rfile.readline(_MAX_LINE_BYTES + 1)
        try:
            if not self.raw_requestline.strip():
                raise _ApiError(400, "UNSUPPORTED", "expected a request, got an empty line")
            if len(self.raw_requestline) > _MAX_LINE_BYTES:
                raise _ApiError(414, "UNSUPPORTED", f"expected a path of at most {_MAX_LINE_BYTES} bytes")
            if len(self.raw_requestline.split()) == 2:
                raise _ApiError(400, "UNSUPPORTED", "expected HTTP/1.0 or HTTP/1.1, got no version")
            rfile = self.rfile
            self.rfile = head = RecordedLines(rfile)
            try:
                if not super().parse_request():
                    return False
            finally:
                self.rfile = rfile
            self._verify_head(head.lines)
        except _ApiError as error:
            self._refuse(error)
            return False
        return True

    def handle_expect_100(self) -> bool:
        """Send no 100 Continue: the client gets the final answer, and need not send the body."""
        return True

    def _verify_head(self, lines: list[bytes]) -> None:
        """Return if every HTTP parser finds the same body after this head.

        Raises:
            _ApiError: parsers may disagree about where the body ends.
        """
        if not all(is_header_line(line) for line in lines):
            raise _ApiError(400, "UNSUPPORTED", "expected headers of one line each, got something else")
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1 or (not hosts and self.request_version == "HTTP/1.1"):
            raise _ApiError(400, "UNSUPPORTED", f"expected one Host header, got {len(hosts)}")
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) > 1 or not all(length.isascii() and length.isdigit() for length in lengths):
            raise _ApiError(400, "SIZE_INVALID", "Content-Length: expected one number")
        if "Transfer-Encoding" in self.headers and lengths:
            raise _ApiError(400, "SIZE_INVALID", "expected Content-Length or Transfer-Encoding, got both")

    def _end_before_body(self) -> None:
        """End the connection after the answer, if the request has a body: the server does not read it."""
        if "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0").strip("0"):
            self._end_connection()

    def _end_connection(self) -> None:
        self.close_connection = True
        self._is_lingering = True

    def finish(self) -> None:
        """Send the buffered answer, and give the client time to read it before the connection is closed."""
        with suppress(OSError):
            if self._is_lingering:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(_LINGER_SECONDS)
                end, left = time.monotonic() + _LINGER_SECONDS, _MAX_LINGER_BYTES
                while left > 0 and time.monotonic() < end and (chunk := self.connection.recv(64 * 1024)):
                    left -= len(chunk)
        super().finish()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error of http.server's in the form of the distribution-spec."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._refuse(_read_only())
        else:
            self._refuse(_ApiError(code, "UNSUPPORTED", message or HTTPStatus(code).phrase))

    def _refuse(self, error: _ApiError) -> None:
        """Answer an invalid request and end the connection: where the next request begins is unknown."""
        # Until http.server has parsed a version, it sends no headers.
        self.request_version = self.protocol_version
        self._end_connection()
        self._send_error(error)

    def do_GET(self) -> None:
        """Answer a GET or HEAD."""
        try:
            self._end_before_body()
            self._answer()
        except _ApiError as error:
            self._send_error(error)
        except (InvalidDigestError, InvalidReferenceError) as error:
            self._send_error(_ApiError(400, "DIGEST_INVALID", str(error)))
        except (OciexportError, OSError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self._send_error(_ApiError(500, "UNKNOWN", f"the layout is broken: {type(error).__name__}"))

    do_HEAD = do_GET  # noqa: N815 - http.server finds them by these names

    def do_POST(self) -> None:
        """Refuse the request: the registry is read-only."""
        # The body is not read, so the connection can't be used again.
        self._end_connection()
        self._send_error(_read_only())

    do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 - as above

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing; the command line prints what is served."""

    def _answer(self) -> None:
        try:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            # Split before decoding: an encoded slash is part of a name or selector, and makes no other endpoint.
            path = [unquote(part, errors="strict") for part in url.path.split("/")]
        except ValueError as error:
            raise _ApiError(400, "UNSUPPORTED", f"expected a path, got {quoted(self.path)}") from error
        if path in (["", "v2", ""], ["", "v2"]):
            self._send(200, b"{}", "application/json")
        elif path == ["", "v2", "_catalog"]:
            self._send_page("repositories", self.server.catalog.repositories(), {}, query, "/v2/_catalog")
        elif len(path) >= 5 and path[:2] == ["", "v2"] and path[-2] in _KINDS and all(path[2:]):
            self._answer_repository("/".join(path[2:-2]), path[-2], path[-1], query)
        else:
            raise _ApiError(404, "UNSUPPORTED", "no such endpoint")

    def _answer_repository(self, name: str, kind: str, selector: str, query: dict[str, list[str]]) -> None:
        catalog = self.server.catalog
        # containerd tells a mirror by this parameter which registry it stands for.
        registry = query.get("ns", [None])[0]
        if kind == "tags":
            if selector != "list":
                raise _ApiError(404, "UNSUPPORTED", "no such endpoint")
            try:
                tags = catalog.tags(name, registry)
            except NotFoundError as error:
                raise _not_found("NAME_UNKNOWN", "repository name not known to registry", error) from error
            self._send_page("tags", tags, {"name": name}, query, f"/v2/{quote(name)}/tags/list")
        elif kind == "manifests":
            self._send_manifest(name, selector, registry)
        elif kind == "blobs":
            self._send_blob(name, Digest.parse(selector), registry)
        else:
            artifact_type = query.get("artifactType", [None])[0]
            found = catalog.referrers(Digest.parse(selector), artifact_type)
            body = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": found}
            headers = {"OCI-Filters-Applied": "artifactType"} if artifact_type else {}
            self._send(200, json.dumps(body).encode(), mediatypes.OCI_INDEX, headers)

    def _send_manifest(self, name: str, selector: str, registry: str | None) -> None:
        try:
            descriptor = self.server.catalog.find_manifest(name, selector, registry)
            raw = self.server.catalog.read_manifest(descriptor)
        except NotFoundError as error:
            raise _not_found("MANIFEST_UNKNOWN", "manifest unknown to registry", error) from error
        headers = identifying_headers(descriptor.digest)
        if self._is_unchanged(headers["ETag"]):
            self._send_not_modified(headers)
        else:
            self._send(200, raw, descriptor.media_type or mediatypes.OCI_MANIFEST, headers)

    def _send_blob(self, name: str, digest: Digest, registry: str | None) -> None:
        try:
            file = self.server.catalog.open_blob(name, digest, registry)
        except NotFoundError as error:
            raise _ApiError(404, "BLOB_UNKNOWN", "blob unknown to registry") from error
        with file:
            size = os.fstat(file.fileno()).st_size
            headers = {**identifying_headers(digest), "Accept-Ranges": "bytes"}
            if self._is_unchanged(headers["ETag"]):
                self._send_not_modified(headers)
                return
            requested = parse_range(self._range_for(headers["ETag"]), size)
            start, end = requested or (0, size)
            if requested is not None:
                if start >= end:
                    unsatisfied = {"Content-Range": f"bytes */{size}"}
                    raise _ApiError(
                        416, "SIZE_INVALID", f"expected a range within {counted(size, 'byte')}", unsatisfied
                    )
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._send_head(200 if requested is None else 206, "application/octet-stream", end - start, headers)
            if self.command != "HEAD" and end > start:
                self.wfile.flush()
                self.connection.sendfile(file, start, end - start)

    def _is_unchanged(self, entity_tag: str) -> bool:
        """Whether the client already has the content that ``entity_tag`` identifies.

        Raises:
            _ApiError: the client wants only other content.

        Spec: RFC 9110 13.1.1, "If-Match", 13.1.2, "If-None-Match".
        """
        expected = self.headers.get_all("If-Match")
        if expected is not None and not lists_tag(expected, entity_tag, is_weak_equal=False):
            raise _ApiError(412, "UNSUPPORTED", f"If-Match: the content is {entity_tag}")
        return lists_tag(self.headers.get_all("If-None-Match", []), entity_tag, is_weak_equal=True)

    def _range_for(self, entity_tag: str) -> str | None:
        """Return the Range header if it applies: to a GET, of the content from which the client has the other part.

        Spec: RFC 9110 13.1.5, "If-Range", 14.2, "Range".
        """
        if self.command != "GET" or self.headers.get("If-Range", entity_tag).strip() != entity_tag:
            return None
        return self.headers.get("Range")

    def _send_not_modified(self, headers: dict[str, str]) -> None:
        self._send_head(304, None, None, headers)
        self.wfile.flush()

    def _send_page(
        self, member: str, items: Sequence[str], body: dict[str, object], query: dict[str, list[str]], path: str
    ) -> None:
        """Answer with the requested number of ``items`` after the one named ``last``, and a link to the rest."""
        last = query.get("last", [""])[0]
        count = query.get("n", [str(_MAX_PAGE)])[0]
        limit = number_up_to(count, _MAX_PAGE)
        if limit is None:
            raise _ApiError(400, "PAGINATION_NUMBER_INVALID", "n: expected a number")
        rest = [item for item in items if item > last]
        page = rest[:limit]
        headers = {}
        if page and len(rest) > limit:
            more = [("n", str(limit)), ("last", page[-1]), *(("ns", registry) for registry in query.get("ns", [])[:1])]
            headers["Link"] = f'<{path}?{urlencode(more)}>; rel="next"'
        self._send(200, json.dumps({**body, member: page}).encode(), "application/json", headers)

    def _send_error(self, error: _ApiError) -> None:
        body = json.dumps({"errors": [{"code": error.code, "message": str(error), "detail": None}]})
        self._send(error.status, body.encode(), "application/json", error.headers)

    def _send(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self._send_head(status, content_type, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _send_head(self, status: int, content_type: str | None, length: int | None, headers: dict[str, str]) -> None:
        """Send the head of an answer; without a type and a length if it has no content, not even an empty one.

        Raises:
            _ApiError: a value from the layout is not valid in a header; nothing was sent.
        """
        if content_type is not None:
            headers = {"Content-Type": content_type, **headers}
        for name, value in headers.items():
            if not _HEADER_VALUE_PATTERN.fullmatch(value):
                raise _ApiError(500, "UNKNOWN", f"the layout is broken: {name}: not a valid header: {quoted(value)}")
        self.send_response(status)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
