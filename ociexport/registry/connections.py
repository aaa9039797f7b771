"""The connections beneath the transport: their TLS settings, and the end of all of them at once."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
import weakref
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ociexport.registry.hosts import TlsSettings

# More connections to one host than anybody asks for with --jobs; those beyond are made and thrown away.
_POOL_CONNECTIONS = 32


class OpenSockets:
    """All sockets that are in use, so that a thread that waits in one of them can be told to give up."""

    def __init__(self) -> None:
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_over = False

    def add(self, opened: socket.socket | None) -> None:
        """Remember a socket for as long as it is used."""
        if opened is None:
            return
        with self._lock:
            self._sockets.add(opened)
            if self._is_over:
                _shut_down(opened)

    def shut_down(self) -> None:
        """End all reads and writes, in whatever thread."""
        with self._lock:
            self._is_over = True
            for opened in list(self._sockets):
                _shut_down(opened)


def _shut_down(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be closed already
        # A TLS socket's own method would take its state away beneath the thread that reads from it.
        socket.socket.shutdown(opened, socket.SHUT_RDWR)


class Adapter(HTTPAdapter):
    """Connections that share one `ssl.SSLContext`, ours: requests knows only its own list of authorities.

    Args:
        tls: whom to believe.
        sockets: told of each connection.
    """

    def __init__(self, tls: TlsSettings, sockets: OpenSockets) -> None:
        self._tls = tls
        self._sockets = sockets
        super().__init__(pool_connections=_POOL_CONNECTIONS, pool_maxsize=_POOL_CONNECTIONS)

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        """Made when first used: reading all authorities takes longer than a small image."""
        context = ssl.create_default_context()
        if not self._tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make connections that tell `OpenSockets` of themselves."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._sockets)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """The same for connections through a proxy."""
        if proxy.lower().startswith("https"):
            options["proxy_ssl_context"] = self._context
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _pool_classes(self._sockets)
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """Use our context in place of requests' settings."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._context} if host["scheme"] == "https" else {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the connection as it is: its context knows all."""


def _pool_classes(sockets: OpenSockets) -> dict[str, type[HTTPConnectionPool]]:
    """Return urllib3's pools with connections that tell ``sockets`` of themselves."""

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
