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
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs

from ociexport.spec.digest import Digest
from tests.support.fake_uploads import FakeUploads
from tests.support.fake_wire import Answer, Fault, Request, WireServer
from tests.support.serving import Serving

__all__ = ["ODD_SERVICE", "FakeRegistry", "Fault", "Request"]

ODD_SERVICE = 'registry.example.com:cn-hangzhou:26842, "second" part'


@dataclass
class _Rule:
    pattern: str
    fault: Fault
    times: int | None
    method: str | None
    when: Callable[[Request], bool]


class FakeRegistry(Serving):
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
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def paths(self, method: str | None = None) -> list[str]:
        """The requested paths, oldest first."""
        return [request.path for request in self.requests if method in (None, request.method)]

    # Start and stop

    def __enter__(self) -> Self:
        self._server = WireServer(self)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # it may have been closed before
                    connection.shutdown(socket.SHUT_RDWR)

    def note_connection(self, connection: socket.socket) -> int:
        """Keep a connection, which is closed at the end, and return its number."""
        with self._lock:
            self._connections.append(connection)
            return len(self._connections)

    # Answers

    def _answer(self, request: Request) -> Answer:
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
            return Answer(200, b"{}", {"Content-Type": "application/json"})
        if self.read_only is not None and request.method not in ("GET", "HEAD"):
            return _error(self.read_only, "DENIED", "requested access to the resource is denied")
        query = "&".join(f"{name}={value}" for name, values in request.query.items() for value in values)
        upload = self.uploads.answer(request.method, request.path, query, request.headers, request.body)
        if upload is not None:
            answer = _error(upload.status, upload.code, upload.code.lower()) if upload.code else Answer(upload.status)
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
                return Answer(307, b"<a href>Temporary Redirect</a>", {"Location": location})
            return self._answer_blob(request, blob[2])
        if tags := re.fullmatch(r"/v2/(.+)/tags/list", request.path):
            return self._answer_tags(request, tags[1])
        return _error(404, "NAME_UNKNOWN", "repository name not known to registry")

    def _store_manifest(self, repository: str, selector: str, request: Request) -> Answer:
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
        return Answer(201, b"", headers)

    def _answer_referrers(self, repository: str, subject: str) -> Answer:
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
        return Answer(200, json.dumps(index).encode(), {"Content-Type": media_type})

    def _answer_tags(self, request: Request, repository: str) -> Answer:
        names = {selector for name, selector in self.manifests if name == repository}
        if not names:
            return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
        last = request.query.get("last", [""])[0]
        rest = sorted(name for name in names if ":" not in name and name > last)
        count = min(int(request.query.get("n", ["1000"])[0]), self.tags_per_page)
        headers = {"Content-Type": "application/json"}
        if len(rest) > count:
            headers["Link"] = f'<{request.path}?last={rest[count - 1]}&n={count}>; rel="next"'
        return Answer(200, json.dumps({"name": repository, "tags": rest[:count]}).encode(), headers)

    def _answer_manifest(self, request: Request, repository: str, selector: str) -> Answer:
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
                return Answer(304, b"", headers)
        return Answer(200, raw, headers)

    def _answer_blob(self, request: Request, name: str) -> Answer:
        raw = self.blobs.get(name)
        if raw is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if not wanted or not self.ranges:
            return Answer(200, raw, headers, is_blob=True)
        first = int(wanted[1])
        last = min(int(wanted[2] or len(raw)), len(raw) - 1)
        if first >= len(raw):
            return Answer(416, b"", {"Content-Range": f"bytes */{len(raw)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(raw)}"
        return Answer(206, raw[first : last + 1], headers, is_blob=True)

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

    def _answer_token(self, request: Request) -> Answer:
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
        return Answer(200, json.dumps(members).encode(), {"Content-Type": "application/json"})

    # Called by the request handler

    def take(self, request: Request) -> tuple[Answer, Fault]:
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


def _error(status: int, code: str, message: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": {}}]}).encode()
    return Answer(status, body, {"Content-Type": "application/json; charset=utf-8"})
