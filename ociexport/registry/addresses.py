"""Where a registry may send us: not to the machine that we run on, nor to what only that can reach.

A registry names the URLs of its token service, of redirects and of foreign layers. One on the internet that names a
loopback or link-local address would have us ask services for it that it can't reach itself, such as a cloud's metadata.
"""

from __future__ import annotations

import ipaddress
from typing import TypeAlias
from urllib.parse import urlsplit

from ociexport.errors import RegistryError, printable
from ociexport.registry.dialing import look_up
from ociexport.registry.failures import redacted

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def verify_may_be_sent(
    url: str, home_url: str, subject: str, *, is_proxied: bool = False, timeout_seconds: float = 15.0
) -> None:
    """Return if the server at ``home_url`` may send us to ``url``.

    A host's name is looked up here and once more when the connection is made; who changes it in between gets through,
    which only a registry that is believed can use. Behind a proxy names are the proxy's business.

    Args:
        subject: what is asked for, as messages call it.
        is_proxied: names are not looked up here.
        timeout_seconds: for a name to be looked up.

    Raises:
        RegistryError: it points at this machine or its link, and the server itself is not there.
    """
    host, home = urlsplit(url).hostname or "", urlsplit(home_url).hostname or ""
    wait = 0.0 if is_proxied else timeout_seconds
    inner = _inner_address(host, wait) if host != home else None
    if inner is None or _inner_address(home, wait) is not None:
        return
    raise RegistryError(
        f"{subject}: {printable(redacted(url))}: a registry on another host may not send its clients to {inner}",
        url=redacted(url),
        hint="that is an address of this machine, or one that only this machine can reach",
    )


def _inner_address(host: str, timeout_seconds: float) -> str | None:
    """Return the loopback or link-local address that ``host`` stands for; None where there is none."""
    if host == "localhost" or host.endswith(".localhost"):
        return host
    for address in _addresses_of(host, timeout_seconds):
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified:
            return str(mapped)
    return None


def _addresses_of(host: str, timeout_seconds: float) -> list[_Address]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        if not timeout_seconds:
            return []
    try:
        found = look_up(host, 0, timeout_seconds)
    except OSError:
        # It has no address for us; the request itself will tell.
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
