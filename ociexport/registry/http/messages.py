"""WireRequest: a request to send. Answer: the response, whose body is still to be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import requests
import urllib3
from requests.structures import CaseInsensitiveDict

from ociexport.errors import RegistryError, TransferError, counted
from ociexport.registry.hosts.certificates import TlsSettings
from ociexport.registry.http.content import RequestContent
from ociexport.registry.http.deadlines import Deadline
from ociexport.registry.http.echoes import secrets_of
from ociexport.registry.http.failures import StalledError, error_of_connection, error_of_response
from ociexport.registry.http.logs import LoggedRequest
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import RegistryOptions
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.numerals import number_in

# What requests, urllib3 and sockets raise when a connection can't be made, or breaks.
NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
# A TLS socket that another thread has closed raises ValueError in the thread that reads from it.
_READ_ERRORS = (*NETWORK_ERRORS, ValueError)
# A rest of this size is read before the connection is given back, which makes the connection reusable.
_DRAINED_BYTES = 16 * 1024
# Reading the rest may take as long as a new connection would.
_DRAIN_SECONDS = 1.0
# `read` collects bytes up to the requested size, but holds back bytes that have arrived no longer than this.
_FILL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request to send.

    Args:
        subject: the requested object, as messages name it: ``manifest docker.io/library/alpine:3.20``.
        headers: sent to every server that redirects lead to.
        home_headers: sent to the origin of ``url`` only.
        authorization: sent to the origin of ``url`` only.
        accepted: statuses that are returned; all others are raised as errors.
        body: form-encoded body of a POST; it contains a secret, and is sent to the origin of ``url`` only.
        tls: for the origin of ``url`` only; None for the settings that apply to every host of a pull.
        retries: whether the request is repeated after a temporary failure.
        on_answer: called with the status of each answer. A server that may have another URL is only tried: until it
            has answered, a connection that fails is not repeated. None for a server known to be there.
        sent_by: the URL of the server that named ``url``; None if the user named it.
        document_bytes: for a document, how many bytes `Transport.send` reads; a connection that breaks meanwhile
            causes a retry. None for a body that the caller reads.
        content: the bytes to upload, which are no secret: they follow redirects. None without any.
    """

    method: str
    url: WebUrl
    subject: str
    headers: Mapping[str, str] = field(default_factory=dict)
    home_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    authorization: str | None = field(default=None, repr=False)
    accepted: frozenset[int] = frozenset({200})
    body: bytes | None = field(default=None, repr=False)
    tls: TlsSettings | None = None
    retries: bool = True
    on_answer: Callable[[int], None] | None = field(default=None, repr=False, compare=False)
    sent_by: WebUrl | None = None
    document_bytes: int | None = None
    content: RequestContent | None = None

    def secrets(self, url: str) -> frozenset[str]:
        """Return the secrets of this request, sent to ``url``, which a server may repeat."""
        return secrets_of(self.authorization, self.home_headers, self.body, url)


class Answer:
    """A response whose body is still to be read, as raw bytes; the caller closes it."""

    def __init__(
        self,
        request: WireRequest,
        url: str,
        response: requests.Response,
        options: RegistryOptions,
        *,
        is_from_home: bool,
        logged: LoggedRequest | None = None,
    ) -> None:
        self.request = request
        self.url = url
        # Whether the requested server answered itself, without a redirect to another server.
        self.is_from_home = is_from_home
        self.status: int = response.status_code
        self.headers: CaseInsensitiveDict[str] = response.headers
        self._raw: urllib3.HTTPResponse = response.raw
        self._deadline: Deadline = getattr(response.raw, "deadline")  # noqa: B009 - ours, which urllib3's stubs lack
        self._logged = logged
        self._read_bytes = 0
        self._error: TransferError | None = None
        self._document: bytes | None = None
        self._pace = _Pace(options.min_bytes_per_second, options.stall_seconds)

    @property
    def content_length(self) -> int | None:
        """The value of Content-Length; None if it is missing or not a number, or the body is chunked."""
        text = self.headers.get("Content-Length", "")
        return number_in(text) if "Transfer-Encoding" not in self.headers else None

    def header_values(self, name: str) -> list[str]:
        """Return the value of each header of this name; values are not split at commas."""
        return list(self._raw.headers.getlist(name))

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of the body as sent, never decoded; ``b""`` at its end.

        Raises:
            TransferError: the connection broke or stalled; all bytes that had arrived were returned before.
        """
        if self._error is not None:
            raise self._error
        parts: list[bytes] = []
        missing = size
        started = self._deadline.since = time.monotonic()
        try:
            while missing and (part := self._raw.read1(missing, decode_content=False)):
                parts.append(part)
                missing -= len(part)
                fill_seconds = _FILL_SECONDS - (time.monotonic() - started)
                if not missing or fill_seconds <= 0 or not self._may_go_on_within(fill_seconds):
                    break
            self._deadline.verify()
            self._read_bytes += size - missing
            self._pace.take(size - missing, time.monotonic() - started)
        except _READ_ERRORS as error:
            self._error = self._broken(self._deadline.reason_of(error))
            if not parts:
                raise self._error from error
        finally:
            self._deadline.since = None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _may_go_on_within(self, seconds: float) -> bool:
        """Whether the next read returns within ``seconds``.

        At the end of a body of known length, and of a chunked body whose end was read already, no byte is awaited.
        """
        return not self._raw.length_remaining or self._deadline.arrives_within(seconds)

    def _broken(self, error: BaseException) -> TransferError:
        if self._logged is not None:
            self._logged.ended(self._read_bytes, error)
        self.close()
        broken = error_of_connection(
            error,
            subject=self.request.subject,
            method=self.request.method,
            url=self.url,
            secrets=self.request.secrets(self.url),
        )
        broken.__cause__ = error
        return broken

    def read_document(self) -> None:
        """Read the body of a document into memory, where `read_up_to` finds it, and give the connection back.

        Raises:
            TransferError: the connection broke or stalled.
        """
        if self.request.document_bytes is None:
            return
        try:
            self._document = self.read_up_to(self.request.document_bytes)
        finally:
            self.close()

    def read_up_to(self, max_bytes: int) -> bytes:
        """Return the body's first ``max_bytes``; the connection is reusable if the body has no more."""
        if self._document is not None:
            return self._document[:max_bytes]
        # A list of parts would be large: a server may send single bytes, and each would be an object.
        body = bytearray()
        while len(body) < max_bytes and (part := self.read(max_bytes - len(body))):
            body += part
        return bytes(body)

    def close(self) -> None:
        """Give the connection back, or close it if the rest of the body is too large to read."""
        missing = self._raw.length_remaining
        if self._error is None and missing is not None and missing <= _DRAINED_BYTES:
            self._drain()
        self._raw.close()
        self._raw.release_conn()
        if self._logged is not None:
            self._logged.ended(self._read_bytes)

    def _drain(self) -> None:
        """Read the small rest of the body, but give up if it takes too long."""
        started = time.monotonic()
        with suppress(*_READ_ERRORS), self._deadline.waiting():
            while self._raw.read1(_DRAINED_BYTES, decode_content=False):
                if time.monotonic() - started > _DRAIN_SECONDS:
                    return

    def error(self) -> RegistryError:
        """Return this answer as an error, with the explanation from its body, and close the answer."""
        from ociexport.registry.http.error_bodies import MAX_ERROR_BODY_BYTES  # noqa: PLC0415 - start-up: only an error needs it

        try:
            body = self.read_up_to(MAX_ERROR_BODY_BYTES)
        except TransferError:
            # The status is reported even if the body can't be read.
            body = b""
        finally:
            self.close()
        return error_of_response(
            subject=self.request.subject,
            method=self.request.method,
            url=self.url,
            status=self.status,
            headers=self.headers,
            body=body,
            is_from_home=self.is_from_home,
            secrets=self.request.secrets(self.url),
        )


class _Pace:
    """How fast a body arrives while we wait for it; time that the caller spends between two reads does not count."""

    def __init__(self, min_bytes_per_second: int, window_seconds: float) -> None:
        self._min_bytes_per_second = min_bytes_per_second
        self._window_seconds = window_seconds
        self._seconds = 0.0
        self._bytes = 0

    def take(self, count: int, seconds: float) -> None:
        """Count ``count`` bytes that took ``seconds``; raises StalledError if the body was too slow for too long."""
        self._seconds += seconds
        self._bytes += count
        if self._seconds < self._window_seconds:
            return
        if self._bytes < self._min_bytes_per_second * self._seconds:
            raise StalledError(f"stalled: {counted(self._bytes, 'byte')} in {self._seconds:.0f} s")
        self._seconds, self._bytes = 0.0, 0
