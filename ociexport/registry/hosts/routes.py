"""Where a registry is reached: the routes to an image, mirrors first, the registry itself last.

What is asked, in this order:

1. the mirrors that the command line names (``--mirror``);
2. those of ``registries.conf``, which may also say that the registry has moved or is blocked;
3. those of containerd's ``hosts.toml``;
4. the registry.

A mirror is trusted with nothing: manifests by digest and blobs are verified wherever they come from. A tag is resolved
by whom the configuration allows to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import urlsplit

from ociexport.errors import UsageError, quoted
from ociexport.registry.hosts.hosts_toml import HostEntry, read_hosts_toml
from ociexport.registry.hosts.registries_conf import RegistriesConf
from ociexport.registry.http.addresses import is_loopback
from ociexport.registry.http.certificates import DEFAULT_TLS, TlsSettings, find_certificates
from ociexport.registry.http.failures import redacted
from ociexport.registry.http.web_url import is_web_url
from ociexport.registry.options import RegistryOptions
from ociexport.spec.reference import DEFAULT_REGISTRY, ImageReference

# Docker Hub's name in references is not the host that serves it.
_DOCKER_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that speaks the distribution protocol.

    Args:
        registry: the name that its credentials are kept under.
        api_urls: ``https://registry-1.docker.io/v2``, with no slash at the end; the first that is understood is taken.
        tls: for this server only.
        headers: sent with each request to this server only; they may hold secrets.
        namespace: the registry that a mirror is asked for, sent as ``?ns=`` (containerd's hosts.md).
    """

    registry: str
    api_urls: tuple[str, ...]
    tls: TlsSettings = DEFAULT_TLS
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    namespace: str | None = None

    @property
    def host(self) -> str:
        """Host and port, as messages tell who served what."""
        return urlsplit(self.api_urls[0]).netloc


class Route(NamedTuple):
    """One way to an image.

    Args:
        endpoint: the server.
        repository: what the repository is called there.
        is_mirror: whether others are asked when this one fails.
        resolves_tags: whether it may say which manifest a tag names.
        serves_digests: whether it is asked for blobs and for manifests by digest.
        reference: of the image there, where registries.conf may have another tag or digest for it; else None.
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
        conf: what registries.conf says; read once for all images.

    Raises:
        UsageError: a configuration file is wrong, or blocks the registry.
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
        # What is for the registry is not for its mirrors.
        yield Route(replace(endpoint, headers={}), there.repository, is_mirror=True, reference=there)
    home = located.home.reference
    hosts = read_hosts_toml(home.registry, options.hosts_dirs)
    for entry in hosts.mirrors:
        yield _route_of_hosts_toml(entry, home.registry, home.repository, options)._replace(reference=home)
    if hosts.server is not None:
        # Whatever its capabilities: there is nobody left to ask.
        endpoint = _route_of_hosts_toml(hosts.server, home.registry, home.repository, options).endpoint
    else:
        endpoint = endpoint_for(home.registry, options, insecure=located.home.insecure)
    yield Route(endpoint, home.repository, reference=home)


def endpoint_for(registry: str, options: RegistryOptions, *, insecure: bool = False) -> Endpoint:
    """Return the server of ``registry``.

    Registries speak https. One on this machine is asked in plain http first, and in https if it does not understand:
    what is on loopback passes no wire, a server that expects http may wait for ever for the end of a TLS greeting, and
    one that expects TLS refuses plain text at once. Nothing secret is sent until that is settled.

    Args:
        insecure: what registries.conf means by it: any certificate will do, or none at all.
    """
    host = _DOCKER_HUB_HOST if registry == DEFAULT_REGISTRY else registry
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
    """Return how the server at ``host`` (host[:port]) is believed, by the command line and certs.d.

    Args:
        names: others that a directory may have for it; they go first.
    """
    found = find_certificates((*names, host), options.cert_dir, options.certs_dirs)
    own = (options.ca_file,) if options.ca_file is not None else ()
    return found._replace(verify=not options.insecure, ca_files=(*own, *found.ca_files))


def _mirror_of_command_line(url: str, reference: ImageReference, options: RegistryOptions) -> Endpoint:
    full = url if "://" in url else f"https://{url}"
    if "@" in full:
        raise UsageError(
            f"--mirror {quoted(redacted(full))}: expected no user and password in it, got some",
            hint="ociexport login keeps them where they are found",
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
    is_itself = parts.netloc in (registry, _DOCKER_HUB_HOST if registry == DEFAULT_REGISTRY else registry)
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


def host_name(registry: str) -> str:
    """Return the host in ``host[:port]``, an IPv6 address without its brackets."""
    if registry.startswith("["):
        return registry[1:].partition("]")[0]
    return registry.partition(":")[0]
