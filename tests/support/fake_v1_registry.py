"""A registry of Docker's first protocol on loopback, or an index of several, that misbehaves on request.

    with FakeV1Registry() as registry:
        image_id = registry.add_image("library/app", "1.0", [document, …], [layer, …])     # lowest first
        ...
        assert registry.paths == ["/v1/", "/v1/repositories/library/app/images", ...]

Constructor arguments, which can be changed later as attributes:

    endpoints=[other]         an index: names these FakeV1Registry as hosts of images, and issues a token for them
    token="…"                 the token it issues, and requires as an endpoint; without an index, any is accepted
    users={name: password}    accepts only these users
    checksums=True            sends X-Docker-Payload-Checksum with each JSON
    ranges=False              does not support Range requests
    cookies=True              a token is good for one request, and a cookie from then on, as with Docker Hub

Its faults: ``registry.answers[path] = (status, headers, body)`` replaces the right answer;
``registry.cut[path] = [100, 200]`` cuts the next answers after this many bytes; its Content-Range declares layers
``bytes_not_told`` shorter than they are.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.serving import Serving

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class V1Request:
    """A request as it arrived; the names of headers are in lower case."""

    path: str
    headers: Mapping[str, str] = field(repr=False)


class FakeV1Registry(Serving):
    """A registry or an index; see the module's docstring."""

    def __init__(
        self,
        *,
        endpoints: Sequence[FakeV1Registry] = (),
        token: str | None = None,
        users: Mapping[str, str] | None = None,
        checksums: bool = False,
        ranges: bool = True,
        cookies: bool = False,
    ) -> None:
        self.endpoints = list(endpoints)
        self.token = token
        self.users = dict(users or {})
        self.checksums = checksums
        self.ranges = ranges
        self.cookies = cookies
        self.bytes_not_told = 0
        self.tags: dict[str, dict[str, str]] = {}
        self.documents: dict[str, bytes] = {}
        self.layers: dict[str, bytes] = {}
        self.ancestries: dict[str, list[str]] = {}
        self.answers: dict[str, Answer] = {}
        self.cut: dict[str, list[int]] = {}
        self.requests: list[V1Request] = []
        self._used_tokens: set[str] = set()

    def add_image(self, repository: str, tag: str, documents: Sequence[dict[str, Any]], layers: Sequence[bytes]) -> str:
        """Store an image of these layers, lowest first; return its ID."""
        ids = [str(document["id"]) for document in documents]
        for number, (layer_id, document, layer) in enumerate(zip(ids, documents, layers, strict=True)):
            self.documents[layer_id] = json.dumps(document).encode()
            self.layers[layer_id] = layer
            self.ancestries[layer_id] = ids[number::-1]
        self.tags.setdefault(repository, {})[tag] = ids[-1]
        return ids[-1]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        """The requested paths, oldest first."""
        return [request.path for request in self.requests]

    def __enter__(self) -> Self:
        self._server = _Server(self)
        return super().__enter__()

    def answer(self, request: V1Request) -> Answer:
        """Return the right answer, or the one in ``answers``."""
        if request.path in self.answers:
            return self.answers[request.path]
        if request.path in ("/v1/", "/v1/_ping"):
            return 200, {"X-Docker-Registry-Version": "0.9.1"}, b"true"
        if images := re.fullmatch(r"/v1/repositories/(.+)/images", request.path):
            return self._answer_index(request, images[1])
        if refusal := self._refusal_of(request):
            return refusal
        status, headers, body = self._answer_registry(request)
        if self.cookies:
            headers["Set-Cookie"] = "session=let-in; Path=/; HttpOnly; Expires=Wed, 09 Jun 2100 10:18:14 GMT"
        return status, headers, body

    def _answer_index(self, request: V1Request, repository: str) -> Answer:
        if self.users and not self._is_user(request):
            return 401, {"WWW-Authenticate": "Token"}, b'{"error": "Unauthorized"}'
        holders = self.endpoints or [self]
        if not any(repository in holder.tags for holder in holders):
            return 404, {}, b'{"error": "Repository not found"}'
        headers = {}
        if self.endpoints:
            headers["X-Docker-Endpoints"] = ", ".join(endpoint.host for endpoint in self.endpoints)
        if self.token and request.headers.get("x-docker-token") == "true":
            headers["X-Docker-Token"] = self.token
        ids = sorted({layer_id for holder in holders for layer_id in holder.documents})
        return 200, headers, json.dumps([{"id": layer_id} for layer_id in ids]).encode()

    def _is_user(self, request: V1Request) -> bool:
        given = request.headers.get("authorization", "")
        name, _, password = base64.b64decode(given.removeprefix("Basic ")).decode().partition(":")
        return given.startswith("Basic ") and self.users.get(name) == password

    def _refusal_of(self, request: V1Request) -> Answer | None:
        if self.token is None:
            return None
        if self.cookies and "session=let-in" in request.headers.get("cookie", ""):
            return None
        given = request.headers.get("authorization", "")
        if given == f"Token {self.token}" and not (self.cookies and given in self._used_tokens):
            self._used_tokens.add(given)
            return None
        return 401, {"WWW-Authenticate": "Token"}, b'{"error": "Requires authorization"}'

    def _answer_registry(self, request: V1Request) -> Answer:
        if found := re.fullmatch(r"/v1/repositories/(.+)/tags(?:/([^/]+))?", request.path):
            tags = self.tags.get(found[1])
            told = tags if found[2] is None else (tags or {}).get(found[2])
            if told is None:
                return 404, {}, b'{"error": "Tag not found"}'
            return 200, {}, json.dumps(told).encode()
        found = re.fullmatch(r"/v1/images/(\w+)/(ancestry|json|layer)", request.path)
        if found is not None and found[1] in self.documents:
            return self._answer_image(request, found[1], found[2])
        return 404, {}, b'{"error": "Image not found"}'

    def _answer_image(self, request: V1Request, layer_id: str, what: str) -> Answer:
        document, layer = self.documents[layer_id], self.layers[layer_id]
        if what == "ancestry":
            return 200, {}, json.dumps(self.ancestries[layer_id]).encode()
        if what == "json":
            headers = {"X-Docker-Size": str(len(layer))}
            if self.checksums:
                checksum = hashlib.sha256(document + b"\n" + layer).hexdigest()
                headers["X-Docker-Payload-Checksum"] = f"sha256:{checksum}"
            return 200, headers, document
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not wanted or not self.ranges:
            return 200, {}, layer
        first, last = int(wanted[1]), min(int(wanted[2] or len(layer)), len(layer) - 1)
        told = len(layer) - self.bytes_not_told
        return 206, {"Content-Range": f"bytes {first}-{last}/{told}"}, layer[first : last + 1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: FakeV1Registry) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        request = V1Request(path, {name.lower(): value for name, value in self.headers.items()})
        self.server.owner.requests.append(request)
        status, headers, body = self.server.owner.answer(request)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        cuts = self.server.owner.cut.get(path, [])
        if cuts and request.headers.get("range") != "bytes=0-0":
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
