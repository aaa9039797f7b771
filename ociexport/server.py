"""A read-only registry over an OCI layout: what the far side of an air gap runs, so that docker and podman can pull.

A repository is called by the image's full name without its registry (``docker.io/library/alpine:3`` is served as
``library/alpine:3``), or by the layout directory's name where an image has only a tag.

Spec: distribution-spec 1.1, "Pull", "Content Discovery"; RFC 9110 14, "Range Requests".
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from ociexport import __version__, mediatypes
from ociexport.digest import Digest
from ociexport.documents import MAX_MANIFEST_BYTES, Descriptor, Index, Manifest, parse_document
from ociexport.errors import InvalidDigestError, InvalidImageError, InvalidReferenceError, NotFoundError, OciexportError
from ociexport.layout import ImageLayout
from ociexport.numerals import MAX_SIZE, number_up_to
from ociexport.reference import ImageReference
from ociexport.resolve import MAX_INDEX_DEPTH, read_small_blob

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO

_PATH_PATTERN = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|referrers|tags)/(?P<selector>[^/]+)")
_RANGE_PATTERN = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
# distribution's own default page; a client may ask for less.
_MAX_PAGE = 1000
_IDLE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class _Content:
    """What ``index.json`` gives, read once for each change of the file.

    Args:
        tags: repository → tag → descriptor.
        manifests: digest → descriptor of each manifest and index that ``index.json`` leads to. They belong to every
            repository, since a signature or SBOM in a layout has no name of its own.
        blobs: digests of the configs and layers that the manifests name.
    """

    tags: dict[str, dict[str, Descriptor]]
    manifests: dict[Digest, Descriptor]
    blobs: set[Digest]


class LayoutCatalog:
    """The repositories, tags and manifests of a layout, as a registry shows them; read again when it changes."""

    def __init__(self, layout: ImageLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._content = _Content({}, {}, set())
        # Tells what is no layout in the words of all commands.
        layout.read_images()
        self._read()

    def repositories(self) -> list[str]:
        """Return the names of all repositories, sorted."""
        return sorted(self._read().tags)

    def tags(self, repository: str) -> list[str]:
        """Return the tags of ``repository``, sorted as the specification has it.

        Raises:
            NotFoundError: there is no such repository.
        """
        tags = self._read().tags.get(repository)
        if tags is None:
            raise NotFoundError(f"repository {repository}: not in the layout")
        return sorted(tags)

    def find_manifest(self, repository: str, selector: str) -> Descriptor:
        """Return the manifest or index that a tag or digest names.

        Raises:
            NotFoundError: there is none, or no such repository.
        """
        content = self._read()
        tags = content.tags.get(repository)
        if tags is None:
            raise NotFoundError(f"repository {repository}: not in the layout")
        found = content.manifests.get(Digest.parse(selector)) if ":" in selector else tags.get(selector)
        if found is None:
            raise NotFoundError(f"manifest {repository}:{selector}: not in the layout")
        return found

    def open_blob(self, repository: str, digest: Digest) -> FileIO:
        """Return the blob's file, if ``repository`` is there and a manifest of the layout names the blob.

        Raises:
            NotFoundError: none does, or the layout does not have it.
        """
        content = self._read()
        if repository not in content.tags or digest not in content.blobs:
            raise NotFoundError(f"blob {digest}: not in {repository}")
        return self._layout.open_file(digest)

    def referrers(self, subject: Digest, artifact_type: str | None) -> list[dict[str, object]]:
        """Return descriptors of the manifests whose subject is ``subject``."""
        found = []
        for descriptor in self._read().manifests.values():
            document = self._parse(descriptor)
            if document is None or document.subject is None or document.subject.digest != subject:
                continue
            kind = document.artifact_type or (document.config.media_type if isinstance(document, Manifest) else None)
            if artifact_type in (None, kind):
                described = Descriptor(
                    document.media_type,
                    document.digest,
                    len(document.raw),
                    artifact_type=kind,
                    annotations=document.annotations,
                )
                found.append(described.to_json())
        return found

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """Return a manifest's bytes, verified."""
        return read_small_blob(self._layout, descriptor, MAX_MANIFEST_BYTES, f"manifest {descriptor.digest}")

    def _read(self) -> _Content:
        status = os.stat(os.path.join(self._layout.path, "index.json"))
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if stamp != self._stamp:
                self._content = self._collect()
                self._stamp = stamp
            return self._content

    def _collect(self) -> _Content:
        content = _Content({}, {}, set())
        for descriptor, name in self._layout.read_images():
            repository, tag = self._repository_of(name.full, name.tag)
            tags = content.tags.setdefault(repository, {})
            if tag is not None:
                tags[tag] = descriptor
            self._collect_manifest(content, descriptor, MAX_INDEX_DEPTH)
        return content

    def _repository_of(self, full: str | None, tag: str | None) -> tuple[str, str | None]:
        if full is not None:
            try:
                reference = ImageReference.parse(full)
            except InvalidReferenceError:
                pass
            else:
                return reference.repository, reference.tag
        base = os.path.basename(os.path.abspath(self._layout.path)).lower()
        return re.sub(r"[^a-z0-9]+", "-", base).strip("-") or "layout", tag

    def _collect_manifest(self, content: _Content, descriptor: Descriptor, depth_left: int) -> None:
        if descriptor.digest in content.manifests:
            return
        document = self._parse(descriptor)
        if document is None:
            return
        content.manifests[descriptor.digest] = document.descriptor
        if isinstance(document, Index):
            if depth_left:
                for entry in document.manifests:
                    self._collect_manifest(content, entry, depth_left - 1)
            return
        content.blobs.update(blob.digest for blob in (document.config, *document.layers))

    def _parse(self, descriptor: Descriptor) -> Index | Manifest | None:
        """Return the document; None where the layout lacks it (which is legal) or it is of another kind."""
        try:
            return parse_document(self.read_manifest(descriptor), descriptor.media_type, descriptor.digest)
        except (NotFoundError, InvalidImageError):
            return None


class LayoutServer(ThreadingHTTPServer):
    """Serves a layout until `shutdown`; one thread for each connection.

    Args:
        layout: what is served.
        host: address to listen on.
        port: 0 for one that the kernel chooses.

    Raises:
        NotFoundError, InvalidImageError: there is no layout, or it is broken.
        OSError: the address is in use or not ours.
    """

    daemon_threads = True
    # Pulls of many images begin at once.
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
        """``host:port`` as a reference to an image here has it."""
        host, port = self.server_address[:2]
        name = host if isinstance(host, str) else bytes(host).decode()
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that went away in the middle is none of our errors."""


class _ApiError(OciexportError):
    """An answer that is an error of the protocol.

    Args:
        status: of the response.
        code: distribution-spec's.
        message: for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = f"ociexport/{__version__}"
    timeout = _IDLE_SECONDS
    # Headers and a small body leave in one packet, without waiting for an acknowledgement.
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True
    server: LayoutServer

    def do_GET(self) -> None:
        """Answer a GET or HEAD."""
        try:
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
        """Refuse to change anything."""
        # What the client would send is not read, so the connection can't be used again.
        self.close_connection = True
        self._send_error(_ApiError(405, "UNSUPPORTED", "this registry is read-only"))

    do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 - as above

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet; the command line says what is served."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path in ("/v2/", "/v2"):
            self._send(200, b"{}", "application/json")
        elif url.path == "/v2/_catalog":
            self._send_page("repositories", self.server.catalog.repositories(), {}, query, "/v2/_catalog")
        elif (match := _PATH_PATTERN.fullmatch(url.path)) is not None:
            self._answer_repository(match["name"], match["kind"], match["selector"], query)
        else:
            raise _ApiError(404, "UNSUPPORTED", "no such endpoint")

    def _answer_repository(self, name: str, kind: str, selector: str, query: dict[str, list[str]]) -> None:
        catalog = self.server.catalog
        if kind == "tags":
            if selector != "list":
                raise _ApiError(404, "UNSUPPORTED", "no such endpoint")
            try:
                tags = catalog.tags(name)
            except NotFoundError as error:
                raise _ApiError(404, "NAME_UNKNOWN", "repository name not known to registry") from error
            self._send_page("tags", tags, {"name": name}, query, f"/v2/{quote(name)}/tags/list")
        elif kind == "manifests":
            self._send_manifest(name, selector)
        elif kind == "blobs":
            self._send_blob(name, Digest.parse(selector))
        else:
            artifact_type = query.get("artifactType", [None])[0]
            found = catalog.referrers(Digest.parse(selector), artifact_type)
            body = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": found}
            headers = {"OCI-Filters-Applied": "artifactType"} if artifact_type else {}
            self._send(200, json.dumps(body).encode(), mediatypes.OCI_INDEX, headers)

    def _send_manifest(self, name: str, selector: str) -> None:
        try:
            descriptor = self.server.catalog.find_manifest(name, selector)
            raw = self.server.catalog.read_manifest(descriptor)
        except NotFoundError as error:
            raise _ApiError(404, "MANIFEST_UNKNOWN", "manifest unknown to registry") from error
        self._send(
            200,
            raw,
            descriptor.media_type or mediatypes.OCI_MANIFEST,
            {"Docker-Content-Digest": str(descriptor.digest)},
        )

    def _send_blob(self, name: str, digest: Digest) -> None:
        try:
            file = self.server.catalog.open_blob(name, digest)
        except NotFoundError as error:
            raise _ApiError(404, "BLOB_UNKNOWN", "blob unknown to registry") from error
        with file:
            size = os.fstat(file.fileno()).st_size
            wanted = parse_range(self.headers.get("Range"), size)
            start, end = wanted or (0, size)
            headers = {"Docker-Content-Digest": str(digest), "Accept-Ranges": "bytes"}
            if wanted is not None:
                if start >= end:
                    raise _ApiError(416, "SIZE_INVALID", f"expected a range within {size} bytes")
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._send_head(200 if wanted is None else 206, "application/octet-stream", end - start, headers)
            if self.command != "HEAD" and end > start:
                self.wfile.flush()
                self.connection.sendfile(file, start, end - start)

    def _send_page(
        self, member: str, items: Sequence[str], body: dict[str, object], query: dict[str, list[str]], path: str
    ) -> None:
        """Answer with as many ``items`` as were asked for, after the one named ``last``, and a link to the rest."""
        last = query.get("last", [""])[0]
        count = query.get("n", [str(_MAX_PAGE)])[0]
        limit = number_up_to(count, _MAX_PAGE)
        if limit is None:
            raise _ApiError(400, "PAGINATION_NUMBER_INVALID", "n: expected a number")
        rest = [item for item in items if item > last]
        page = rest[:limit]
        headers = {}
        if page and len(rest) > limit:
            headers["Link"] = f'<{path}?n={limit}&last={quote(page[-1], safe="")}>; rel="next"'
        self._send(200, json.dumps({**body, member: page}).encode(), "application/json", headers)

    def _send_error(self, error: _ApiError) -> None:
        body = json.dumps({"errors": [{"code": error.code, "message": str(error), "detail": None}]})
        self._send(error.status, body.encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self._send_head(status, content_type, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _send_head(self, status: int, content_type: str, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte that a Range header asks for and the one after the last.

    Returns:
        None where there is no header, or one that we need not understand (several ranges, other units): then the
        whole is sent. An empty range where none of the bytes is there.

    Spec: RFC 9110 14.1.2, "Byte Ranges", 14.2, "Range".
    """
    match = _RANGE_PATTERN.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = (number_up_to(text, MAX_SIZE) for text in match.groups())
    if first is None:
        return max(0, size - (last or 0)), size
    if last is not None and last < first:
        return None
    return first, min(last + 1, size) if last is not None else size
