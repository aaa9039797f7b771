"""hosts.toml: containerd's configuration of a registry's mirrors.

Spec: containerd, docs/hosts.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ociexport.errors import UsageError, counted, quoted
from ociexport.registry.hosts.certificates import ClientCertificate
from ociexport.registry.hosts.toml import read_toml, wrong_file_is_usage
from ociexport.registry.http.failures import has_host, redacted
from ociexport.registry.http.web_url import is_web_url
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.named_tuple import NamedTuple

_CAPABILITIES = frozenset({"pull", "resolve", "push"})
_DEFAULT_CAPABILITIES = ("pull", "resolve")


@dataclass(frozen=True, slots=True)
class HostEntry:
    """A host to send requests to.

    Args:
        url: ``https://mirror.example``, optionally with a path.
        capabilities: ``resolve`` for tags, ``pull`` for blobs, and for manifests by digest.
        override_path: whether the URL's path is already the API's root, so ``/v2`` is not appended.
        headers: they may hold secrets.
    """

    url: str
    capabilities: frozenset[str]
    ca_files: tuple[Path, ...] = ()
    client_certificate: ClientCertificate | None = None
    skip_verify: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    override_path: bool = False


class HostsToml(NamedTuple):
    """The content of the file for one registry.

    Args:
        server: replaces the registry; None for the registry itself.
    """

    server: HostEntry | None = None
    mirrors: tuple[HostEntry, ...] = ()


def read_hosts_toml(registry: str, directories: tuple[Path, ...]) -> HostsToml:
    """Return the content of the first file for ``registry``; in each directory the file for all registries comes last.

    Raises:
        UsageError: the file is invalid; the message names the place.
        OSError: the file can't be read.
    """
    for directory in directories:
        for name in _directory_names(registry):
            item = read_toml(directory / name / "hosts.toml")
            if item is not None:
                with wrong_file_is_usage():
                    return _parse_hosts(item, directory / name)
    return HostsToml()


def _directory_names(registry: str) -> Iterator[str]:
    """Yield the names that the directory for ``registry`` may have; some file systems allow no colon."""
    host, colon, port = registry.rpartition(":")
    if colon and port.isdigit():
        yield f"{host}_{port}_"
    yield registry
    yield "_default"


def _parse_hosts(item: JsonObject, directory: Path) -> HostsToml:
    hosts = item.optional_object("host")
    urls = hosts.keys if hosts is not None else ()
    mirrors = tuple(_parse_entry(hosts.object(url), url, directory) for url in urls) if hosts is not None else ()
    server = item.optional_text("server")
    return HostsToml(_parse_entry(item, server, directory) if server is not None else None, mirrors)


def _parse_entry(item: JsonObject, url: str, directory: Path) -> HostEntry:
    url = url if "://" in url else f"https://{url}"
    # As in containerd, a user in the URL is ignored; credentials come from elsewhere.
    plain = urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl() if has_host(url) else url
    if not is_web_url(plain):
        raise UsageError(f"{item.where}: expected an http or https URL, got {quoted(redacted(url))}")
    capabilities = item.texts("capabilities") or _DEFAULT_CAPABILITIES
    unknown = set(capabilities) - _CAPABILITIES
    if unknown:
        raise item.error("capabilities", f"expected pull and resolve, got {quoted(min(unknown))}")
    return HostEntry(
        url=plain,
        capabilities=frozenset(capabilities),
        ca_files=tuple(directory / name for names in item.text_lists("ca") for name in names),
        client_certificate=next(_client_certificates(item, directory), None),
        skip_verify=item.boolean("skip_verify"),
        headers=_headers(item.optional_object("header")),
        override_path=item.boolean("override_path"),
    )


def _headers(item: JsonObject | None) -> dict[str, str]:
    """Return the headers, whose values are strings or lists of strings."""
    if item is None:
        return {}
    return {name: ", ".join(text for texts in item.text_lists(name) for text in texts) for name in item.keys}


def _client_certificates(item: JsonObject, directory: Path) -> Iterator[ClientCertificate]:
    """Yield the client certificates in ``client``.

    It is a file with certificate and key, a list of such files, or a list of pairs of certificate and key.
    """
    for pair in item.text_lists("client"):
        if not 1 <= len(pair) <= 2:
            raise item.error("client", f"expected a certificate and its key, got {counted(len(pair), 'name')}")
        yield ClientCertificate(directory / pair[0], directory / pair[1] if len(pair) == 2 and pair[1] else None)
