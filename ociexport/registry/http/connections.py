"""The connections that the transport uses: their TLS settings, and shutting down all of them at once."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.response import HTTPResponse

from ociexport.errors import OciexportError
from ociexport.registry.addresses import Nearness, SeenAddresses, nearness_of
from ociexport.registry.dialing import open_connection
from ociexport.registry.early import EarlyConnections
from ociexport.registry.hosts.certificates import TlsSettings
from ociexport.registry.hosts.tls_contexts import TlsContexts
from ociexport.registry.http.content import RequestContent
from ociexport.registry.http.deadlines import Deadline, Deadlines, shut_down
from ociexport.registry.http.failures import StalledError
from ociexport.registry.http.heads import CheckedResponse
from ociexport.registry.http.kept_connections import CLOSED_BY_SERVER, KeptConnectionClosedError, ReplacingPool
from ociexport.registry.http.logs import cut_secrets, our_request
from ociexport.registry.http.sent_url import SentUrl
from ociexport.registry.http.socks import ask_socks_proxy, is_socks_url, socks_address
from ociexport.registry.http.web_url import WebUrl

# More connections to one host than any sensible --jobs needs; further ones are opened and closed for each request.
_POOL_CONNECTIONS = 32

# For connections without a timeout of their own.
_DEFAULT_TIMEOUT_SECONDS = 15.0


class OpenSockets:
    """All sockets in use, which can be shut down to end the waits of other threads.

    Args:
        max_wait_seconds: how long a thread may wait on one connection.
        early: connections that are being made; used for their host if they have the right TLS context.
    """

    def __init__(self, max_wait_seconds: float, early: EarlyConnections | None = None) -> None:
        self.early = early
        contexts = early.contexts if early is not None else None
        self.contexts = contexts if contexts is not None else TlsContexts()
        self.deadlines = Deadlines(max_wait_seconds)
        self.addresses = SeenAddresses()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_over = False

    def add(self, opened: socket.socket | None) -> None:
        """Add a socket; it is forgotten when it is no longer used."""
        if opened is None:
            return
        with self._lock:
            self._sockets.add(opened)
            if self._is_over:
                shut_down(opened)

    @property
    def is_over(self) -> bool:
        """Whether the sockets were shut down."""
        return self._is_over

    def shut_down(self) -> None:
        """End the reads and writes of all threads."""
        self.deadlines.stop()
        if self.early is not None:
            self.early.close()
        with self._lock:
            self._is_over = True
            for opened in list(self._sockets):
                shut_down(opened)


class PreparedRequest(requests.PreparedRequest):
    """A prepared request that keeps the URL it was made from: the connection is made to this one."""

    target: WebUrl

    def prepare_url(self, url: Any, params: Any) -> None:
        """Take ``url`` as it is: requests would change escapes in path and query, and remove dot segments."""
        self.url = url


def prepare(
    method: str,
    target: WebUrl,
    headers: Mapping[str, str] | None = None,
    body: bytes | RequestContent | None = None,
) -> PreparedRequest:
    """Return a request to ``target``, whose path and query are sent as they are."""
    # requests would send empty content in chunks.
    body = body if body is not None and len(body) else None
    prepared = PreparedRequest()
    url = f"{target.scheme}://{target.authority}{target.target}"
    prepared.prepare(method=method, url=url, headers=headers, data=body)
    prepared.target = target
    return prepared


def _target_of(request: requests.PreparedRequest) -> WebUrl:
    target: WebUrl = getattr(request, "target")  # noqa: B009 - see `PreparedRequest`
    return target


class Adapter(HTTPAdapter):
    """Connections that share one `ssl.SSLContext` of our own: requests would use only its own list of authorities.

    Args:
        tls: how servers are verified.
        sockets: each new connection is added to them.
        nearest: no direct connection is made to an address that is nearer to this machine. An adapter does not use
            the connections of another one, which may have other limits.
    """

    def __init__(self, tls: TlsSettings, sockets: OpenSockets, nearest: Nearness = Nearness.MULTICAST) -> None:
        self._tls = tls
        self._sockets = sockets
        self._nearest = nearest
        super().__init__(pool_connections=_POOL_CONNECTIONS, pool_maxsize=_POOL_CONNECTIONS)
        cut_secrets()

    def send(self, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request; logs do not show its query."""
        with our_request():
            return super().send(*arguments, **options)

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        """The TLS context, made at first use."""
        return self._sockets.contexts.get(self._tls)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make a pool whose connections are added to the sockets."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._sockets, nearest=self._nearest)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pools for connections through a proxy; these are added to the sockets too."""
        if is_socks_url(proxy):
            # The pools are those of direct connections; only the way a connection is made differs.
            manager = self.proxy_manager.setdefault(
                proxy, PoolManager(num_pools=_POOL_CONNECTIONS, maxsize=_POOL_CONNECTIONS)
            )
            manager.pool_classes_by_scheme = _pool_classes(self._sockets, proxy)
            return manager
        if proxy.lower().startswith("https"):
            options["proxy_ssl_context"] = self._context
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _pool_classes(self._sockets)
        return manager

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Return the request target: path and query, and for a proxy that forwards the request the whole URL."""
        # The choice is that of requests, which also chooses the connection.
        is_forwarded = not super().request_url(request, proxies).startswith("/")
        target = _target_of(request)
        return SentUrl(target, is_absolute=is_forwarded)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """Use our TLS context, and the host of the `WebUrl`."""
        # Requests would parse the URL again. The host that was approved must be the host that is contacted.
        target = _target_of(request)
        host = {"scheme": target.scheme, "host": target.host, "port": target.port}
        return host, {"ssl_context": self._context} if target.scheme == "https" else {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the TLS context has all settings."""


def find_issuer(
    url: WebUrl, proxies: Mapping[str, str], timeout_seconds: float, nearest: Nearness = Nearness.MULTICAST
) -> str | None:
    """Return the issuer of the certificate of ``url``'s server, which was rejected; None if it can't be determined.

    This opens a new connection and sends no request over it: the failed connection did not keep the certificate.
    """
    # The probe has deadlines too: an untrusted server may also keep us waiting, byte by byte.
    probe = _IssuerProbe(timeout_seconds)
    adapter = Adapter(TlsSettings(verify=False), probe, nearest)
    try:
        adapter.send(prepare("GET", url), timeout=timeout_seconds, proxies=proxies)
    except (OciexportError, requests.RequestException, OSError):
        return probe.issuer
    finally:
        probe.shut_down()
        adapter.close()
    return None


class _SeenError(OciexportError):
    """The certificate was read; never leaves this module."""


class _IssuerProbe(OpenSockets):
    """Reads the issuer from the certificate of the first connection, and ends the connection."""

    issuer: str | None = None

    def add(self, opened: socket.socket | None) -> None:
        try:
            # The method of `ssl.SSLSocket` is public from Python 3.13 on; the inner object has it in all versions.
            chain = getattr(opened, "_sslobj").get_unverified_chain()  # noqa: B009 - typeshed lacks it
            names = dict(name for names in chain[0].get_info()["issuer"] for name in names)
            self.issuer = ", ".join(filter(None, (names.get("commonName"), names.get("organizationName")))) or None
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            self.issuer = None
        raise _SeenError("the certificate was read")


def _pool_classes(
    sockets: OpenSockets, socks_proxy: str | None = None, nearest: Nearness | None = None
) -> dict[str, type[HTTPConnectionPool]]:
    """Return urllib3's pools with connections that are added to ``sockets``.

    Args:
        socks_proxy: the URL of the SOCKS proxy to connect through; None without one.
        nearest: the limit for the address that is connected to; None for a proxy, which the user named.
    """

    class Plain(HTTPConnection):
        response_class = CheckedResponse
        # Set by the pool for each request.
        target: str
        _deadline: Deadline
        # Whether the server has answered on this connection.
        _has_answered = False
        # The request that was sent on the connection before it was needed; empty without any.
        _sent_early = b""
        # The content of the current request; None without any.
        _content: RequestContent | None = None

        def _new_conn(self) -> socket.socket:
            host = self.host.strip("[]")
            limit = None if nearest is None else min(nearest, sockets.addresses.limit(host, self.port))
            opened = _dial(self, socks_proxy, limit)
            if limit is not None:
                sockets.addresses.add(host, self.port, str(opened.getpeername()[0]))
            try:
                self._deadline.take_copy(opened)
                if socks_proxy is not None:
                    ask_socks_proxy(opened, socks_proxy, host, self.port, _seconds_of(self))
            except BaseException:
                opened.close()
                raise
            return opened

        def connect(self) -> None:
            self._has_answered = False
            self._sent_early = b""
            self._deadline = sockets.deadlines.watch()
            with self._deadline.waiting(has_begun=False):
                self._take_early()
                if self.sock is None:
                    super().connect()
            self._deadline.take(self.sock)
            sockets.add(self.sock)

        def _take_early(self) -> None:
            """Use the connection that was begun early if it is the one that would be made now."""
            early, host = sockets.early, self.host.strip("[]")
            if early is None or nearest is None or (taken := early.take(host, self.port)) is None:
                return
            limit = min(nearest, sockets.addresses.limit(host, self.port))
            opened = None
            if (copy := taken.descriptor()) is not None:
                with copy, suppress(OSError):  # it may be closed already
                    address = str(copy.getpeername()[0])
                    self._deadline.take_copy(copy)
                    if nearness_of(address) <= limit:
                        opened = taken.finish(getattr(self, "ssl_context", None))
            if opened is None:
                taken.close()
            else:
                sockets.addresses.add(host, self.port, address)
                self.sock, self._sent_early = opened
                # The server may close a connection that was idle, as if it were a kept one.
                self._has_answered = True
            self._deadline.verify()

        def request(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
            body = options.get("body")
            self._content = body if isinstance(body, RequestContent) else None
            try:
                super().request(method, self.target, *arguments, **options)
            except CLOSED_BY_SERVER as error:
                self._raise_if_kept(error)
                raise

        def send(self, data: Any) -> None:
            if self._sent_early or self.sock is None:
                if self.sock is None:
                    self.connect()
                sent, self._sent_early = self._sent_early, b""
                if sent and sent == data:
                    return
                if sent and self.sock is not None:
                    # Another request was sent early: its answer would be taken for that of this one.
                    self.sock.close()
                    self.sock = None
                    self.connect()
            super().send(data)

        def getresponse(self) -> HTTPResponse:  # type: ignore[override] # as urllib3's own
            response = None
            try:
                with self._deadline.waiting():
                    response = super().getresponse()
            except StalledError:
                if response is not None:
                    response.close()
                raise
            except CLOSED_BY_SERVER as error:
                self._raise_if_kept(error)
                raise
            self._has_answered = True
            response.deadline = self._deadline  # type: ignore[attr-defined] # for `Answer`
            return response

        def _raise_if_kept(self, error: Exception) -> None:
            may_repeat = self._content is None or self._content.may_be_repeated
            if self._has_answered and may_repeat and not sockets.is_over:
                if sockets.early is not None:  # those left may be closed as well
                    sockets.early.close()
                raise KeptConnectionClosedError("the server closed a kept connection") from error

    class Secure(Plain, HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            # Otherwise urllib3 warns about each unverified request; the user asked for that with --insecure.
            self.is_verified = True

    class PlainPool(ReplacingPool):
        ConnectionCls = Plain

    class SecurePool(ReplacingPool, HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _dial(connection: HTTPConnection, socks_proxy: str | None, nearest: Nearness | None) -> socket.socket:
    """Connect as urllib3 would, but with `open_connection`, whose `OSError` urllib3 handles too."""
    host, port = (connection.host.strip("[]"), connection.port) if socks_proxy is None else socks_address(socks_proxy)
    options = connection.socket_options or ()
    limit = Nearness.MULTICAST if nearest is None else nearest
    return open_connection(host, port, timeout_seconds=_seconds_of(connection), options=options, nearest=limit)


def _seconds_of(connection: HTTPConnection) -> float:
    """Return the timeout for making a connection."""
    return connection.timeout if isinstance(connection.timeout, int | float) else _DEFAULT_TIMEOUT_SECONDS
