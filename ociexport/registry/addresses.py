"""Where a server may send us: never nearer to this machine than the server itself.

A registry names the URLs of its token service, of redirects and of foreign layers. If a registry on the internet could
name an address of this machine or its network, we would query services for it that it can't reach itself, such as a
cloud's metadata service. The check is made on the address that is connected to, after the name lookup, because a name
may change its address.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from enum import IntEnum
from typing import TypeAlias

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")


class Nearness(IntEnum):
    """How near to this machine an address is."""

    INTERNET = 0
    PRIVATE = 1
    LINK = 2
    MACHINE = 3
    # A group of machines. No server has such an address.
    MULTICAST = 4


class ForbiddenAddressError(OSError):
    """A host has only addresses to which the server that named it may not send us."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"the address {address} may not be connected to")
        self.address = address


def nearness_of(address: str) -> Nearness:
    """Return how near an address is; an embedded IPv4 address (mapped, 6to4, NAT64) counts in place of the whole."""
    parsed = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    if parsed.is_multicast:
        return Nearness.MULTICAST
    if parsed.is_loopback or parsed.is_unspecified or parsed in ipaddress.ip_network("0.0.0.0/8"):
        return Nearness.MACHINE
    if parsed.is_link_local:
        return Nearness.LINK
    return Nearness.INTERNET if parsed.is_global else Nearness.PRIVATE


def _unwrapped(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if (inner := address.ipv4_mapped or address.sixtofour) is not None:
        return inner
    # :: and ::1 embed no IPv4 address.
    if address in _NAT64 or (address in _IPV4_COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def literal_nearness(host: str) -> Nearness | None:
    """Return how near a host is if its spelling tells, in any form a resolver accepts; None for a name to look up."""
    if host == "localhost" or host.endswith(".localhost"):
        return Nearness.MACHINE
    try:
        return nearness_of(host)
    except ValueError:
        pass
    try:
        # 127.1, 0x7f000001 and 2130706433 are all 127.0.0.1.
        return nearness_of(socket.inet_ntoa(socket.inet_aton(host)))
    except (OSError, UnicodeError):
        return None


class SeenAddresses:
    """How near the servers were that we connected to; used by several threads.

    A server's limit comes from the address it had when we connected, not from a later lookup of its name.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], Nearness] = {}
        self._lock = threading.Lock()

    def add(self, host: str, port: int, address: str) -> None:
        """Record a connection to ``host`` at ``address``; of several addresses the farthest counts."""
        nearness = nearness_of(address)
        with self._lock:
            self._seen[host, port] = min(nearness, self._seen.get((host, port), nearness))

    def limit(self, host: str, port: int) -> Nearness:
        """Return how near ``host`` may be from now on: no nearer than at earlier connections."""
        with self._lock:
            return self._seen.get((host, port), Nearness.MULTICAST)

    def nearness(self, host: str, port: int) -> Nearness:
        """Return how near ``host`` is; a name that only a proxy has connected to counts as on the internet."""
        with self._lock:
            seen = self._seen.get((host, port))
        if seen is None:
            seen = literal_nearness(host)
        return Nearness.INTERNET if seen is None else seen


def is_loopback(name: str) -> bool:
    """Whether the spelling of a host name or address shows that it is this machine's own."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
