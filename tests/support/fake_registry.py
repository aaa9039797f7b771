"""A registry on loopback that misbehaves on request.

It is a `ThreadingHTTPServer` in its own thread, on a port that the kernel chooses; it stops with its ``with`` block.

    with FakeRegistry() as registry:
        layer = registry.add_blob(layer_bytes)                              # -> Digest
        registry.add_manifest("library/app", "1.0", raw, mediatypes.OCI_MANIFEST)
        reference = ImageReference.parse(f"{registry.host}/library/app:1.0")   # plain http on 127.0.0.1
        ...
        assert registry.paths("GET") == ["/v2/", "/v2/library/app/manifests/1.0", ...]

Its properties are constructor arguments, which can be changed later as attributes:

    auth="basic" | "bearer"   requires it; `users` are {name: password}; without users every client gets a token
    service=…                 the bearer challenge's service; the default contains colons and commas
    token_member="token"      or "access_token"
    token_uses=None           how many requests each token is good for; None for any number
    realm=…                   the token service's URL; the default is this server's own
    ranges=False              does not support Range requests
    redirect_to=other         blobs are answered by 307 to /storage/… of ``other``, a second FakeRegistry, which has the
                              same blobs and refuses requests with an Authorization header, as S3 does
    chunked=True              bodies of blobs have no Content-Length
    bytes_per_second=…        limits each connection
    tags_per_page=…           lists of tags have pages of at most this length, with a link to the next
    entity_tags=True          answers 304 to a request for a manifest with the right If-None-Match, as distribution does
    round_trip_seconds=0.05   is this far away: each answer is delayed; `round_trips` has when it was asked and answered
    tls=ssl_context           uses https; tests/support/tls.py makes a context

Its faults are rules: the first rule that matches a request answers it, and counts down:

    registry.misbehave("/blobs/", Fault(cut_after=1000))                    # cut every blob, each time
    registry.misbehave(str(layer), Fault(status=503), times=2)              # twice, then answer correctly
    registry.misbehave("/manifests/", Fault(status=403, body=b'{"errors": […]}'))
    registry.misbehave("/blobs/", Fault(headers={"Content-Encoding": "gzip"}, change=gzip.compress))
    registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": "sha256:" + 64 * "0"}))

Images are pushed to it as to a real one; `registry.uploads` says how it behaves then (tests/support/fake_uploads.py):

    referrers=True            has the referrers API, and says so to a pushed manifest with a subject
    read_only=…               refuses all that writes with this status

`requests` keeps all requests, oldest first; `faults_met` counts the requests that a rule answered.
It is one long file, since every test of the wire looks up there how a registry can misbehave.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from ociexport.spec.digest import Digest
from tests.support.fake_uploads import FakeUploads

ODD_SERVICE = 'registry.example.com:cn-hangzhou:26842, "second" part'

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
class _Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    is_blob: bool = False


@dataclass
class _Rule:
    pattern: str
    fault: Fault
    times: int | None
    method: str | None
    when: Callable[[Request], bool]


class FakeRegistry:
    """A registry on loopback; see the module's docstring."""

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        auth: str | None = None,
        users: Mapping[str, str] | None = None,
        service: str = ODD_SERVICE,
        realm: str | None = None,
        token_member: str = "token",
        token_seconds: int | None = 300,
        token_uses: int | None = None,
        ranges: bool = True,
        redirect_to: FakeRegistry | None = None,
        chunked: bool = False,
        bytes_per_second: int | None = None,
        tags_per_page: int = 1000,
        entity_tags: bool = True,
        round_trip_seconds: float = 0,
        tls: ssl.SSLContext | None = None,
        referrers: bool = False,
        read_only: int | None = None,
    ) -> None:
        self.address = address
        self.auth = auth
        self.users = dict(users or {})
        self.service = service
        self.realm = realm
        self.token_member = token_member
        self.token_seconds = token_seconds
        self.token_uses = token_uses
        self.ranges = ranges
        self.redirect_to = redirect_to
        self.chunked = chunked
        self.bytes_per_second = bytes_per_second
        self.tags_per_page = tags_per_page
        self.entity_tags = entity_tags
        self.round_trip_seconds = round_trip_seconds
        self.tls = tls
        self.referrers = referrers
        self.read_only = read_only
        self.refresh_tokens: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.uploads = FakeUploads(self.blobs)
        self.manifests: dict[tuple[str, str], tuple[bytes, str | None]] = {}
        # Digests to announce for documents whose digest does not cover all their bytes, by the digest of all bytes.
        self.digests: dict[Digest, Digest] = {}
        self.requests: list[Request] = []
        self.round_trips: list[tuple[float, float]] = []
        self.faults_met = 0
        self._rules: list[_Rule] = []
        self._tokens: dict[str, str] = {}
        self._uses: dict[str, int] = {}
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server: _Server | None = None

    # Content

    def add_blob(self, raw: bytes, digest: Digest | None = None) -> Digest:
        """Store ``raw`` in every repository, under ``digest`` if given, right or wrong."""
        name = digest or Digest.of(raw)
        self.blobs[str(name)] = raw
        return name

    def add_manifest(self, repository: str, tag: str | None, raw: bytes, media_type: str | None) -> Digest:
        """Store ``raw`` under its digest and ``tag``; ``media_type`` is its Content-Type."""
        digest = Digest.of(raw)
        for selector in (tag, str(digest)):
            if selector is not None:
                self.manifests[repository, selector] = (raw, media_type)
        return digest

    def misbehave(
        self,
        pattern: str,
        fault: Fault,
        *,
        times: int | None = None,
        method: str | None = None,
        when: Callable[[Request], bool] = lambda request: True,
    ) -> None:
        """Answer requests whose path has ``pattern`` (a pattern of `re`) with ``fault``, always or ``times`` times."""
        self._rules.append(_Rule(pattern, fault, times, method, when))

    def behave(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def revoke_tokens(self) -> None:
        """Reject all tokens issued so far."""
        self._tokens.clear()

    # Requests

    @property
    def host(self) -> str:
        """Host and port, as in an image reference."""
        name = f"[{self.address}]" if ":" in self.address else self.address
        return f"{name}:{self.port}"

    @property
    def port(self) -> int:
        assert self._server is not None, "the registry serves only within its with block"
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def paths(self, method: str | None = None) -> list[str]:
        """The requested paths, oldest first."""
        return [request.path for request in self.requests if method in (None, request.method)]

    # Start and stop

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # it may have been closed before
                    connection.shutdown(socket.SHUT_RDWR)

    # Answers

    def _answer(self, request: Request) -> _Answer:
        if request.path == "/token":
            return self._answer_token(request)
        if storage := re.fullmatch(r"/storage/(\w+:\w+)", request.path):
            if "authorization" in request.headers:
                return _error(400, "InvalidArgument", "only one auth mechanism allowed")
            return self._answer_blob(request, storage[1])
        if not request.path.startswith("/v2/"):
            return _error(404, "NOT_FOUND", "no such page")
        if challenge := self._challenge_for(request):
            answer = _error(401, "UNAUTHORIZED", "authentication required")
            answer.headers["WWW-Authenticate"] = challenge
            return answer
        if request.path == "/v2/":
            return _Answer(200, b"{}", {"Content-Type": "application/json"})
        if self.read_only is not None and request.method not in ("GET", "HEAD"):
            return _error(self.read_only, "DENIED", "requested access to the resource is denied")
        query = "&".join(f"{name}={value}" for name, values in request.query.items() for value in values)
        upload = self.uploads.answer(request.method, request.path, query, request.headers, request.body)
        if upload is not None:
            answer = _error(upload.status, upload.code, upload.code.lower()) if upload.code else _Answer(upload.status)
            answer.headers |= upload.headers
            return answer
        if listed := re.fullmatch(r"/v2/(.+)/referrers/(\w+:\w+)", request.path):
            return self._answer_referrers(listed[1], listed[2])
        if manifest := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", request.path):
            if request.method == "PUT":
                return self._store_manifest(manifest[1], manifest[2], request)
            return self._answer_manifest(request, manifest[1], manifest[2])
        if blob := re.fullmatch(r"/v2/(.+)/blobs/(\w+:\w+)", request.path):
            if not self.uploads.has(blob[1], blob[2]):
                return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
            if self.redirect_to is not None and blob[2] in self.blobs:
                self.redirect_to.blobs[blob[2]] = self.blobs[blob[2]]
                location = f"{self.redirect_to.url}/storage/{blob[2]}?X-Signature=very-secret"
                return _Answer(307, b"<a href>Temporary Redirect</a>", {"Location": location})
            return self._answer_blob(request, blob[2])
        if tags := re.fullmatch(r"/v2/(.+)/tags/list", request.path):
            return self._answer_tags(request, tags[1])
        return _error(404, "NAME_UNKNOWN", "repository name not known to registry")

    def _store_manifest(self, repository: str, selector: str, request: Request) -> _Answer:
        document = json.loads(request.body)
        named = [item["digest"] for item in [document.get("config"), *document.get("layers", ())] if item]
        children = [item["digest"] for item in document.get("manifests", ())]
        missing = [digest for digest in named if not self.uploads.has(repository, digest)]
        missing += [digest for digest in children if (repository, digest) not in self.manifests]
        if missing:
            return _error(400, "MANIFEST_BLOB_UNKNOWN", f"blob unknown to registry: {missing}")
        tag = None if ":" in selector else selector
        digest = self.add_manifest(repository, tag, request.body, request.headers.get("content-type"))
        if ":" in selector and selector != str(digest):
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        headers = {"Docker-Content-Digest": str(digest)}
        if self.referrers and "subject" in document:
            headers["OCI-Subject"] = document["subject"]["digest"]
        return _Answer(201, b"", headers)

    def _answer_referrers(self, repository: str, subject: str) -> _Answer:
        if not self.referrers:
            return _error(404, "NOT_FOUND", "no such page")
        entries = []
        for (name, selector), (raw, media_type) in self.manifests.items():
            document = json.loads(raw)
            if name == repository and ":" in selector and document.get("subject", {}).get("digest") == subject:
                kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
                entries.append({"mediaType": media_type, "digest": selector, "size": len(raw), "artifactType": kind})
        media_type = "application/vnd.oci.image.index.v1+json"
        index = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
        return _Answer(200, json.dumps(index).encode(), {"Content-Type": media_type})

    def _answer_tags(self, request: Request, repository: str) -> _Answer:
        names = {selector for name, selector in self.manifests if name == repository}
        if not names:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        last = request.query.get("last", [""])[0]
        rest = sorted(name for name in names if ":" not in name and name > last)
        count = min(int(request.query.get("n", ["1000"])[0]), self.tags_per_page)
        headers = {"Content-Type": "application/json"}
        if len(rest) > count:
            headers["Link"] = f'<{request.path}?last={rest[count - 1]}&n={count}>; rel="next"'
        return _Answer(200, json.dumps({"name": repository, "tags": rest[:count]}).encode(), headers)

    def _answer_manifest(self, request: Request, repository: str, selector: str) -> _Answer:
        held = self.manifests.get((repository, selector))
        if held is None:
            if not any(name == repository for name, _ in self.manifests):
                return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        raw, media_type = held
        headers = {"Docker-Content-Digest": str(self.digests.get(Digest.of(raw), Digest.of(raw)))}
        if media_type is not None:
            headers["Content-Type"] = media_type
        if self.entity_tags:
            tag = f'"{Digest.of(raw)}"'
            headers["ETag"] = tag
            if request.headers.get("if-none-match") == tag:
                return _Answer(304, b"", headers)
        return _Answer(200, raw, headers)

    def _answer_blob(self, request: Request, name: str) -> _Answer:
        raw = self.blobs.get(name)
        if raw is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not wanted or not self.ranges:
            return _Answer(200, raw, headers, is_blob=True)
        first = int(wanted[1])
        last = min(int(wanted[2] or len(raw)), len(raw) - 1)
        if first >= len(raw):
            return _Answer(416, b"", {"Content-Range": f"bytes */{len(raw)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(raw)}"
        return _Answer(206, raw[first : last + 1], headers, is_blob=True)

    # Authentication

    def _challenge_for(self, request: Request) -> str | None:
        """Return the challenge that ``request`` must answer first; None if the request may pass."""
        given = request.headers.get("authorization", "")
        if self.auth == "basic":
            return None if self._user_of(given) else 'Basic realm="the registry, of course"'
        if self.auth != "bearer":
            return None
        scope = ""
        if named := re.match(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)/", request.path):
            actions = "pull" if request.method in ("GET", "HEAD") else "pull,push"
            scope = f"repository:{named[1]}:{actions}"
            if "from" in request.query:
                scope += f" repository:{request.query['from'][0]}:pull"
        if given.startswith("Bearer "):
            covered = self._tokens.get(given.removeprefix("Bearer "))
            if covered is not None and _covers(covered, scope) and self._is_used_in_time(given):
                return None
        realm = self.realm or f"{self.url}/token"
        service = re.sub(r'(["\\])', r"\\\1", self.service)
        return f'Bearer realm="{realm}",service="{service}"' + (f',scope="{scope}"' if scope else "")

    def _is_used_in_time(self, authorization: str) -> bool:
        with self._lock:
            self._uses[authorization] = self._uses.get(authorization, 0) + 1
            return self.token_uses is None or self._uses[authorization] <= self.token_uses

    def _user_of(self, authorization: str) -> str | None:
        if not authorization.startswith("Basic "):
            return None
        name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return name if self.users.get(name) == password else None

    def _answer_token(self, request: Request) -> _Answer:
        if request.method == "POST":
            fields = parse_qs(request.body.decode())
            allowed = fields.get("refresh_token", [""])[0] in self.refresh_tokens
        else:
            fields = dict(request.query)
            authorization = request.headers.get("authorization")
            allowed = not self.users if authorization is None else bool(self._user_of(authorization))
        if not allowed or fields.get("service", [""])[0] != self.service:
            return _error(401, "UNAUTHORIZED", "incorrect username or password")
        with self._lock:
            token = f"token-{len(self.requests)}-{len(self._tokens)}"
            self._tokens[token] = " ".join(fields.get("scope", []))
        members: dict[str, object] = {self.token_member: token}
        if self.token_seconds is not None:
            members["expires_in"] = self.token_seconds
        return _Answer(200, json.dumps(members).encode(), {"Content-Type": "application/json"})

    # Called by the request handler

    def _take(self, request: Request) -> tuple[_Answer, Fault]:
        with self._lock:
            self.requests.append(request)
            rule = next(
                (
                    rule
                    for rule in self._rules
                    if rule.times != 0
                    and rule.method in (None, request.method)
                    and re.search(rule.pattern, request.path)
                    and rule.when(request)
                ),
                None,
            )
            if rule is not None:
                self.faults_met += 1
                if rule.times is not None:
                    rule.times -= 1
        answer = self._answer(request)
        return answer, rule.fault if rule is not None else Fault()


def _covers(given: str, needed: str) -> bool:
    """Whether the scopes ``given`` permit all that ``needed`` names."""
    permitted = {tuple(scope.rsplit(":", 1)) for scope in given.split()}
    for scope in needed.split():
        name, _, actions = scope.rpartition(":")
        if not any(one == name and set(actions.split(",")) <= set(has.split(",")) for one, has in permitted):
            return False
    return True


def _error(status: int, code: str, message: str) -> _Answer:
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": {}}]}).encode()
    return _Answer(status, body, {"Content-Type": "application/json; charset=utf-8"})


class _Server(ThreadingHTTPServer):
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
    server: _Server

    def setup(self) -> None:
        if self.server.registry.tls is not None:
            # Not in accept(): the TLS handshake of one client must not block the others.
            self.request.settimeout(self.timeout)
            self.request = self.server.registry.tls.wrap_socket(self.request, server_side=True)
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        registry = self.server.registry
        with registry._lock:
            registry._connections.append(self.connection)
            self._number = len(registry._connections)

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
        answer, fault = self.server.registry._take(request)
        if self.server.registry.round_trip_seconds:
            time.sleep(self.server.registry.round_trip_seconds)
            self.server.registry.round_trips.append((asked, time.monotonic()))
        self._send(answer, fault)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that http.server looks for

    def _send(self, answer: _Answer, fault: Fault) -> None:
        if fault.stall_after is None:
            time.sleep(fault.delay_seconds)
        if fault.reset_after == -1:
            return self._reset()
        if fault.raw is not None:
            return self._send_raw(fault.raw, fault.endless)
        if fault.status is not None:
            answer = _Answer(fault.status, b"")
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
