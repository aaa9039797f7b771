"""Where a registry is reached: base URLs and TLS settings."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ociexport.reference import DEFAULT_REGISTRY
from ociexport.registry.options import RegistryOptions

# Docker Hub's name in references is not the host that serves it.
_DOCKER_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How the other side of a TLS connection is believed.

    Args:
        verify: whether its certificate is looked at.
    """

    verify: bool = True


DEFAULT_TLS = TlsSettings()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that may serve a registry.

    Args:
        registry: the name in image references.
        base_urls: ``https://registry-1.docker.io``, with no slash at the end; the first that is understood is taken.
        tls: for this host only.
    """

    registry: str
    base_urls: tuple[str, ...]
    tls: TlsSettings = DEFAULT_TLS


def endpoint_for(registry: str, options: RegistryOptions) -> Endpoint:
    """Return where ``registry`` is reached.

    Registries speak https. One on this machine is asked in plain http first, and in https if it does not understand:
    what is on loopback passes no wire, a server that expects http may wait for ever for the end of a TLS greeting, and
    one that expects TLS refuses plain text at once. Nothing secret is sent until that is settled.
    """
    host = _DOCKER_HUB_HOST if registry == DEFAULT_REGISTRY else registry
    tls = TlsSettings(verify=not options.insecure)
    if options.plain_http:
        return Endpoint(registry, (f"http://{host}",), tls)
    if is_loopback(host_name(registry)):
        return Endpoint(registry, (f"http://{host}", f"https://{host}"), tls)
    return Endpoint(registry, (f"https://{host}",), tls)


def host_name(registry: str) -> str:
    """Return the host in ``host[:port]``, an IPv6 address without its brackets."""
    if registry.startswith("["):
        return registry[1:].partition("]")[0]
    return registry.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine's own by its spelling."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
