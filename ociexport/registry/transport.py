"""One request well made: connections, retries, redirects, time-outs, and what may be sent to whom.

The only user of requests. Its `HTTPAdapter` is used with no `Session` above it: a session would bring cookies,
``.netrc`` and redirects of its own, and would read a redirect's body whatever its length.
"""

from __future__ import annotations

import random
import ssl
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

import ociexport
from ociexport.errors import RegistryError, TransferError, quoted
from ociexport.progress import SILENT, Progress
from ociexport.registry.failures import (
    MAX_ERROR_BODY_BYTES,
    error_of_connection,
    error_of_response,
    reason_of,
    redacted,
)
from ociexport.registry.hosts import DEFAULT_TLS, TlsSettings
from ociexport.registry.options import DEFAULT_OPTIONS, RegistryOptions

# Registries redirect once to their storage, and that perhaps once more to a nearer place.
MAX_REDIRECTS = 10
# A wait doubles with each retry up to here.
_MAX_BACKOFF_SECONDS = 30.0
# More connections to one host than anybody asks for with --jobs; those beyond are made and thrown away.
_POOL_CONNECTIONS = 32

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Not implemented, and version not supported: the same request will fail in the same way.
_LASTING_SERVER_ERRORS = frozenset({501, 505})
_PASSING_CLIENT_ERRORS = frozenset({408, 429})

_NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request to be sent.

    Args:
        subject: what is asked for, as messages call it: ``manifest docker.io/library/alpine:3.20``.
        headers: sent wherever redirects lead.
        authorization: sent to the origin of ``url`` only.
        accepted: statuses that are no error; others are raised.
        body: of a POST, form encoded.
        retries: whether passing failures are tried again.
    """

    method: str
    url: str
    subject: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    accepted: frozenset[int] = frozenset({200})
    body: bytes | None = field(default=None, repr=False)
    tls: TlsSettings = DEFAULT_TLS
    retries: bool = True


class Answer:
    """A response whose body is still to be read, as raw bytes; closed by the caller."""

    def __init__(self, request: WireRequest, url: str, response: requests.Response) -> None:
        self.request = request
        self.url = url
        self.status: int = response.status_code
        self.headers: CaseInsensitiveDict[str] = response.headers
        self._raw: urllib3.HTTPResponse = response.raw

    @property
    def content_length(self) -> int | None:
        """What Content-Length says; None where it is missing or no number, or the body is chunked."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdecimal() and "Transfer-Encoding" not in self.headers else None

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of the body as they were sent, never decoded; ``b""`` at its end.

        Raises:
            TransferError: the connection broke; the answer is then closed.
        """
        try:
            return self._raw.read(size, decode_content=False)
        except _NETWORK_ERRORS as error:
            self.close()
            raise error_of_connection(
                error, subject=self.request.subject, method=self.request.method, url=self.url
            ) from error

    def read_up_to(self, max_bytes: int) -> bytes:
        """Return the body's first ``max_bytes``; the connection can be used again if that was all."""
        parts: list[bytes] = []
        missing = max_bytes
        while missing and (part := self.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back, or close it where bytes are still to come."""
        self._raw.close()
        self._raw.release_conn()

    def abort(self) -> None:
        """End a `read` that waits in another thread; it raises."""
        try:
            self._raw.shutdown()
        except (OSError, ValueError, RuntimeError):
            # It has just ended, or was never open.
            return

    def error(self, body: bytes) -> RegistryError:
        """Return the error that this answer stands for."""
        return error_of_response(
            subject=self.request.subject,
            method=self.request.method,
            url=self.url,
            status=self.status,
            headers=self.headers,
            body=body,
        )


class Transport:
    """Sends requests; shared by all sources and threads of a run, so that connections are used again.

    Args:
        options: time-outs and retries.
        progress: told of each retry.
    """

    def __init__(self, options: RegistryOptions = DEFAULT_OPTIONS, progress: Progress = SILENT) -> None:
        self.options = options
        self.progress = progress
        self._adapters: dict[TlsSettings, _TlsAdapter] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._answers: weakref.WeakSet[Answer] = weakref.WeakSet()

    def send(self, request: WireRequest) -> Answer:
        """Return the answer to ``request``, redirects followed and passing failures retried.

        Raises:
            TransferError: no connection, or a 408 or 5xx, each time.
            RateLimitError, AuthenticationError, RegistryNotFoundError, RegistryError: a status that is not accepted.
        """
        attempt = 1
        while True:
            try:
                answer = self._send_following(request)
            except TransferError as error:
                if not request.retries or not self.wait_for_retry(attempt, error.__cause__ or error, request.subject):
                    raise
            else:
                if answer.status in request.accepted:
                    return answer
                body = _read_error_body(answer)
                reason = f"status {answer.status}"
                if not (
                    request.retries
                    and _is_passing(answer.status)
                    and self.wait_for_retry(attempt, reason, request.subject)
                ):
                    raise answer.error(body)
            attempt += 1

    def wait_for_retry(self, attempt: int, reason: BaseException | str, subject: str) -> bool:
        """Wait after the failed ``attempt`` (from 1) and return True; False where there is to be no other."""
        times = self.options.retry_times
        if attempt > times or self._closed.is_set():
            return False
        delay = min(self.options.retry_delay_seconds * 2 ** (attempt - 1), _MAX_BACKOFF_SECONDS)
        # Clients that failed together must not come back together.
        delay *= random.uniform(0.75, 1.25)  # noqa: S311 - nothing secret
        words = reason if isinstance(reason, str) else reason_of(reason)
        self.progress.say(f"{subject}: {words}; retry {attempt} of {times} in {delay:.1f} s")
        return not self._closed.wait(delay)

    def close(self) -> None:
        """Close all connections, those in use by other threads too, and end all waits."""
        self._closed.set()
        for answer in list(self._answers):
            answer.abort()
        with self._lock:
            for adapter in self._adapters.values():
                adapter.close()

    def _send_following(self, request: WireRequest) -> Answer:
        """Send ``request`` and follow its redirects."""
        url = request.url
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._send_once(request, url)
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            answer.close()
            url = _redirect_target(request, url, location)
        raise RegistryError(
            f"{request.subject}: {request.method} {redacted(request.url)}: expected at most {MAX_REDIRECTS} redirects",
            method=request.method,
            url=redacted(request.url),
        )

    def _send_once(self, request: WireRequest, url: str) -> Answer:
        at_home = _may_see_secrets(urlsplit(request.url), urlsplit(url))
        headers = {
            "User-Agent": f"ociexport/{ociexport.__version__}",
            # Digests are of the raw bytes: whoever compresses them on the way changes them.
            "Accept-Encoding": "identity",
            **request.headers,
        }
        if request.authorization is not None and at_home:
            headers["Authorization"] = request.authorization
        if request.body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            prepared = requests.Request(request.method, url, headers=headers, data=request.body).prepare()
            response = self._adapter(request.tls if at_home else DEFAULT_TLS).send(
                prepared,
                stream=True,
                timeout=(self.options.connect_timeout_seconds, self.options.read_timeout_seconds),
                proxies=requests.utils.get_environ_proxies(url),
            )
        except _NETWORK_ERRORS as error:
            raise error_of_connection(error, subject=request.subject, method=request.method, url=url) from error
        answer = Answer(request, url, response)
        self._answers.add(answer)
        return answer

    def _adapter(self, tls: TlsSettings) -> _TlsAdapter:
        with self._lock:
            if self._closed.is_set():
                raise TransferError("the connections were closed")
            if tls not in self._adapters:
                self._adapters[tls] = _TlsAdapter(tls)
            return self._adapters[tls]


class _TlsAdapter(HTTPAdapter):
    """Connections that share one `ssl.SSLContext`, ours: the system's authorities, which requests does not ask."""

    def __init__(self, tls: TlsSettings) -> None:
        self._context = ssl.create_default_context()
        if not tls.verify:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        super().__init__(pool_connections=_POOL_CONNECTIONS, pool_maxsize=_POOL_CONNECTIONS)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the connection as it is: its context knows all."""


def _read_error_body(answer: Answer) -> bytes:
    """Return the beginning of an error's body, as far as it comes: the status matters more."""
    try:
        return answer.read_up_to(MAX_ERROR_BODY_BYTES)
    except TransferError:
        return b""
    finally:
        answer.close()


def _is_passing(status: int) -> bool:
    """Whether the same request may fare better in a while."""
    return status in _PASSING_CLIENT_ERRORS or (status >= 500 and status not in _LASTING_SERVER_ERRORS)


def _redirect_target(request: WireRequest, url: str, location: str) -> str:
    target = urljoin(url, location)
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RegistryError(
            f"{request.subject}: {request.method} {redacted(url)}: expected a redirect to http or https, "
            f"got {quoted(redacted(target))}",
            method=request.method,
            url=redacted(url),
        )
    return target


def _may_see_secrets(home: SplitResult, there: SplitResult) -> bool:
    """Whether ``there`` is the same server as ``home``, reached no less safely."""
    if (home.hostname, _port(home)) == (there.hostname, _port(there)):
        return home.scheme == there.scheme
    return home.hostname == there.hostname and (_port(home), _port(there), there.scheme) == (80, 443, "https")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)
