"""A server on loopback that sends any bytes as its answers, and keeps the requests byte for byte.

    with RawServer(lambda request: answer(b"{}")) as server:
        ...
        assert server.lines == [b"GET /v2/ HTTP/1.1"]

It stops with its ``with`` block. It is for what `http.server` would repair or refuse; `FakeRegistry` is for the rest.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest


@dataclass(frozen=True)
class RawRequest:
    """A request as it arrived: its head, without the blank line."""

    head: bytes

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n")[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]


# Returns the bytes to send; None closes the connection without an answer.
Answering: TypeAlias = Callable[[RawRequest], bytes | None]


def answer(
    body: bytes = b"{}",
    *headers: bytes,
    status: bytes = b"200 OK",
    before: bytes = b"",
    length: bytes | None = None,
) -> bytes:
    """Return an answer with raw header lines; ``before`` is sent first, as interim answers are."""
    told = b"Content-Length: %d" % len(body) if length is None else length
    return before + b"\r\n".join([b"HTTP/1.1 " + status, *headers, told, b"", body])


def redirect(location: bytes) -> bytes:
    return answer(b"", b"Location: " + location, status=b"307 Temporary Redirect")


class RawServer:
    """See the module's docstring; a connection is kept after an answer until the client closes it."""

    host: str

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.requests: list[RawRequest] = []
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def lines(self) -> list[bytes]:
        return [request.line for request in self.requests]

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for opened in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, client.makefile("rb") as stream:
            while head := _read_head(stream.readline):
                self.requests.append(RawRequest(head))
                sent = self.answering(self.requests[-1])
                if sent is None:
                    return
                client.sendall(sent)
                if sent.startswith(b"HTTP/1.0"):
                    return


def _read_head(readline: Callable[[], bytes]) -> bytes:
    lines: list[bytes] = []
    while line := readline().rstrip(b"\r\n"):
        if line.startswith(b"\x16"):  # TLS, which this server does not speak
            return b""
        lines.append(line)
    return b"\r\n".join(lines)


@dataclass(frozen=True)
class RawImage:
    """An image with one layer, and the answers of a registry that has it, under any name."""

    layer: bytes
    config: bytes
    manifest: bytes

    @classmethod
    def of(cls, layer: bytes) -> RawImage:
        """Return an image for this machine's registry; nothing in the layer is looked at by ``pull``."""
        config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}' % (
            str(Digest.of(layer)).encode()
        )
        document = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": _descriptor(mediatypes.OCI_CONFIG, config),
            "layers": [_descriptor(mediatypes.OCI_LAYER, layer)],
        }
        return cls(layer, config, json.dumps(document).encode())

    def answer(self, request: RawRequest, *headers: bytes, before: bytes = b"") -> bytes:
        """Return the right answer to ``request``, with more headers, and after ``before``."""
        if b"/manifests/" in request.target:
            media_type = b"Content-Type: " + mediatypes.OCI_MANIFEST.encode()
            return answer(self.manifest, *headers, media_type, before=before)
        for blob in (self.layer, self.config):
            if str(Digest.of(blob)).encode() in request.target:
                return answer(blob, *headers, before=before)
        return answer(b"{}", *headers, before=before)


def _descriptor(media_type: str, raw: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}
