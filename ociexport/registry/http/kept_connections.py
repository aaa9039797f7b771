"""Pools that replace a kept connection which the server closed meanwhile, and that send URLs as they came.

A server closes a connection that was idle, or that has had its number of requests, whenever it likes. A request that is
sent at that moment gets no answer. This is no failure of the server, so it costs no retry and no wait.
"""

from __future__ import annotations

import ssl
import threading
from http.client import RemoteDisconnected
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ProtocolError
from urllib3.response import BaseHTTPResponse

from ociexport.registry.http.failures import causes
from ociexport.registry.http.sent_url import SentUrl

# What a request meets on a connection that the server has closed.
CLOSED_BY_SERVER = (
    RemoteDisconnected,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


class KeptConnectionClosedError(ConnectionError):
    """The server closed a connection that had answered before, in place of an answer."""


class ReplacingPool(HTTPConnectionPool):
    """A pool that sends a request once more, over a new connection, where a kept one was closed.

    Its connections raise `KeptConnectionClosedError`, and send their attribute ``target``.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # Hosts are canonical already, as `WebUrl` or urllib3's parser made them. urllib3 normalizes those of http and
        # https once more, with a pattern for IPv6 that takes a millisecond to compile.
        self.scheme = "canonical"
        super().__init__(*arguments, **options)
        del self.scheme
        self._thread = threading.local()

    def urlopen(self, method: str, url: str, *arguments: Any, **options: Any) -> BaseHTTPResponse:
        """Return the answer to a request for a `SentUrl`; see urllib3."""
        self._thread.target = url.target if isinstance(url, SentUrl) else url
        try:
            return super().urlopen(method, url, *arguments, **options)
        except ProtocolError as error:
            if not any(isinstance(cause, KeptConnectionClosedError) for cause in causes(error)):
                raise
        # Other kept connections may be closed as well, so the request does not take one of them.
        self._thread.needs_new = True
        try:
            return super().urlopen(method, url, *arguments, **options)
        finally:
            self._thread.needs_new = False

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)
        # urllib3 would change escapes in the URL that it passes to the connection.
        connection.target = self._thread.target
        if getattr(self._thread, "needs_new", False) and isinstance(connection, HTTPConnection):
            # urllib3 opens a closed connection again.
            connection.close()
        return connection
