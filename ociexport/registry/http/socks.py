"""Connections through a SOCKS proxy, such as ``ssh -D``: the proxy looks up the host's name and connects to it.

Spec: RFC 1928, "SOCKS Protocol Version 5"; RFC 1929, "Username/Password Authentication".
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from urllib.parse import unquote, urlsplit

from ociexport.registry.http.failures import ProxyRefusalError

_VERSION = 5
_NO_AUTHENTICATION, _PASSWORD = 0, 2
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_DEFAULT_PORT = 1080
# RFC 1928, 6, "Replies".
_REPLIES = {
    2: "the connection is not allowed",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "the connection was refused",
    6: "the TTL expired on the way to the host",
}
_NOT_ALLOWED = 2


def is_socks_url(url: str) -> bool:
    """Whether ``url`` names a SOCKS 5 proxy; with curl's scheme ``socks5h`` too, where the proxy looks up names."""
    return url.partition("://")[0].lower() in ("socks5", "socks5h")


def socks_address(proxy: str) -> tuple[str, int]:
    """Return the host and port of the proxy."""
    parts = urlsplit(proxy)
    return parts.hostname or "", parts.port or _DEFAULT_PORT


def ask_socks_proxy(opened: socket.socket, proxy: str, host: str, port: int, timeout_seconds: float) -> None:
    """Connect ``opened``, which leads to the proxy, through it to ``host``.

    Args:
        proxy: the proxy's URL, with a user and password if it requires them.
        timeout_seconds: for each of the proxy's answers.

    Raises:
        ProxyRefusalError: the proxy refuses, and would refuse each retry.
        OSError: the connection can't be made; a retry may succeed.
    """
    opened.settimeout(timeout_seconds)
    parts = urlsplit(proxy)
    user, password = (unquote(text or "").encode() for text in (parts.username, parts.password))
    methods = [_NO_AUTHENTICATION, *([_PASSWORD] if user else [])]
    opened.sendall(bytes([_VERSION, len(methods), *methods]))
    version, method = _receive(opened, 2)
    if version != _VERSION:
        raise _refusal("expected SOCKS 5, got another protocol", is_lasting=True)
    if method == _PASSWORD and user:
        opened.sendall(b"\x01" + _with_length(user) + _with_length(password))
        if _receive(opened, 2)[1] != 0:
            raise _refusal("it does not accept the user and password in its URL", is_lasting=True)
    elif method != _NO_AUTHENTICATION:
        raise _refusal("it requires a user and password in its URL: socks5://USER:PASSWORD@HOST:PORT", is_lasting=True)
    opened.sendall(bytes([_VERSION, _CONNECT, 0]) + _address(host) + port.to_bytes(2, "big"))
    _, reply, _, kind = _receive(opened, 4)
    if reply != 0:
        reason = _REPLIES.get(reply, f"the connection could not be made (reply {reply})")
        raise _refusal(reason, is_lasting=reply == _NOT_ALLOWED)
    # The address that the proxy connected from is read and ignored.
    length = {_IPV4: 4, _IPV6: 16}.get(kind)
    _receive(opened, (_receive(opened, 1)[0] if length is None else length) + 2)
    opened.settimeout(None)


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bytes([_NAME]) + _with_length(host.encode("ascii", "replace"))
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


def _with_length(raw: bytes) -> bytes:
    if len(raw) > 255:
        raise _refusal("expected a name, a user and a password of 255 bytes at most, got more", is_lasting=True)
    return bytes([len(raw)]) + raw


def _receive(opened: socket.socket, count: int) -> bytes:
    raw = b""
    while len(raw) < count:
        part = opened.recv(count - len(raw))
        if not part:
            raise _refusal("it closed the connection")
        raw += part
    return raw


def _refusal(reason: str, *, is_lasting: bool = False) -> OSError:
    """Return the error; a lasting one is not retried, since repeated wrong passwords may lock the user out."""
    kind = ProxyRefusalError if is_lasting else ConnectionAbortedError
    return kind(errno.ECONNABORTED, f"the SOCKS proxy: {reason}")
