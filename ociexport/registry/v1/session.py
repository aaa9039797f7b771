"""Requests in Docker's first registry protocol: to an index, and to the registries that it names.

For an image, a client asks the index. Its answer names the hosts that have the image (``X-Docker-Endpoints``) and gives
a token for them. A registry without a separate index is its own index. Hosts may recognize a client by cookies.

Each secret goes only to the servers it is for: a token to the endpoints that were named with it, a cookie to the host
that set it, a password to the index and to an endpoint on exactly the same host. Endpoints are contacted with the
scheme (http or https) of the index, and an index on another machine can't name this machine.

Spec: docker 1.6 "The Docker Hub and the Registry v1", "Docker Registry API v1"; moby ``registry/session.go``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping

from ociexport.errors import (
    AuthenticationError,
    InvalidImageError,
    LimitExceededError,
    RegistryError,
    RegistryNotFoundError,
    quoted,
)
from ociexport.registry.auth.challenges import basic_authorization
from ociexport.registry.auth.credentials import Finding
from ociexport.registry.hosts.certificates import TlsSettings
from ociexport.registry.hosts.endpoints import Endpoint, tls_for
from ociexport.registry.http.encodings import undo_for_document
from ociexport.registry.http.messages import Answer, WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl, is_web_url
from ociexport.registry.options import RegistryOptions
from ociexport.registry.session import RegistrySession
from ociexport.spec.lazy_dataclass import dataclass, replace

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024

_OK = frozenset({200})
# How an index may answer an anonymous request for which credentials could be accepted.
_REFUSALS = frozenset({401, 403, 404})
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
# Names and values as in RFC 6265 4.1.1; other cookies are ignored.
_COOKIE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(\"?[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\"?)")
_MAX_COOKIES = 50
_MAX_ENDPOINTS = 16
_MAX_HEADER_CHARACTERS = 8192


class V1Host:
    """One host that has layers; used by several threads.

    Args:
        base: URL of its API, ``https://registry.example/v1``.
        transport: shared, closed by the caller.
        tls: for this host only.
        headers: sent to this host only; they may contain secrets.
        authorization: sent to this host only.
        named_by: the URL of the index that named this host; None if the user named it.
    """

    def __init__(
        self,
        base: WebUrl,
        transport: Transport,
        tls: TlsSettings,
        *,
        headers: Mapping[str, str],
        authorization: str | None = None,
        named_by: WebUrl | None = None,
    ) -> None:
        self.base = base
        self._transport = transport
        self._tls = tls
        self._headers = headers
        self._authorization = authorization
        self._named_by = named_by
        self._cookies: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Host and port."""
        return self.base.authority

    def authorize(self, authorization: str | None) -> None:
        """Send ``authorization`` with every request from now on."""
        self._authorization = authorization

    def get(
        self,
        path: str,
        *,
        subject: str,
        headers: Mapping[str, str] | None = None,
        home_headers: Mapping[str, str] | None = None,
        accepted: frozenset[int] = _OK,
        authorization: str | None = None,
        document_bytes: int | None = None,
    ) -> Answer:
        """Return the answer to a GET of ``path`` (``/images/…``); for ``document_bytes`` see `WireRequest`.

        Raises:
            AuthenticationError: this host denies access.
            RegistryError: see `Transport.send`.
        """
        with self._lock:
            cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        request = WireRequest(
            "GET",
            WebUrl.parse(f"{self.base}{path}"),
            subject,
            headers=headers or {},
            home_headers={**self._headers, **(home_headers or {}), **({"Cookie": cookies} if cookies else {})},
            accepted=accepted,
            tls=self._tls,
            authorization=authorization or self._authorization,
            sent_by=self._named_by,
            document_bytes=document_bytes,
        )
        answer = self._transport.send(request)
        if answer.is_from_home:
            self._keep_cookies(answer)
        return answer

    def get_document(self, path: str, *, subject: str) -> tuple[bytes, Answer]:
        """Return the JSON document at ``path``, and its answer, which is closed.

        Raises:
            LimitExceededError: the document is too large.
            RegistryError: see `get`.
        """
        answer = self.get(path, subject=subject, document_bytes=MAX_DOCUMENT_BYTES + 1)
        return _document_of(answer, subject), answer

    def _keep_cookies(self, answer: Answer) -> None:
        for text in answer.header_values("Set-Cookie"):
            match = _COOKIE.match(text)
            with self._lock:
                if match is not None and len(text) <= _MAX_HEADER_CHARACTERS and len(self._cookies) < _MAX_COOKIES:
                    self._cookies[match[1]] = match[2]


@dataclass(frozen=True, slots=True)
class V1Index:
    """The index, which names the hosts of an image.

    Args:
        endpoint: a server with an API of the first protocol.
        search: finds the credentials for the repository; called only if an anonymous request is refused.
        transport: shared, closed by the caller.
    """

    endpoint: Endpoint
    search: Callable[[str], Finding]
    transport: Transport

    def find_hosts(self, repository: str, subject: str) -> list[V1Host]:
        """Return the hosts that have ``repository``, in the index's order.

        Raises:
            AuthenticationError: the index requires credentials, or does not accept them.
            RegistryNotFoundError: there is no such repository.
            RegistryError: the index can't be reached, or its answer is not that of an index.
        """
        base = WebUrl.parse(RegistrySession(self.endpoint, self.search, self.transport).ping())
        index = V1Host(base, self.transport, self.endpoint.tls, headers=self.endpoint.headers)
        answer, authorization = self._ask(index, repository, subject)
        answer.close()
        if not answer.is_from_home:
            raise RegistryError(
                f"{subject}: {base}: expected the index to answer itself, got a redirect to another server"
            )
        token = ",".join(answer.header_values("X-Docker-Token"))
        _verify_is_short(token, subject)
        named = _named_hosts(answer, subject)
        if not named:
            index.authorize(f"Token {token}" if token else authorization)
            return [index]
        return [self._host(index, host, token, authorization) for host in named]

    def _ask(self, index: V1Host, repository: str, subject: str) -> tuple[Answer, str | None]:
        """Return the index's answer for ``repository``, and the Authorization header that was sent, if any."""
        path = f"/repositories/{repository}/images"
        token_request = {"X-Docker-Token": "true"}
        answer = index.get(path, subject=subject, home_headers=token_request, accepted=_OK | _REFUSALS)
        if answer.status == 200:
            return answer, None
        refusal = answer.error()
        finding = self.search(repository)
        if finding.credentials.username is None or not answer.is_from_home:
            if isinstance(refusal, AuthenticationError | RegistryNotFoundError):
                refusal.hint = f"if it is private, log in with 'ociexport login {self.endpoint.registry}'"
            raise refusal
        authorization = basic_authorization(finding.credentials)
        try:
            answer = index.get(path, subject=subject, home_headers=token_request, authorization=authorization)
        except RegistryError as error:
            error.hint = f"asked as {finding.credentials} (from {finding.place})"
            raise
        return answer, authorization

    def _host(self, index: V1Host, host: str, token: str, authorization: str | None) -> V1Host:
        base = WebUrl.parse(f"{index.base.scheme}://{host}/v1")
        is_index = base.authority == index.name
        own = authorization if is_index else None
        return V1Host(
            base,
            self.transport,
            self.endpoint.tls if is_index else _tls_of_named_host(base.authority, self.transport.options),
            headers=self.endpoint.headers if is_index else {},
            authorization=f"Token {token}" if token else own,
            named_by=index.base,
        )


def _tls_of_named_host(host: str, options: RegistryOptions) -> TlsSettings:
    """Return the certificates for ``host``, without ``--insecure`` or ``--cert-dir``: the index named this host."""
    return tls_for(host, replace(options, insecure=False, cert_dir=None))


def v1_endpoint(endpoint: Endpoint) -> Endpoint:
    """Return the same server, with the API URLs of the first protocol."""
    urls = (url.removesuffix("/v2").replace("//registry-1.docker.io", "//index.docker.io") for url in endpoint.api_urls)
    return replace(endpoint, api_urls=tuple(f"{url}/v1" for url in urls))


def _document_of(answer: Answer, subject: str) -> bytes:
    """Return a document's bytes.

    Raises:
        LimitExceededError: there are more than `MAX_DOCUMENT_BYTES`.
    """
    raw = undo_for_document(answer.read_up_to(MAX_DOCUMENT_BYTES + 1), answer)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise LimitExceededError(f"expected at most {MAX_DOCUMENT_BYTES} bytes, got more", where=subject)
    return raw


def _named_hosts(answer: Answer, subject: str) -> list[str]:
    hosts = [host.strip() for text in answer.header_values("X-Docker-Endpoints") for host in text.split(",")]
    hosts = [host for host in dict.fromkeys(hosts) if host]
    for host in hosts:
        if not _HOST.fullmatch(host) or not is_web_url(f"https://{host}"):
            raise InvalidImageError(f"X-Docker-Endpoints: expected hosts, got {quoted(host)}", where=subject)
    return hosts[:_MAX_ENDPOINTS]


def _verify_is_short(token: str, subject: str) -> None:
    if len(token) > _MAX_HEADER_CHARACTERS or not token.isascii() or not token.isprintable():
        raise InvalidImageError(
            f"X-Docker-Token: expected at most {_MAX_HEADER_CHARACTERS} printable characters", where=subject
        )
