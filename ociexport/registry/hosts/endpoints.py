"""Endpoints: the servers of registries, and how each of them is reached and verified.

Nothing here imports requests, so that `early` can connect meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ociexport.registry.addresses import is_loopback
from ociexport.registry.hosts.certificates import DEFAULT_TLS, TlsSettings, find_certificates
from ociexport.registry.options import RegistryOptions
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.reference import DEFAULT_REGISTRY, DOCKER_HUB_HOST

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that speaks the distribution protocol.

    Args:
        registry: the name under which its credentials are stored.
        api_urls: ``https://registry-1.docker.io/v2``, without a trailing slash; the first one that works is used.
        tls: for this server only.
        headers: sent with each request to this server only; they may hold secrets.
        namespace: the registry that this server mirrors, sent as ``?ns=`` (containerd's hosts.md).
    """

    registry: str
    api_urls: tuple[str, ...]
    tls: TlsSettings = DEFAULT_TLS
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    namespace: str | None = None

    @property
    def host(self) -> str:
        """Host and port, as messages name the server."""
        from urllib.parse import urlsplit  # noqa: PLC0415 - start-up: connections are begun before it is needed

        return urlsplit(self.api_urls[0]).netloc


def endpoint_for(registry: str, options: RegistryOptions, *, insecure: bool = False) -> Endpoint:
    """Return the server of ``registry``.

    Registries use https. A registry on loopback is tried with plain http first, then with https: loopback traffic does
    not leave the machine, an http server may wait for ever for the rest of a TLS handshake, and a TLS server refuses
    plain text at once. No secret is sent until the protocol is known.

    Args:
        insecure: as in registries.conf: any certificate is accepted, and plain http too.
    """
    host = DOCKER_HUB_HOST if registry == DEFAULT_REGISTRY else registry
    secure, plain = f"https://{host}/v2", f"http://{host}/v2"
    if options.plain_http:
        urls: tuple[str, ...] = (plain,)
    elif is_loopback(host_name(registry)):
        urls = (plain, secure)
    else:
        urls = (secure, plain) if insecure else (secure,)
    tls = tls_for(host, options, registry)
    return Endpoint(registry, urls, tls._replace(verify=tls.verify and not insecure), dict(options.headers))


def tls_for(host: str, options: RegistryOptions, *names: str) -> TlsSettings:
    """Return the TLS settings for the server at ``host`` (host[:port]), from the command line and certs.d.

    Args:
        names: other names that its directory in certs.d may have; they go first.
    """
    found = find_certificates((*names, host), options.cert_dir, options.certs_dirs)
    own = (options.ca_file,) if options.ca_file is not None else ()
    return found._replace(verify=not options.insecure, ca_files=(*own, *found.ca_files))


def host_name(registry: str) -> str:
    """Return the host in ``host[:port]``, an IPv6 address without its brackets."""
    if registry.startswith("["):
        return registry[1:].partition("]")[0]
    return registry.partition(":")[0]


def may_be_there(directory: Path) -> bool:
    """Whether a directory exists, or nobody knows."""
    try:
        os.stat(directory)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # the error is reported when a file in it is read
        return True
    return True
