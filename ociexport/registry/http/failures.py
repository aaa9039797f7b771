"""Errors of requests in words: one line that names the request and the cause, and a hint what the user can do."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.client import BadStatusLine, HTTPException, RemoteDisconnected
from urllib.parse import SplitResult, urlsplit, urlunsplit

from ociexport.errors import (
    AuthenticationError,
    RateLimitError,
    RegistryError,
    RegistryNotFoundError,
    TransferError,
    printable,
    quoted,
)
from ociexport.registry.http.echoes import without_echoes
from ociexport.spec.numerals import number_in

# In the libraries' messages: the query of a URL, and its user and password.
_QUERY = re.compile(r"\?[^\s'\"<>)]+")
_USER = re.compile(r"(?<=//)[^\s/?#'\"<>]*@")
# The message of http.client when a proxy refuses a tunnel.
_TUNNEL_FAILED = re.compile(r"Tunnel connection failed: (.*)", re.DOTALL)
_STATUS = re.compile(r"(?=([0-9]{3}) )(.*)", re.DOTALL)
# OpenSSL's codes for a chain that ends at an unknown issuer: unable to get the issuer, self-signed, and similar.
_ISSUER_CODES = frozenset({2, 18, 19, 20, 21})

_WANTS_CERTIFICATE = "the server may require a client certificate: --cert-dir DIR, with NAME.cert and NAME.key in it"
_REFUSES_CERTIFICATE = (
    "the server does not accept the client certificate, which is from --cert-dir or a certs.d directory"
)
# OpenSSL's reason where the answer to a TLS handshake is plain text.
_PLAIN_TEXT = "WRONG_VERSION_NUMBER"
# OpenSSL's reasons for failures that a retry does not cure, and what the user can do.
_TLS_HINTS = {
    _PLAIN_TEXT: "if the registry speaks plain http, use --plain-http",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _WANTS_CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _REFUSES_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _REFUSES_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": _REFUSES_CERTIFICATE,
}

_REFUSED_BY_STORAGE = (
    "this is the answer of the storage that the registry sent us to, by a link that may have expired: try again; "
    "if it stays so, check this machine's clock and the proxies on the way"
)
_STORAGE_HINTS = {
    401: _REFUSED_BY_STORAGE,
    403: _REFUSED_BY_STORAGE,
    404: "the storage that the registry sent us to does not have this object: report this to the registry's operators",
}
_REFUSED_BY_OTHER_SERVER = (
    "the registry redirected to this server, which gets no credentials: if it is storage, try again, since a link to "
    "it may have expired; if it is a registry, name it in place of the first one"
)
_OTHER_SERVER_HINTS = {
    401: _REFUSED_BY_OTHER_SERVER,
    403: _REFUSED_BY_OTHER_SERVER,
    404: "the registry redirected to this server, which lacks the object: report this to the registry's operators",
}
_MALFORMED_HINT = "the server, or a proxy on the way to it, sends a malformed answer: report this to its operators"


class StalledError(TimeoutError):
    """A body was too slow for too long."""


class ProxyRefusalError(ConnectionError):
    """A proxy refuses a connection, and would refuse each retry."""


class MalformedAnswerError(HTTPException):
    """The head of an answer can't be read. A retry would get the same one."""


def redacted(url: str) -> str:
    """Return ``url`` in a form that messages may show, without user and query (which may hold a signature)."""
    parts = _split(url)
    if parts is None or _may_begin_with_a_user(parts):
        # The end of the user and password can't be determined: a password may contain any character.
        scheme, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
        _, user_end, rest = rest.rpartition("@")
        shown = f"{scheme}{slashes}{'…@' if user_end and parts else ''}{rest}"
        return printable(shown.partition("?")[0])
    host = parts.netloc.rpartition("@")[2]
    shown = urlunsplit((parts.scheme, host, parts.path, "", ""))
    safe = printable(shown)
    return f"{safe}?…" if parts.query else safe


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL with a host and a valid or no port; None for any other text."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _may_begin_with_a_user(parts: SplitResult) -> bool:
    """Whether the apparent host and port may be a user and the beginning of a password: ``me:1/secret@host``."""
    has_port_or_user = {":", "@"} & set(parts.netloc.rpartition("]")[2])
    return bool(has_port_or_user) and "@" in (parts.path or parts.query + parts.fragment)


def has_host(url: str) -> bool:
    """Whether ``url`` has a host and a valid or no port."""
    return _split(url) is not None


def error_of_response(
    *,
    subject: str,
    method: str,
    url: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    is_from_home: bool = True,
    secrets: frozenset[str] = frozenset(),
) -> RegistryError:
    """Return the error to raise for an answer with an unexpected status.

    Args:
        subject: the requested object, as messages name it.
        url: as sent; it is redacted here.
        body: the beginning of the answer's body.
        is_from_home: whether the requested server answered, and not one that it redirected to.
        secrets: of the request; they are cut from the server's words.
    """
    url = redacted(url)
    if status < 400:
        message = f"{subject}: {method} {url}: expected {status_line(200)}, got {status_line(status)}"
        return RegistryError(message, method=method, url=url, status=status)
    from ociexport.registry.http.error_bodies import explain_body  # noqa: PLC0415 - start-up: only an error needs it

    explanation = explain_body(headers.get("Content-Type", ""), body)
    message = f"{subject}: {method} {url}: {status_line(status)}"
    codes = tuple(without_echoes(code, secrets) for code in explanation.codes)
    if explanation.text:
        message += f": {printable(without_echoes(explanation.text, secrets))}"
    if is_quota_error(status, codes) and (quota := _describe_quota(headers)):
        message += f" ({without_echoes(quota, secrets)})"
    kind, hint = _kind_and_hint(status, codes)
    # No login changes what a storage service answers, or another server that gets no credentials.
    if explanation.is_of_storage:
        hint = _STORAGE_HINTS.get(status, hint)
    elif not is_from_home:
        hint = _OTHER_SERVER_HINTS.get(status, hint)
    return kind(message, method=method, url=url, status=status, codes=codes, hint=hint)


def _kind_and_hint(status: int, codes: tuple[str, ...]) -> tuple[type[RegistryError], str | None]:
    if status == 401:
        return AuthenticationError, "log in to this registry, or check the user name and password that you gave"
    if status == 403:
        return AuthenticationError, "these credentials may not read this repository, or the registry blocks this client"
    if status == 404:
        return RegistryNotFoundError, "check the spelling; some registries also answer 404 for a private repository"
    if is_quota_error(status, codes):
        return RateLimitError, "wait for the quota to renew, log in for a larger one, or use a mirror"
    if status == 408 or status >= 500:
        return TransferError, "the registry has trouble; try again later"
    return RegistryError, None


def status_line(status: int) -> str:
    """Return a status with its name: ``503 Service Unavailable``."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} (no standard status)"


def is_quota_error(status: int, codes: tuple[str, ...]) -> bool:
    """Whether a quota is used up; some registries report it with a status other than 429."""
    return status == 429 or "TOOMANYREQUESTS" in codes


def _describe_quota(headers: Mapping[str, str]) -> str:
    """Return the quota from Docker Hub's headers: ``limit 100 in 6 h, 0 left, counted for 192.0.2.1``.

    Spec: docs.docker.com "Pull usage and limits"; the form of the headers is from draft-polli-ratelimit-headers.
    """
    limit, _, window = headers.get("RateLimit-Limit", "").partition(";w=")
    left = headers.get("RateLimit-Remaining", "").partition(";")[0]
    source = headers.get("Docker-RateLimit-Source", "")
    parts = [f"limit {limit}"] if limit.isdecimal() else []
    # The limit is about three years.
    if parts and (seconds := number_in(window, 10**8)) is not None:
        parts = [f"{parts[0]} in {_hours(seconds)}"]
    if left.isdecimal():
        parts.append(f"{left} left")
    if source:
        parts.append(f"counted for {printable(source)}")
    wait = headers.get("Retry-After", "")
    if wait:
        parts.append(f"asks to wait: {printable(wait)}" + (" s" if wait.isdecimal() else ""))
    return ", ".join(parts)


def _hours(seconds: int) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds} s"


def error_of_connection(
    error: BaseException,
    *,
    subject: str,
    method: str,
    url: str,
    issuer: str | None = None,
    proxy: str | None = None,
    host: str = "",
    is_named_by_user: bool = True,
    secrets: frozenset[str] = frozenset(),
) -> TransferError:
    """Return the error for a connection that broke or could not be made, to be raised ``from error``.

    Args:
        issuer: of a certificate that was rejected.
        proxy: the URL of the proxy that the connection was made to, if any.
        host: host and port of ``url``, for a hint about its certificate.
        is_named_by_user: whether the user named this registry or mirror; False if another server named it.
        secrets: of the request; a server may repeat them in place of an answer.
    """
    for cause in causes(error):
        _cut_secrets(cause, secrets)
    url = redacted(url)
    reason, hint = _explain_connection(error)
    if host and (rejection := _certificate_rejection(error)) is not None:
        hint = _certificate_hint(rejection, host, is_named_by_user)
    if proxy is not None:
        reason += f" (by the proxy {redacted(proxy).partition('://')[2]})"
    if issuer is not None:
        reason += f" (issued by {printable(issuer)})"
    return TransferError(f"{subject}: {method} {url}: {reason}", method=method, url=url, hint=hint)


def _cut_secrets(error: BaseException, secrets: frozenset[str]) -> None:
    """Remove ``secrets`` and those in URLs from a library's error, since a traceback would show them."""
    error.args = tuple(
        without_echoes(without_secrets(text), secrets) if isinstance(text, str) else text for text in error.args
    )


def without_secrets(text: str) -> str:
    """Return a library's ``text`` without the users, passwords and queries of URLs."""
    return _USER.sub("", _QUERY.sub("?…", text))


def reason_of(error: BaseException) -> str:
    """Return in a few words why a connection broke, for a line about a retry."""
    return _explain_connection(error)[0]


def took_too_long(error: BaseException) -> bool:
    """Whether a connection ended because its other end was too slow, or said that ours was."""
    if getattr(error, "status", None) in (408, 504):
        return True
    return any(isinstance(one, TimeoutError | StalledError) or "timed out" in str(one) for one in causes(error))


def was_refused(error: BaseException) -> bool:
    """Whether the server refused the connection: no program listens on the port."""
    return any(isinstance(cause, ConnectionRefusedError) for cause in causes(error))


def was_cut(error: BaseException) -> bool:
    """Whether the server closed a connection that it had accepted."""
    return any(isinstance(cause, ConnectionResetError | BrokenPipeError) for cause in causes(error))


def was_plain_text(error: BaseException) -> bool:
    """Whether the server answered a TLS handshake with plain text."""
    return any(isinstance(cause, ssl.SSLError) and cause.reason == _PLAIN_TEXT for cause in causes(error))


def is_malformed_answer(error: BaseException) -> bool:
    """Whether the server speaks HTTP, but its answer is malformed; a retry would get the same one."""
    return any(isinstance(cause, MalformedAnswerError) for cause in causes(error))


def has_wrong_certificate(error: BaseException) -> bool:
    """Whether a server's certificate was rejected."""
    return _certificate_rejection(error) is not None


def _certificate_rejection(error: BaseException) -> ssl.SSLCertVerificationError | None:
    return next((cause for cause in causes(error) if isinstance(cause, ssl.SSLCertVerificationError)), None)


def _certificate_hint(error: ssl.SSLCertVerificationError, host: str, is_named_by_user: bool) -> str:
    """Return what the user can do about the certificate of ``host``; ``--insecure`` affects named hosts only."""
    if error.verify_code in _ISSUER_CODES:
        hint = f"if you trust the issuer of {host}'s certificate, give the issuer's certificate with --cacert FILE"
    else:
        hint = f"{host}'s certificate is for another name or time: check the name, and the clock"
    return f"{hint}; --insecure accepts any certificate" if is_named_by_user else hint


def is_lasting_tls_error(error: ssl.SSLError) -> bool:
    """Whether TLS failed because of how client and server are configured, and not because of the network."""
    return isinstance(error, ssl.SSLCertVerificationError) or (error.reason or "") in _TLS_HINTS


def _explain_connection(error: BaseException) -> tuple[str, str | None]:
    stalled = next((cause for cause in causes(error) if isinstance(cause, StalledError)), None)
    if stalled is not None:
        # Our own deadline ended the connection; the libraries' errors are only consequences.
        return str(stalled), "--stall-limit sets how slow a body may be"
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the TLS certificate can't be verified: {cause.verify_message}", None
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return "the connection was closed too early", None
        if isinstance(cause, ssl.SSLError):
            reason = (cause.reason or str(cause)).replace("_", " ").lower()
            return f"TLS failed: {reason}", _TLS_HINTS.get(cause.reason or "")
        if isinstance(cause, socket.gaierror):
            return f"the host's name can't be resolved: {cause.strerror}", "check the spelling and the name service"
        if (refusal := _refusal_of_proxy(cause)) is not None:
            hint = "put the proxy's user and password into its URL: http://USER:PASSWORD@HOST:PORT"
            return f"the proxy answers {printable(refusal[2])}", hint if refusal[1] == "407" else None
        if isinstance(cause, MalformedAnswerError):
            return without_secrets(str(cause)), _MALFORMED_HINT
        if isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
            return f"expected HTTP, got {quoted(str(cause.args[0]).strip())}", None
        if isinstance(cause, TimeoutError):
            return "no answer in time", None
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror[0].lower() + cause.strerror[1:], None
    texts = " ".join(str(cause) for cause in causes(error))
    if "timed out" in texts:
        return "no answer in time", None
    if "IncompleteRead" in texts or "Remote end closed" in texts or "Connection broken" in texts:
        return "the connection was closed too early", None
    # `reason_of` passes errors whose secrets were not removed before.
    return printable(without_secrets(str(error))), None


def is_lasting_proxy_error(error: BaseException) -> bool:
    """Whether a proxy refuses a connection, and would refuse each retry."""
    if isinstance(error, ProxyRefusalError):
        return True
    refusal = _refusal_of_proxy(error)
    return refusal is not None and refusal[1].startswith("4") and refusal[1] not in ("408", "429")


def _refusal_of_proxy(error: BaseException) -> re.Match[str] | None:
    """Return a proxy's answer to CONNECT: group 1 is the status, group 2 the whole line."""
    match = _TUNNEL_FAILED.fullmatch(str(error)) if isinstance(error, OSError) else None
    return match and _STATUS.fullmatch(match[1])


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the errors inside it, the innermost first: that one has the actual cause."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        candidate = waiting.pop(0)
        if isinstance(candidate, BaseException) and not any(candidate is known for known in found):
            found.append(candidate)
            waiting += [*candidate.args, getattr(candidate, "reason", None), candidate.__cause__, candidate.__context__]
    yield from reversed(found)
