"""The uploads of a `FakeRegistry`: begun, mounted, sent whole or in chunks, cut, and answered oddly on request.

    registry.uploads.takes_patch = False            # PATCH is answered by 405
    registry.uploads.mounts = "begins"              # a mount is answered by 202, which begins an upload
    registry.uploads.locations = "relative"         # or "absolute", "query", "id" (no Location, an ID), "none"
    registry.uploads.says = lambda received: "0-0"  # the Range header, whatever has arrived
    registry.uploads.max_body_bytes = 1000          # a longer body is answered by 413
    registry.uploads.cut_after(6_000_000)           # once: reads so many bytes of a body, then resets the connection
    registry.uploads.keeps_cut = False              # a body that was cut ends its upload, as in docker-registry

    registry.uploads.bytes_per_second = 1_000_000   # how fast bodies are read

`bodies` has one entry for each body of PATCH, PUT or POST that arrived, with its number of bytes.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import Literal, NamedTuple
from urllib.parse import parse_qs

from ociexport.spec.digest import Digest

_PATH = re.compile(r"/v2/(.+)/blobs/uploads/([^/]*)")
_READ_BYTES = 64 * 1024


class Body(NamedTuple):
    """A body that arrived, or its part before a cut."""

    method: str
    repository: str
    length: int


class UploadAnswer(NamedTuple):
    status: int
    headers: Mapping[str, str] = {}
    code: str = ""


@dataclass
class FakeUploads:
    """The uploads of one registry.

    Args:
        blobs: those of the registry, by digest.
        homes: the repositories that have a blob; a blob that is not in it is in every repository.
    """

    blobs: dict[str, bytes]
    homes: dict[str, set[str]] = field(default_factory=dict)
    takes_patch: bool = True
    takes_whole_post: bool = False
    begins: bool = True
    mounts: Literal["mounts", "begins", "refuses"] = "mounts"
    locations: Literal["relative", "absolute", "query", "id", "none"] = "relative"
    says: Callable[[int], str | None] | None = None
    min_chunk_bytes: int = 0
    max_body_bytes: int | None = None
    keeps_cut: bool = True
    bodies: list[Body] = field(default_factory=list)
    bytes_per_second: int | None = None
    arriving_bytes: int = 0
    url: str = ""
    _open: dict[str, bytearray] = field(default_factory=dict)
    _cuts: list[int] = field(default_factory=list)
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cut_after(self, count: int) -> None:
        """Reset the connection once, after ``count`` bytes of a body."""
        self._cuts.append(count)

    def forget(self) -> None:
        """Forget all uploads, as a registry does after some days."""
        self._open.clear()

    @property
    def received_bytes(self) -> int:
        """How many bytes of bodies arrived."""
        return sum(body.length for body in self.bodies)

    def has(self, repository: str, digest: str) -> bool:
        return digest in self.blobs and repository in self.homes.get(digest, {repository})

    def read_body(self, method: str, path: str, headers: Mapping[str, str], file: BufferedIOBase) -> bytes | None:
        """Return a body as it arrives; None if the connection is to be reset."""
        matched = _PATH.fullmatch(path)
        length = int(headers.get("content-length", 0))
        repository, upload = (matched[1], matched[2]) if matched is not None else ("", "")
        with self._lock:
            is_upload = matched is not None and method in ("PATCH", "PUT", "POST") and length > 0
            cut = self._cuts.pop(0) if is_upload and self._cuts and self._cuts[0] < length else None
        body = bytearray()
        is_cut = cut is not None
        end = length if cut is None else cut
        while len(body) < end:
            part = file.read(min(_READ_BYTES, end - len(body)))
            if not part:
                is_cut = True
                break
            body += part
            if is_upload:
                self.arriving_bytes += len(part)
                time.sleep(len(part) / self.bytes_per_second if self.bytes_per_second else 0)
        if is_upload:
            with self._lock:
                self.bodies.append(Body(method, repository, len(body)))
                if is_cut and upload in self._open:
                    if self.keeps_cut:
                        self._open[upload] += body
                    else:
                        del self._open[upload]
        return None if is_cut else bytes(body)

    def answer(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> UploadAnswer | None:
        """Return the answer to a request about uploads; None for another request."""
        matched = _PATH.fullmatch(path)
        if matched is None:
            return None
        fields = {name: values[0] for name, values in parse_qs(query).items()}
        if self.max_body_bytes is not None and len(body) > self.max_body_bytes:
            return UploadAnswer(413)
        with self._lock:
            if method == "POST":
                return self._begin(matched[1], fields, body)
            return self._go_on(method, matched[1], matched[2], fields, headers, body)

    def _begin(self, repository: str, fields: Mapping[str, str], body: bytes) -> UploadAnswer:
        if "digest" in fields and self.takes_whole_post and body:
            return self._store(repository, fields["digest"], body)
        if "mount" in fields and self.mounts != "begins":
            if self.mounts == "refuses":
                return UploadAnswer(405, code="UNSUPPORTED")
            digest = fields["mount"]
            if self.has(fields.get("from", ""), digest):
                if digest in self.homes:
                    self.homes[digest].add(repository)
                return UploadAnswer(201, {"Location": f"/v2/{repository}/blobs/{digest}"})
        if not self.begins:
            return UploadAnswer(405, code="UNSUPPORTED")
        self._count += 1
        upload = f"upload-{self._count}"
        self._open[upload] = bytearray()
        return UploadAnswer(202, self._headers(repository, upload))

    def _go_on(
        self,
        method: str,
        repository: str,
        upload: str,
        fields: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> UploadAnswer:
        received = self._open.get(upload)
        if received is None or (self.locations == "query" and fields.get("_state") != upload):
            return UploadAnswer(404, code="BLOB_UPLOAD_UNKNOWN")
        if method == "GET":
            return UploadAnswer(204, self._headers(repository, upload))
        if method == "DELETE":
            del self._open[upload]
            return UploadAnswer(204)
        if method == "PATCH":
            if not self.takes_patch:
                return UploadAnswer(405, code="UNSUPPORTED")
            start = re.fullmatch(r"(\d+)-(\d+)", headers.get("content-range", ""))
            if start is None or int(start[1]) != len(received):
                return UploadAnswer(416, self._headers(repository, upload))
            received += body
            return UploadAnswer(202, self._headers(repository, upload))
        del self._open[upload]
        return self._store(repository, fields.get("digest", ""), bytes(received + body))

    def _store(self, repository: str, digest: str, raw: bytes) -> UploadAnswer:
        if str(Digest.of(raw, digest.partition(":")[0] or "sha256")) != digest:
            return UploadAnswer(400, code="DIGEST_INVALID")
        is_new = digest not in self.blobs
        self.blobs[digest] = raw
        if is_new or digest in self.homes:
            self.homes.setdefault(digest, set()).add(repository)
        return UploadAnswer(201, {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _headers(self, repository: str, upload: str) -> dict[str, str]:
        path = f"/v2/{repository}/blobs/uploads/{upload}"
        received = len(self._open[upload])
        says = self.says(received) if self.says is not None else f"0-{max(received - 1, 0)}"
        headers = {"Range": says} if says is not None else {}
        if self.min_chunk_bytes:
            headers["OCI-Chunk-Min-Length"] = str(self.min_chunk_bytes)
        if self.locations == "id":
            headers["Docker-Upload-UUID"] = upload
        elif self.locations != "none":
            origin = self.url if self.locations == "absolute" else ""
            headers["Location"] = f"{origin}{path}" + (f"?_state={upload}" if self.locations == "query" else "")
        return headers
