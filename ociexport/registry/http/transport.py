"""Sending requests: retries, redirects, timeouts, and which server may see which header.

The `HTTPAdapter` of requests is used without a `Session`: a session would add cookies, ``.netrc`` and redirects of its
own, and would read a redirect's body whatever its length.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import requests

from ociexport.errors import RegistryError, TransferError, printable, quoted
from ociexport.registry.addresses import ForbiddenAddressError, Nearness, literal_nearness
from ociexport.registry.early import EarlyConnections
from ociexport.registry.hosts.certificates import TlsSettings, tls_of_any_host
from ociexport.registry.http.connections import Adapter, OpenSockets, find_issuer, prepare
from ociexport.registry.http.echoes import without_echoes
from ociexport.registry.http.failures import (
    causes,
    error_of_connection,
    has_wrong_certificate,
    reason_of,
    redacted,
    status_line,
)
from ociexport.registry.http.logs import LoggedRequest
from ociexport.registry.http.messages import NETWORK_ERRORS, Answer, WireRequest
from ociexport.registry.http.proxies import proxies_for
from ociexport.registry.http.retries import backoff_seconds, is_passing_error, is_passing_status, retry_after_seconds
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl, text_of_header
from ociexport.registry.options import DEFAULT_OPTIONS, RegistryOptions
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.system.version import __version__

# Registries redirect once to their storage, which may redirect once more to a nearer copy.
MAX_REDIRECTS = 10
# Connections beyond the first one of each blob; more would only compete with each other, or exceed a registry's limit.
MAX_SPARE_CONNECTIONS = 12

# A registry has one or two; one that sends a new warning with each answer must not fill the terminal.
_MAX_WARNINGS = 32

_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


class SpareConnections:
    """How many connections may be made in addition to the first one of each blob."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()

    def take(self, wanted: int) -> int:
        """Take up to ``wanted`` connections; returns how many were taken."""
        with self._lock:
            taken = min(wanted, self._count)
            self._count -= taken
        return taken

    def give_back(self, count: int) -> None:
        """Give back ``count`` connections that were taken."""
        with self._lock:
            self._count += count


class Transport:
    """Sends requests; all sources and threads of a run share one, and with it the open connections.

    Args:
        options: timeouts and retries.
        progress: receives a line for each retry and each registry's warning; with ``options.verbose`` for each request.
        early: connections that are being made; the transport closes them.
    """

    def __init__(
        self,
        options: RegistryOptions = DEFAULT_OPTIONS,
        progress: Progress = SILENT,
        early: EarlyConnections | None = None,
    ) -> None:
        self.options = options
        self.progress = progress
        self._is_verbose = options.verbose
        self._adapters: dict[tuple[TlsSettings, Nearness], Adapter] = {}
        self._tls_of_any_host = tls_of_any_host(options.ca_file)
        self.spare_connections = SpareConnections(MAX_SPARE_CONNECTIONS)
        self._sockets = OpenSockets(options.read_timeout_seconds + options.stall_seconds, early)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._warned: set[str] = set()

    def send(self, request: WireRequest) -> Answer:
        """Return the answer to ``request``, after redirects and after retries of temporary failures.

        Raises:
            TransferError: every attempt ended with no connection, a 408 or a 5xx.
            RateLimitError, AuthenticationError, RegistryNotFoundError, RegistryError: a status that is not accepted.
        """
        attempt = 0
        has_answered = request.on_answer is None

        def answered(status: int) -> None:
            nonlocal has_answered
            has_answered = True
            if request.on_answer is not None:
                request.on_answer(status)

        while True:
            attempt += 1
            asked_seconds = None
            try:
                answer = self._send_following(request, answered)
                if answer.status in request.accepted:
                    answer.read_document()
                    return answer
            except TransferError as error:
                failure: RegistryError = error
            else:
                failure = answer.error()
                if not is_passing_status(answer.status):
                    raise failure
                failure.asked_seconds = asked_seconds = retry_after_seconds(answer.headers)
            may_retry = request.retries and has_answered
            if not may_retry or not self.wait_for_retry(attempt, failure, request.subject, asked_seconds):
                raise failure

    def wait_for_retry(
        self, attempt: int, failure: RegistryError, subject: str, asked_seconds: float | None = None
    ) -> bool:
        """Wait after the failed ``attempt`` (from 1) and return True; return False if no retry is allowed.

        Args:
            failure: the error of that attempt.
            subject: the requested object, as messages name it.
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
        """Close all connections, including those that other threads use, and end all waits."""
        self._closed.set()
        self._sockets.shut_down()
        with self._lock:
            for adapter in self._adapters.values():
                adapter.close()

    def _send_following(self, request: WireRequest, answered: Callable[[int], None]) -> Answer:
        """Send ``request`` and follow its redirects; call ``answered`` with the status that its own server answers."""
        home = url = request.url
        sender = home if request.sent_by is None else request.sent_by
        nearest = Nearness.MULTICAST if request.sent_by is None else self._nearness_of(sender)
        for _ in range(MAX_REDIRECTS + 1):
            # The sender's own address is not limited here; `SeenAddresses` keeps its name from coming nearer later.
            limit = Nearness.MULTICAST if url.origin == sender.origin else nearest
            answer = self._send_once(request, home, url, limit)
            if url is home:
                answered(answer.status)
            locations = answer.header_values("Location")
            if answer.status not in _REDIRECT_STATUSES or not locations:
                return answer
            answer.close()
            # No server on the way may redirect to an address nearer than its own.
            nearest = min(nearest, self._nearness_of(url))
            url = _redirect_target(request, url, text_of_header(locations[0]))
            if request.body is not None and not home.may_show_secrets_to(url):
                there = printable(redacted(str(url)))
                expected = "expected no redirect of a request with a secret to another server"
                raise _redirect_error(request, home, f"{expected}, got {there}")
        raise _redirect_error(request, home, f"expected at most {MAX_REDIRECTS} redirects")

    def _nearness_of(self, url: WebUrl) -> Nearness:
        return self._sockets.addresses.nearness(url.host, url.actual_port)

    def _send_once(self, request: WireRequest, home: WebUrl, url: WebUrl, nearest: Nearness) -> Answer:
        """Send ``request`` to ``url``, which is ``home`` or the target of a redirect.

        Args:
            nearest: how near to this machine the address may be. A proxy looks up names itself, and then only the
                spelling of the host is checked.
        """
        spelt = literal_nearness(url.host)
        if spelt is not None and spelt > nearest:
            raise _may_not_be_sent(request, url, url.host)
        at_home = home.may_show_secrets_to(url)
        headers = {
            "User-Agent": f"ociexport/{__version__}",
            # Digests are of the raw bytes, which compression on the way would change.
            "Accept-Encoding": "identity",
            **request.headers,
            **(request.home_headers if at_home else {}),
        }
        if request.authorization is not None and at_home:
            headers["Authorization"] = request.authorization
        if request.body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif request.content is not None:
            headers["Content-Type"] = request.content.media_type
        proxies = proxies_for(url)
        shown = str(url)
        logged = LoggedRequest(request.method, shown, headers.get("Range"), self.progress) if self._is_verbose else None
        tls = request.tls if at_home and request.tls is not None else self._tls_of_any_host
        try:
            response = self._adapter(tls, nearest).send(
                prepare(request.method, url, headers, request.body or request.content),
                stream=True,
                timeout=(self.options.connect_timeout_seconds, self.options.read_timeout_seconds),
                proxies=proxies,
            )
        except NETWORK_ERRORS as error:
            forbidden = next((cause for cause in causes(error) if isinstance(cause, ForbiddenAddressError)), None)
            if forbidden is not None:
                if logged is not None:
                    logged.failed(error)
                raise _may_not_be_sent(request, url, forbidden.address) from error
            is_rejected = has_wrong_certificate(error)
            seconds = self.options.connect_timeout_seconds
            failure = error_of_connection(
                error,
                subject=request.subject,
                method=request.method,
                url=shown,
                issuer=find_issuer(url, proxies, seconds, nearest) if is_rejected else None,
                proxy=requests.utils.select_proxy(shown, proxies),
                host=url.authority,
                is_named_by_user=at_home and request.sent_by is None,
                secrets=request.secrets(shown),
            )
            # After the secrets were cut from the error, which may quote the server.
            if logged is not None:
                logged.failed(error)
            raise failure from error
        if logged is not None:
            logged.answered(response.status_code)
        answer = Answer(request, shown, response, self.options, is_from_home=at_home, logged=logged)
        if at_home:
            self._pass_on_warnings(answer, url)
        return answer

    def _adapter(self, tls: TlsSettings, nearest: Nearness) -> Adapter:
        with self._lock:
            if self._closed.is_set():
                raise TransferError("the connections were closed")
            if (tls, nearest) not in self._adapters:
                self._adapters[tls, nearest] = Adapter(tls, self._sockets, nearest)
            return self._adapters[tls, nearest]

    def _pass_on_warnings(self, answer: Answer, url: WebUrl) -> None:
        """Report each of the registry's warnings once.

        Spec: distribution-spec 1.1, "Warnings".
        """
        for escaped in _WARNING.findall(answer.headers.get("Warning", "")):
            text = re.sub(r"\\(.)", r"\1", escaped)
            text = without_echoes(text, answer.request.secrets(answer.url))
            line = f"{url.authority} says: {printable(text)}"
            with self._lock:
                is_new = line not in self._warned and len(self._warned) < _MAX_WARNINGS
                if is_new:
                    self._warned.add(line)
            if is_new:
                self.progress.warn(line)


def _redirect_target(request: WireRequest, url: WebUrl, location: str) -> WebUrl:
    try:
        return url.join(location)
    except InvalidUrlError as error:
        expected = "expected a redirect to http or https and a plain host[:port]"
        raise _redirect_error(request, url, f"{expected}, got {quoted(redacted(location))}") from error


def _may_not_be_sent(request: WireRequest, url: WebUrl, address: str) -> RegistryError:
    shown = redacted(str(url))
    return RegistryError(
        f"{request.subject}: {printable(shown)}: a registry on another host may not send its clients to {address}",
        url=shown,
        hint="that is an address of this machine, or of a network that the registry is not part of",
    )


def _redirect_error(request: WireRequest, url: WebUrl, message: str) -> RegistryError:
    shown = redacted(str(url))
    return RegistryError(f"{request.subject}: {request.method} {shown}: {message}", method=request.method, url=shown)
