"""A web server of files on loopback, which misbehaves on request; it stops with its ``with`` block.

    with FileServer(directory) as server:
        ...
        assert server.requests[0] == ("/layout/index.json", None)

Attributes that change what it does:
    ranges: whether parts are sent; without them, a request for a part is answered with the whole file.
    page: what is sent with status 200 in place of a missing file; None for 404.
    cut: for a path, how many bytes of each body are sent before the connection is closed; each is used once.
    user: ``user:password`` that is asked for.
    away: URL that requests for blobs are redirected to.
    changes: for a path, the bytes that are sent in place of the file's.
"""

from __future__ import annotations

import base64
import re
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.serving import Serving


class FileServer(Serving):
    """See the module's docstring."""

    def __init__(self, directory: Path, *, context: ssl.SSLContext | None = None) -> None:
        self.ranges = True
        self.page: bytes | None = None
        self.cut: dict[str, list[int]] = {}
        self.user: str | None = None
        self.away: str | None = None
        self.changes: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.authorizations: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append((self.path, self.headers["Range"]))
                server.authorizations.append(self.headers["Authorization"])
                if server.user is not None:
                    wanted = "Basic " + base64.b64encode(server.user.encode()).decode()
                    if self.headers["Authorization"] != wanted:
                        self._send(401, b"", {"WWW-Authenticate": 'Basic realm="files"'})
                        return
                if server.away is not None and "/blobs/" in self.path:
                    self._send(302, b"", {"Location": server.away + self.path})
                    return
                path = directory / self.path.lstrip("/")
                if self.path in server.changes:
                    self._send_file(server.changes[self.path])
                elif path.is_file():
                    self._send_file(path.read_bytes())
                elif server.page is not None:
                    self._send(200, server.page, {"Content-Type": "text/html"})
                else:
                    self._send(404, b"<html>no such file</html>", {"Content-Type": "text/html"})

            def _send_file(self, content: bytes) -> None:
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
                if wanted is None or not server.ranges:
                    self._send(200, content, {})
                    return
                begin, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
                told = {"Content-Range": f"bytes {begin}-{min(last, len(content) - 1)}/{len(content)}"}
                self._send(206, content[begin : last + 1], told)

            def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                cuts = server.cut.get(self.path)
                if cuts:
                    self.wfile.write(body[: cuts.pop(0)])
                    self.close_connection = True
                    return
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = files = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        files.daemon_threads = True
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        if context is not None:
            files.socket = context.wrap_socket(files.socket, server_side=True)
            self.url = f"https://{self.host}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]
