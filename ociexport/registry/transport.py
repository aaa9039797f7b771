"""One request well made: connections, retries, redirects, time-outs, and what may be sent to whom.

The only user of requests. Its `HTTPAdapter` is used with no `Session` above it: a session would bring cookies,
``.netrc`` and redirects of its own, and would read a redirect's body whatever its length.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3
from requests.structures import CaseInsensitiveDict

import ociexport
from ociexport.errors import RegistryError, TransferError, printable, quoted
from ociexport.progress import SILENT, Progress
from ociexport.registry.addresses import verify_may_be_sent
from ociexport.registry.certificates import DEFAULT_TLS, TlsSettings
from ociexport.registry.connections import Adapter, OpenSockets, find_issuer
from ociexport.registry.failures import (
    MAX_ERROR_BODY_BYTES,
    StalledError,
    error_of_connection,
    error_of_response,
    has_unknown_issuer,
    reason_of,
    redacted,
    status_line,
)
from ociexport.registry.options import DEFAULT_OPTIONS, RegistryOptions
from ociexport.registry.retries import backoff_seconds, is_passing_error, is_passing_status, retry_after_seconds

# Registries redirect once to their storage, and that perhaps once more to a nearer place.
MAX_REDIRECTS = 10
# Beside one for each blob that is fetched; more would only take each other's share, or offend the registry.
MAX_SPARE_CONNECTIONS = 12
# The rest of a redirect's or an error's page is read, so that the connection can be used again.
_DRAINED_BYTES = 16 * 1024
# `read` fills what it was asked for, but keeps nobody waiting longer than this for what has arrived.
_FILL_SECONDS = 0.1

_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')

_NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
# A TLS socket that was closed raises ValueError in a thread that reads from it.
_READ_ERRORS = (*_NETWORK_ERRORS, ValueError)


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request to be sent.

    Args:
        subject: what is asked for, as messages call it: ``manifest docker.io/library/alpine:3.20``.
        headers: sent wherever redirects lead.
        home_headers: sent to the origin of ``url`` only.
        authorization: sent to the origin of ``url`` only.
        accepted: statuses that are no error; others are raised.
        body: of a POST, form encoded.
        tls: for the origin of ``url`` only.
        retries: whether passing failures are tried again.
        sent_by: the URL of the server that named this one; None for what the user named.
    """

    method: str
    url: str
    subject: str
    headers: Mapping[str, str] = field(default_factory=dict)
    home_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    authorization: str | None = field(default=None, repr=False)
    accepted: frozenset[int] = frozenset({200})
    body: bytes | None = field(default=None, repr=False)
    tls: TlsSettings = DEFAULT_TLS
    retries: bool = True
    sent_by: str | None = None


class Answer:
    """A response whose body is still to be read, as raw bytes; closed by the caller."""

    def __init__(
        self,
        request: WireRequest,
        url: str,
        response: requests.Response,
        options: RegistryOptions,
        *,
        is_from_home: bool,
    ) -> None:
        self.request = request
        self.url = url
        # Whether it comes from the server that was asked, and not from one that it redirected to.
        self.is_from_home = is_from_home
        self.status: int = response.status_code
        self.headers: CaseInsensitiveDict[str] = response.headers
        self._raw: urllib3.HTTPResponse = response.raw
        self._error: TransferError | None = None
        self._pace = _Pace(options.min_bytes_per_second, options.stall_seconds)

    @property
    def content_length(self) -> int | None:
        """What Content-Length says; None where it is missing or no number, or the body is chunked."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdecimal() and "Transfer-Encoding" not in self.headers else None

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of the body as they were sent, never decoded; ``b""`` at its end.

        Raises:
            TransferError: the connection broke or stalled; all that had arrived was returned before.
        """
        if self._error is not None:
            raise self._error
        parts: list[bytes] = []
        missing = size
        started = time.monotonic()
        try:
            while missing and (part := self._raw.read1(missing, decode_content=False)):
                parts.append(part)
                missing -= len(part)
                if time.monotonic() - started > _FILL_SECONDS:
                    break
            self._pace.take(size - missing, time.monotonic() - started)
        except _READ_ERRORS as error:
            self._error = self._broken(error)
            if not parts:
                raise self._error from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _broken(self, error: BaseException) -> TransferError:
        self.close()
        broken = error_of_connection(error, subject=self.request.subject, method=self.request.method, url=self.url)
        broken.__cause__ = error
        return broken

    def read_up_to(self, max_bytes: int) -> bytes:
        """Return the body's first ``max_bytes``; the connection can be used again if that was all."""
        parts: list[bytes] = []
        missing = max_bytes
        while missing and (part := self.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back; it is closed where more bytes are to come than a new one is worth."""
        missing = self._raw.length_remaining
        if self._error is None and missing is not None and missing <= _DRAINED_BYTES:
            self._raw.drain_conn()
        self._raw.close()
        self._raw.release_conn()

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


class _Pace:
    """How fast a body comes, as far as we wait for it: what the caller does between two reads is his time."""

    def __init__(self, min_bytes_per_second: int, window_seconds: float) -> None:
        self._min_bytes_per_second = min_bytes_per_second
        self._window_seconds = window_seconds
        self._seconds = 0.0
        self._bytes = 0

    def take(self, count: int, seconds: float) -> None:
        """Take note of ``count`` bytes that took ``seconds``; raises StalledError if it was too slow for too long."""
        self._seconds += seconds
        self._bytes += count
        if self._seconds < self._window_seconds:
            return
        if self._bytes < self._min_bytes_per_second * self._seconds:
            raise StalledError(f"stalled: {self._bytes} bytes in {self._seconds:.0f} s")
        self._seconds, self._bytes = 0.0, 0


class SpareConnections:
    """How many connections may be made beside the one that each blob has."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()

    def take(self, wanted: int) -> int:
        """Take up to ``wanted``; returns how many there were."""
        with self._lock:
            taken = min(wanted, self._count)
            self._count -= taken
        return taken

    def give_back(self, count: int) -> None:
        """Return some that were taken."""
        with self._lock:
            self._count += count


class Transport:
    """Sends requests; shared by all sources and threads of a run, so that connections are used again.

    Args:
        options: time-outs and retries.
        progress: told of each retry, and of registries' warnings.
    """

    def __init__(self, options: RegistryOptions = DEFAULT_OPTIONS, progress: Progress = SILENT) -> None:
        self.options = options
        self.progress = progress
        self._adapters: dict[TlsSettings, Adapter] = {}
        self.spare_connections = SpareConnections(MAX_SPARE_CONNECTIONS)
        self._sockets = OpenSockets()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._warned: set[str] = set()
        self._verified_hosts: set[tuple[str, str]] = set()

    def send(self, request: WireRequest) -> Answer:
        """Return the answer to ``request``, redirects followed and passing failures retried.

        Raises:
            TransferError: no connection, or a 408 or 5xx, each time.
            RateLimitError, AuthenticationError, RegistryNotFoundError, RegistryError: a status that is not accepted.
        """
        attempt = 0
        while True:
            attempt += 1
            asked_seconds = None
            try:
                answer = self._send_following(request)
            except TransferError as error:
                failure: RegistryError = error
            else:
                if answer.status in request.accepted:
                    return answer
                failure = answer.error(_read_error_body(answer))
                if not is_passing_status(answer.status):
                    raise failure
                asked_seconds = retry_after_seconds(answer.headers)
            if not request.retries or not self.wait_for_retry(attempt, failure, request.subject, asked_seconds):
                raise failure

    def wait_for_retry(
        self, attempt: int, failure: RegistryError, subject: str, asked_seconds: float | None = None
    ) -> bool:
        """Wait after the failed ``attempt`` (from 1) and return True; False where there is to be no other.

        Args:
            failure: what the attempt ended in.
            subject: what is asked for, as messages call it.
            asked_seconds: the wait that the server asks for.
        """
        times = self.options.retry_times
        if attempt > times or self._closed.is_set() or not is_passing_error(failure):
            return False
        delay = backoff_seconds(attempt, self.options.retry_delay_seconds)
        if asked_seconds is not None:
            if asked_seconds > self.options.max_wait_seconds:
                return False
            delay = max(delay, asked_seconds)
        reason = status_line(failure.status) if failure.status is not None else reason_of(failure)
        self.progress.say(f"{subject}: {reason}; retry {attempt} of {times} in {delay:.1f} s")
        return not self._closed.wait(delay)

    def close(self) -> None:
        """Close all connections, those in use by other threads too, and end all waits."""
        self._closed.set()
        self._sockets.shut_down()
        with self._lock:
            for adapter in self._adapters.values():
                adapter.close()

    def _send_following(self, request: WireRequest) -> Answer:
        """Send ``request`` and follow its redirects."""
        url = request.url
        if request.sent_by is not None:
            self._verify_may_be_sent(url, request)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._send_once(request, url)
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECT_STATUSES or location is None:
                return answer
            answer.close()
            url = _redirect_target(request, url, location)
            self._verify_may_be_sent(url, request)
        raise _redirect_error(request, request.url, f"expected at most {MAX_REDIRECTS} redirects")

    def _verify_may_be_sent(self, url: str, request: WireRequest) -> None:
        home = request.sent_by or request.url
        hosts = urlsplit(url).netloc, urlsplit(home).netloc
        # Looking up names takes time, and a pull is redirected to the same storage again and again.
        if hosts not in self._verified_hosts:
            is_proxied = bool(requests.utils.get_environ_proxies(url))
            verify_may_be_sent(url, home, request.subject, is_proxied=is_proxied)
            self._verified_hosts.add(hosts)

    def _send_once(self, request: WireRequest, url: str) -> Answer:
        at_home = _may_see_secrets(urlsplit(request.url), urlsplit(url))
        headers = {
            "User-Agent": f"ociexport/{ociexport.__version__}",
            # Digests are of the raw bytes: whoever compresses them on the way changes them.
            "Accept-Encoding": "identity",
            **request.headers,
            **(request.home_headers if at_home else {}),
        }
        if request.authorization is not None and at_home:
            headers["Authorization"] = request.authorization
        if request.body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        proxies = requests.utils.get_environ_proxies(url)
        try:
            prepared = requests.Request(request.method, url, headers=headers, data=request.body).prepare()
            response = self._adapter(request.tls if at_home else DEFAULT_TLS).send(
                prepared,
                stream=True,
                timeout=(self.options.connect_timeout_seconds, self.options.read_timeout_seconds),
                proxies=proxies,
            )
        except _NETWORK_ERRORS as error:
            issuer = self._find_issuer(url) if has_unknown_issuer(error) else None
            raise error_of_connection(
                error,
                subject=request.subject,
                method=request.method,
                url=url,
                issuer=issuer,
                proxy=requests.utils.select_proxy(url, proxies),
            ) from error
        answer = Answer(request, url, response, self.options, is_from_home=at_home)
        if at_home:
            self._pass_on_warnings(answer)
        return answer

    def _find_issuer(self, url: str) -> str | None:
        parts = urlsplit(url)
        if requests.utils.get_environ_proxies(url):
            return None
        return find_issuer(parts.hostname or "", _port(parts), self.options.connect_timeout_seconds)

    def _adapter(self, tls: TlsSettings) -> Adapter:
        with self._lock:
            if self._closed.is_set():
                raise TransferError("the connections were closed")
            if tls not in self._adapters:
                self._adapters[tls] = Adapter(tls, self._sockets)
            return self._adapters[tls]

    def _pass_on_warnings(self, answer: Answer) -> None:
        """Tell once what the registry wants people to know.

        Spec: distribution-spec 1.1, "Warnings".
        """
        for escaped in _WARNING.findall(answer.headers.get("Warning", "")):
            text = re.sub(r"\\(.)", r"\1", escaped)
            line = f"{urlsplit(answer.url).netloc} says: {printable(text)}"
            with self._lock:
                is_new = line not in self._warned
                self._warned.add(line)
            if is_new:
                self.progress.warn(line)


def _read_error_body(answer: Answer) -> bytes:
    """Return the beginning of an error's body, as far as it comes: the status matters more."""
    try:
        return answer.read_up_to(MAX_ERROR_BODY_BYTES)
    except TransferError:
        return b""
    finally:
        answer.close()


def _redirect_target(request: WireRequest, url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        target, is_web = location, False
    if not is_web:
        shown = quoted(target.partition("?")[0])
        raise _redirect_error(request, url, f"expected a redirect to http or https, got {shown}")
    return target


def _redirect_error(request: WireRequest, url: str, message: str) -> RegistryError:
    url = redacted(url)
    return RegistryError(f"{request.subject}: {request.method} {url}: {message}", method=request.method, url=url)


def _may_see_secrets(home: SplitResult, there: SplitResult) -> bool:
    """Whether ``there`` is the same server as ``home``, reached no less safely."""
    if (home.hostname, _port(home)) == (there.hostname, _port(there)):
        return home.scheme == there.scheme
    return home.hostname == there.hostname and (_port(home), _port(there), there.scheme) == (80, 443, "https")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)
