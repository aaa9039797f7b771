"""Connections that are begun before the code that uses them is imported.

Importing requests takes as long as a round trip to a registry nearby. Meanwhile a thread looks up the registry's name
and connects; to a registry on loopback, which is asked over http, it also sends the first request. The connection is
taken by the first one made to that host and port. If it failed, or is not what is needed, a new one is made as ever.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ociexport.errors import OciexportError
from ociexport.registry.auth.credentials import is_any_auth_place
from ociexport.spec import mediatypes
from ociexport.spec.numerals import number_in
from ociexport.spec.reference import DEFAULT_REGISTRY, DOCKER_HUB_HOST, ImageReference
from ociexport.system.threads import start_thread
from ociexport.system.version import __version__

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions

# As with the next address of a host (RFC 8305, 5): a connection that takes longer is given up for a new one.
_PATIENCE_SECONDS = 0.25
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")

_lock = threading.Lock()
_begun: dict[tuple[str, int], _Early] = {}


class _Early:
    def __init__(self, host: str, port: int, request: bytes, timeout_seconds: float) -> None:
        self._request = request
        self._is_over = threading.Event()
        self._is_unwanted = False
        self._opened: socket.socket | None = None
        start_thread(self._open, host, port, timeout_seconds, name=f"connect to {host}")

    def _open(self, host: str, port: int, timeout_seconds: float) -> None:
        with suppress(OSError, UnicodeError):
            opened = socket.create_connection((host, port), timeout=timeout_seconds)
            try:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                opened.sendall(self._request)
            except BaseException:
                opened.close()
                raise
            opened.settimeout(None)
            with _lock:
                self._opened = opened
                if self._is_unwanted:
                    opened.close()
        self._is_over.set()

    def take(self) -> tuple[socket.socket, bytes] | None:
        """Return the socket, and the request that was sent on it; None if there is none in time."""
        self._is_over.wait(_PATIENCE_SECONDS)
        with _lock:
            self._is_unwanted = self._opened is None
            return (self._opened, self._request) if self._opened is not None else None

    def close(self) -> None:
        """Close the socket, now or once it is connected."""
        with _lock:
            self._is_unwanted = True
            if self._opened is not None:
                self._opened.close()


@contextmanager
def connecting_early(reference: ImageReference, options: RegistryOptions, *, asks: bool) -> Iterator[None]:
    """Connect to the server of ``reference`` meanwhile; what nobody took is closed at the end.

    Nothing is done where the first connection may go elsewhere: to a proxy or a mirror.

    Args:
        asks: whether the image's manifest is requested too, if the registry is on loopback.
    """
    try:
        planned = _plan(reference, options, asks=asks)
        early = _Early(*planned, options.connect_timeout_seconds) if planned is not None else None
    except (OciexportError, OSError):  # a wrong configuration: the code that is imported now reports it
        planned = early = None
    if planned is not None and early is not None:
        with _lock:
            _begun[planned[:2]] = early
    try:
        yield
    finally:
        with _lock:
            left = [_begun.pop(key) for key in list(_begun) if _begun[key] is early]
        for one in left:
            one.close()


def take_early(host: str, port: int) -> tuple[socket.socket, bytes] | None:
    """Return a socket connected to ``host``, and the request that was sent on it, if one was begun; only once."""
    with _lock:
        early = _begun.pop((host, port), None)
    return early.take() if early is not None else None


def _plan(reference: ImageReference, options: RegistryOptions, *, asks: bool) -> tuple[str, int, bytes] | None:
    """Return host, port and request; None where another server may be asked first."""
    if sys.platform != "linux" or options.v1 or options.mirrors or any(map(os.path.isdir, options.hosts_dirs)):
        return None
    from ociexport.registry.hosts.registries_conf import read_registries_conf  # noqa: PLC0415 - start-up: as above

    located = read_registries_conf(options.registries_conf).locate(reference)
    if located.mirrors:
        return None
    home = located.home.reference
    server = DOCKER_HUB_HOST if home.registry == DEFAULT_REGISTRY else home.registry
    host, port = _split(server)
    is_here = host in {"localhost", "::1"} or host.startswith("127.")
    is_proxied = any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXY_VARIABLES)
    if is_proxied and not is_here:
        return None
    is_plain = options.plain_http or is_here
    is_anonymous = options.credentials is None and not options.headers and not is_any_auth_place(options.authfile)
    may_ask = asks and is_here and is_anonymous
    # These are the bytes that http.client sends, or else the connection is not used.
    headers = {
        "Host": server,
        "User-Agent": f"ociexport/{__version__}",
        "Accept-Encoding": "identity",
        "Accept": ", ".join(mediatypes.ACCEPTED_MANIFESTS),
    }
    lines = [f"GET /v2/{home.repository}/manifests/{home.manifest_selector} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join([*lines, "", ""]).encode("ascii") if may_ask else b""
    return host, port or (80 if is_plain else 443), request


def _split(server: str) -> tuple[str, int | None]:
    """Return host and port of ``host[:port]``, an IPv6 address without its brackets."""
    if server.startswith("["):
        host, _, port = server[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = server.partition(":")
    return host.lower(), number_in(port, 65535)
