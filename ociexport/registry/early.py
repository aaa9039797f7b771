"""The first connections to a registry, which are begun before the code that uses them is imported.

Importing requests takes as long as a round trip to a registry nearby, and reading the authorities half of that.
Meanwhile threads look up the registry's name, connect, and make the TLS handshake with the context that all other
connections use. Where the first request is known and needs no credentials, it is sent too.

Such a connection is used where one would be made to the same host and port with the same context. If it failed, or is
not what is needed, a new one is made as ever, which tells what is wrong.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from ociexport.errors import OciexportError
from ociexport.registry.addresses import is_loopback
from ociexport.registry.auth.credentials import is_any_auth_place
from ociexport.registry.dialing import open_connection
from ociexport.registry.hosts.endpoints import endpoint_for, host_name, may_be_there
from ociexport.registry.hosts.registries_conf import read_registries_conf
from ociexport.spec import mediatypes
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.numerals import number_in
from ociexport.system.threads import start_thread
from ociexport.system.version import __version__

if TYPE_CHECKING:
    import ssl

    from ociexport.images.source import FirstRequest
    from ociexport.registry.hosts.certificates import TlsSettings
    from ociexport.registry.hosts.tls_contexts import TlsContexts
    from ociexport.registry.options import RegistryOptions
    from ociexport.spec.digest import Digest
    from ociexport.spec.reference import ImageReference

# A connection that takes longer after it is wanted is given up for a new one, whose whole timeout is then the user's.
# The system itself tries again after a second.
_PATIENCE_SECONDS = 1.0
_PORTS = {"http": 80, "https": 443}
# As urllib3 sets it.
_SOCKET_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)


class _Plan(NamedTuple):
    """What is begun.

    Args:
        host: a name or an address, in lower case, without brackets.
        tls: how the server is verified; None for plain http.
        request: the bytes to send at once; empty for none.
    """

    host: str
    port: int
    tls: TlsSettings | None
    request: bytes


class EarlyConnection:
    """A connection that a thread makes meanwhile; it is taken once, or closed."""

    def __init__(self, plan: _Plan, timeout_seconds: float, find_contexts: Callable[[], TlsContexts | None]) -> None:
        self._plan = plan
        self._timeout_seconds = timeout_seconds
        self._find_contexts = find_contexts
        self._lock = threading.Lock()
        self._has_connected = threading.Event()
        self._is_over = threading.Event()
        self._is_unwanted = False
        # A second descriptor of the connection: its shutdown ends a handshake in the thread.
        self._copy: socket.socket | None = None
        self._opened: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        start_thread(self._run, name=f"connect to {plan.host}")

    def _run(self) -> None:
        opened: socket.socket | None = None
        try:
            opened = self._connect()
            if not self._is_unwanted:
                opened = self._shake_hands(opened)
            if not self._is_unwanted:
                opened.sendall(self._plan.request)
            with self._lock:
                if not self._is_unwanted:
                    self._opened, opened = opened, None
        except (OciexportError, OSError, ValueError):
            pass  # the connection that is made in place of this one reports it
        finally:
            if opened is not None:
                opened.close()
            self._has_connected.set()
            self._is_over.set()

    def _connect(self) -> socket.socket:
        plan = self._plan
        opened = open_connection(plan.host, plan.port, timeout_seconds=self._timeout_seconds, options=_SOCKET_OPTIONS)
        with self._lock:
            if not self._is_unwanted:
                self._copy = opened.dup()
        self._has_connected.set()
        return opened

    def _shake_hands(self, opened: socket.socket) -> socket.socket:
        if self._plan.tls is None:
            return opened
        contexts = self._find_contexts()
        if contexts is None:  # ssl could not be imported, so the connection was given up
            return opened
        self._context = contexts.get(self._plan.tls)
        return self._context.wrap_socket(opened, server_hostname=self._plan.host.encode("ascii"))

    def descriptor(self) -> socket.socket | None:
        """Return a second descriptor of the connection, by which the handshake can be ended; the caller closes it.

        None if there is no connection in time; it is given up then.
        """
        self._has_connected.wait(_PATIENCE_SECONDS)
        with self._lock:
            if self._copy is not None:
                return self._copy.dup()
        self.close()
        return None

    def finish(self, context: ssl.SSLContext | None) -> tuple[socket.socket, bytes] | None:
        """Return the connection, and the request that was sent on it; None if it is not what is needed.

        This waits for the end of the handshake.

        Args:
            context: that the connection is to have; None for plain http.
        """
        self._is_over.wait()
        with self._lock:
            opened = self._opened
            if opened is not None and self._context is context:
                self._opened = None
                if self._copy is not None:
                    self._copy.close()
                    self._copy = None
                return opened, self._plan.request
        self.close()
        return None

    def close(self) -> None:
        """Close the connection, now or once it is made, unless `finish` returned it."""
        with self._lock:
            self._is_unwanted = True
            opened, self._opened = self._opened, None
            copy, self._copy = self._copy, None
        if copy is not None:
            with suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)
            copy.close()
        if opened is not None:
            opened.close()


class EarlyConnections:
    """The connections to one server that are begun early; each is taken once, and `close` closes the others.

    Attributes:
        contexts: the TLS contexts, from which the connections have theirs; None for plain http.
    """

    def __init__(self, plan: _Plan, timeout_seconds: float, *, has_spare: bool) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._has_contexts = threading.Event()
        self._left: list[EarlyConnection] = []
        self.contexts: TlsContexts | None = None
        try:
            self._left.append(EarlyConnection(plan, timeout_seconds, self._find_contexts))
            if plan.tls is not None:
                self.contexts = self._begin_context(plan.tls)
                if has_spare:
                    spare = plan._replace(request=b"")
                    self._left.append(EarlyConnection(spare, timeout_seconds, self._find_contexts))
        except BaseException:
            self.close()
            raise
        finally:
            self._has_contexts.set()

    def _find_contexts(self) -> TlsContexts | None:
        self._has_contexts.wait()
        return self.contexts

    @staticmethod
    def _begin_context(tls: TlsSettings) -> TlsContexts:
        # ssl takes a moment to import, in which the connection is under way.
        from ociexport.registry.hosts.tls_contexts import (  # noqa: PLC0415 - start-up: as above
            TlsContexts,
            may_be_made_in_a_thread,
        )

        contexts = TlsContexts()
        with suppress(OciexportError, OSError):  # whoever needs the context gets this error again
            if may_be_made_in_a_thread(tls):
                # The interpreter's lock is not held while the authorities are read.
                start_thread(contexts.prepare, tls, name="read the authorities")
            else:
                contexts.get(tls)
        return contexts

    def take(self, host: str, port: int) -> EarlyConnection | None:
        """Return the next connection if it is to this host and port, which is the caller's then."""
        with self._lock:
            if self._left and (host, port) == (self._plan.host, self._plan.port):
                return self._left.pop(0)
        return None

    def close(self) -> None:
        """Close all connections that were not taken."""
        with self._lock:
            left, self._left = self._left, []
        for connection in left:
            connection.close()


def begin_early(reference: ImageReference, options: RegistryOptions, first: FirstRequest) -> EarlyConnections | None:
    """Begin the first connections to the server of ``reference``; the caller closes them.

    Nothing is begun where the first connection may go elsewhere: to a proxy or a mirror.

    Args:
        first: sent at once, if it needs no credentials. If config and layers are requested or sent next, at once, a
            second TLS connection is for them.
    """
    try:
        plan = _plan(reference, options, first)
        if plan is None:
            return None
        return EarlyConnections(plan, options.connect_timeout_seconds, has_spare=first.fetches)
    except (OciexportError, OSError):  # a wrong configuration: the code that is imported now reports it
        return None


def _plan(reference: ImageReference, options: RegistryOptions, first: FirstRequest) -> _Plan | None:
    """Return what to begin; None where another server may be asked first."""
    if sys.platform != "linux" or options.v1 or options.mirrors or any(map(may_be_there, options.hosts_dirs)):
        return None
    located = read_registries_conf(options.registries_conf).locate(reference)
    if located.mirrors:
        return None
    home = located.home.reference
    endpoint = endpoint_for(home.registry, options, insecure=located.home.insecure)
    scheme, _, rest = endpoint.api_urls[0].partition("://")
    server, _, _ = rest.partition("/")
    host = host_name(server).lower()
    port = number_in(server.rpartition("]")[2].partition(":")[2], 65535)
    if _names_a_proxy(os.environ) and not is_loopback(host):
        return None
    actual_port = port or _PORTS[scheme]
    is_anonymous = options.credentials is None and not options.headers and not is_any_auth_place(options.authfile)
    request = b""
    if is_anonymous and (first.asks or first.pings):
        target, headers = "/v2/", {}
        if first.asks:
            target += f"{home.repository}/manifests/{home.manifest_selector}"
            headers = _headers_of_manifest(first.held)
        request = _request(host, None if actual_port == _PORTS[scheme] else port, target, headers)
    return _Plan(host, actual_port, endpoint.tls if scheme == "https" else None, request)


def _names_a_proxy(environment: Mapping[str, str]) -> bool:
    """Whether any variable may name a proxy: Python reads these names in any case, also for single hosts."""
    return any(
        value and name.lower().endswith("_proxy") and name.lower() != "no_proxy" for name, value in environment.items()
    )


def _headers_of_manifest(held: Digest | None) -> dict[str, str]:
    headers = {"Accept": ", ".join(mediatypes.ACCEPTED_MANIFESTS)}
    if held is not None:
        headers["If-None-Match"] = f'"{held}"'
    return headers


def _request(host: str, port: int | None, target: str, more_headers: Mapping[str, str]) -> bytes:
    """Return the bytes that http.client sends for this request; if it sends others, the connection is not used."""
    shown = f"[{host}]" if ":" in host else host
    headers = {
        "Host": shown if port is None else f"{shown}:{port}",
        "User-Agent": f"ociexport/{__version__}",
        "Accept-Encoding": "identity",
        **more_headers,
    }
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")
