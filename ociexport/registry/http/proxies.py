"""Which proxy a request goes through, from the environment variables that curl, Go and Python programs use."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import urlsplit

import requests

from ociexport.errors import UsageError, quoted
from ociexport.registry.addresses import is_loopback
from ociexport.registry.http.failures import has_host, redacted
from ociexport.registry.http.socks import is_socks_url
from ociexport.registry.http.web_url import InvalidUrlError, WebUrl
from ociexport.spec.lazy_dataclass import dataclass

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_SEPARATORS = re.compile(r"[\s,]+")
_ONLY_BELOW = re.compile(r"\A\*?\.")


def proxies_for(url: WebUrl) -> Mapping[str, str]:
    """Return the proxy for ``url``, under its scheme; empty for a direct connection.

    No proxy is used for this machine: on the proxy's machine ``localhost`` means the proxy itself. A proxy without a
    scheme speaks http, as for curl.

    Raises:
        UsageError: the variable does not contain the URL of a supported kind of proxy. Its password is not shown.
    """
    if is_loopback(url.host) or needs_no_proxy(url, os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""):
        return {}
    if sys.platform == "linux" and not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    from urllib.request import getproxies, getproxies_environment, proxy_bypass  # noqa: PLC0415 - start-up: as above

    proxy = requests.utils.select_proxy(str(url), getproxies())
    # Without variables, getproxies returns what macOS and Windows have in their settings, with exceptions of their own.
    if not proxy or (not getproxies_environment() and proxy_bypass(url.host)):
        return {}
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    # `WebUrl` does not fit: the user wrote this URL, and it may contain a user and a password.
    if not (has_host(proxy) and (is_socks_url(proxy) or urlsplit(proxy).scheme in ("http", "https"))):
        raise UsageError(
            f"{url.scheme.upper()}_PROXY or ALL_PROXY: expected http:// or socks5://HOST[:PORT], "
            f"got {quoted(redacted(proxy))}",
            hint="in a password / is written %2F and @ %40; NO_PROXY=HOST goes there without a proxy",
        )
    return {url.scheme: proxy}


def needs_no_proxy(url: WebUrl, no_proxy: str) -> bool:
    """Whether an entry of ``no_proxy``, the variable's text, matches the host and port of ``url``.

    The entries are those of Go's httpproxy, so that one variable fits this program and the tools around it:

    - ``*``: every host;
    - ``corp.example``: this name and all names below it; ``.corp.example``, ``*.corp.example``: only names below it;
    - ``10.1.2.3``, ``2001:db8::1``: this address; ``10.0.0.0/8``, ``2001:db8::/32``: the addresses of this network;
    - a name or an address with ``:PORT``: only this port; an IPv6 address is then in brackets.

    Go does not have these: blanks may separate entries, as for curl; an IPv6 address may be in brackets without a port;
    a name may end in a dot; a network may be written with a netmask. As for Go, any other entry matches nothing.
    """
    address = _address_of(url.host)
    return any(entry.matches(url, address) for entry in _entries_of(no_proxy))


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of NO_PROXY; without a name and a network it matches every host.

    Args:
        name: in lower case and ASCII, without a leading dot.
        only_below: the name itself does not match.
    """

    name: str | None = None
    only_below: bool = False
    network: _Network | None = None
    port: int | None = None

    def matches(self, url: WebUrl, address: _Address | None) -> bool:
        if self.port not in (None, url.actual_port):
            return False
        if self.network is not None:
            return address is not None and address in self.network
        if self.name is None:
            return True
        is_below = address is None and url.host.endswith(f".{self.name}")
        return is_below or (url.host == self.name and not self.only_below)


@lru_cache(maxsize=1)
def _entries_of(no_proxy: str) -> tuple[_Entry, ...]:
    entries = (_parse_entry(text) for text in _SEPARATORS.split(no_proxy) if text)
    return tuple(entry for entry in entries if entry is not None)


def _parse_entry(text: str) -> _Entry | None:
    """Return the entry that ``text`` is; None where it can match nothing."""
    if text == "*":
        return _Entry()
    if (network := _network_of(text)) is not None:
        return _Entry(network=network)
    name = _ONLY_BELOW.sub("", text, count=1)
    only_below = name != text
    try:
        # The parser of the URLs that are compared: names in other scripts become the same ASCII.
        parsed = WebUrl.parse(f"http://{name}")
    except InvalidUrlError:
        return None
    if parsed.rest:
        return None
    if (network := _network_of(parsed.host)) is not None:
        return None if only_below else _Entry(network=network, port=parsed.port)
    return _Entry(name=parsed.host, only_below=only_below, port=parsed.port)


def _network_of(text: str) -> _Network | None:
    """Return an address or a network as a network; of IPv4 addresses mapped into IPv6, the network of IPv4."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = int(network.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((inner, network.prefixlen - _MAPPED.prefixlen))
    return network


def _address_of(host: str) -> _Address | None:
    """Return the address that ``host`` is; None for a name."""
    network = None if "/" in host else _network_of(host)
    return None if network is None else network.network_address
