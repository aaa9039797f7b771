"""The routes to an image: its mirrors, then the registry itself.

They are tried in this order:

1. the mirrors on the command line (``--mirror``);
2. the mirrors in ``registries.conf``, which may also move or block the registry;
3. the mirrors in containerd's ``hosts.toml``;
4. the registry.

Mirrors are not trusted: manifests by digest and blobs are verified from every server. A tag is resolved only by servers
that the configuration permits to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ociexport.errors import UsageError, quoted
from ociexport.registry.hosts.endpoints import Endpoint, endpoint_for, may_be_there, tls_for
from ociexport.registry.hosts.registries_conf import RegistriesConf
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.web_url import is_web_url
from ociexport.registry.options import RegistryOptions
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.reference import DEFAULT_REGISTRY, DOCKER_HUB_HOST, ImageReference

if TYPE_CHECKING:
    from pathlib import Path

    from ociexport.registry.hosts.hosts_toml import HostEntry, HostsToml


class Route(NamedTuple):
    """One way to an image.

    Args:
        endpoint: the server.
        repository: the repository's name on this server.
        is_mirror: whether the next route is tried when this one fails.
        resolves_tags: whether the server may resolve tags.
        serves_digests: whether the server is used for blobs, and for manifests by digest.
        reference: of the image on this server, since registries.conf may map its tag or digest; None if unmapped.
    """

    endpoint: Endpoint
    repository: str
    is_mirror: bool = False
    resolves_tags: bool = True
    serves_digests: bool = True
    reference: ImageReference | None = None


def routes_for(reference: ImageReference, options: RegistryOptions, conf: RegistriesConf) -> tuple[Route, ...]:
    """Return the routes to an image, in the order in which they are tried; the last is the registry's own.

    Args:
        conf: content of registries.conf; read once for all images.

    Raises:
        UsageError: a configuration file is invalid, or blocks the registry.
    """
    return tuple(_routes(reference, options, conf))


def _routes(reference: ImageReference, options: RegistryOptions, conf: RegistriesConf) -> Iterator[Route]:
    for mirror in options.mirrors:
        if mirror.registry in (None, reference.registry):
            yield Route(_mirror_of_command_line(mirror.url, reference, options), reference.repository, is_mirror=True)
    located = conf.locate(reference)
    for location in located.mirrors:
        there = location.reference
        endpoint = endpoint_for(there.registry, options, insecure=location.insecure)
        # The command line's headers are for the registry, not for its mirrors.
        yield Route(replace(endpoint, headers={}), there.repository, is_mirror=True, reference=there)
    home = located.home.reference
    hosts = _hosts_of(home.registry, options.hosts_dirs)
    if hosts is not None:
        for entry in hosts.mirrors:
            yield _route_of_hosts_toml(entry, home.registry, home.repository, options)._replace(reference=home)
    if hosts is not None and hosts.server is not None:
        # The last route ignores the server's capabilities: no other server is left.
        endpoint = _route_of_hosts_toml(hosts.server, home.registry, home.repository, options).endpoint
    else:
        endpoint = endpoint_for(home.registry, options, insecure=located.home.insecure)
    yield Route(endpoint, home.repository, reference=home)


def _hosts_of(registry: str, directories: tuple[Path, ...]) -> HostsToml | None:
    """Return the hosts.toml of ``registry``; None if the machine has no directory for such files, as most have none."""
    if not any(map(may_be_there, directories)):
        return None
    from ociexport.registry.hosts.hosts_toml import read_hosts_toml  # noqa: PLC0415 - start-up: as above

    return read_hosts_toml(registry, directories)


def _mirror_of_command_line(url: str, reference: ImageReference, options: RegistryOptions) -> Endpoint:
    full = url if "://" in url else f"https://{url}"
    if "@" in full:
        raise UsageError(
            f"--mirror {quoted(redacted(full))}: expected a URL without user and password",
            hint="store credentials with ociexport login",
        )
    if not is_web_url(full) or urlsplit(full).query:
        raise UsageError(f"--mirror: expected host[:port] or a URL, got {quoted(redacted(url))}")
    parts = urlsplit(full)
    if full != url:
        return replace(endpoint_for(url.rstrip("/"), options), namespace=reference.registry, headers={})
    api = _api_url(url)
    return Endpoint(parts.netloc, (api,), tls_for(parts.netloc, options), namespace=reference.registry)


def _api_url(url: str) -> str:
    url = url.rstrip("/")
    return url if url.endswith("/v2") else f"{url}/v2"


def _route_of_hosts_toml(entry: HostEntry, registry: str, repository: str, options: RegistryOptions) -> Route:
    parts = urlsplit(entry.url)
    is_itself = parts.netloc in (registry, DOCKER_HUB_HOST if registry == DEFAULT_REGISTRY else registry)
    tls = tls_for(parts.netloc, options)
    endpoint = Endpoint(
        registry if is_itself else parts.netloc,
        (entry.url.rstrip("/") if entry.override_path else _api_url(entry.url),),
        tls._replace(
            verify=tls.verify and not entry.skip_verify,
            ca_files=(*tls.ca_files, *entry.ca_files),
            client_certificate=entry.client_certificate or tls.client_certificate,
        ),
        {**(dict(options.headers) if is_itself else {}), **entry.headers},
        None if is_itself else registry,
    )
    return Route(
        endpoint,
        repository,
        is_mirror=True,
        resolves_tags="resolve" in entry.capabilities,
        serves_digests="pull" in entry.capabilities,
    )
