"""registries.conf: podman's, skopeo's and buildah's mirrors, moved and blocked registries, and short names.

Spec: containers-registries.conf(5), version 2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ociexport.errors import InvalidDigestError, InvalidReferenceError, UsageError, quoted
from ociexport.registry.hosts.toml import read_toml, wrong_file_is_usage
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.named_tuple import NamedTuple
from ociexport.spec.reference import ImageReference, names_registry
from ociexport.system.environment import configuration_home

ENVIRONMENT_FILE = "CONTAINERS_REGISTRIES_CONF"
_PULL_FROM_MIRROR = ("all", "digest-only", "tag-only")


class Location(NamedTuple):
    """A place that an image may be pulled from.

    Args:
        reference: of the image at this place; tag and digest may differ from those that the user gave.
        insecure: whether any TLS certificate is accepted, and plain http too.
    """

    reference: ImageReference
    insecure: bool = False


class Located(NamedTuple):
    """The places to pull an image from: the mirrors in order, then the registry itself (``home``)."""

    home: Location
    mirrors: tuple[Location, ...] = ()


class _Mirror(NamedTuple):
    location: str
    insecure: bool
    pull_from_mirror: str


class _Registry(NamedTuple):
    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[_Mirror, ...]
    where: str

    @property
    def is_wildcard(self) -> bool:
        """Whether the entry is for all hosts of a domain."""
        return self.prefix.startswith("*.")

    @property
    def rank(self) -> tuple[int, bool]:
        """Of the entries that match, the one with the highest rank is used: a host goes before a domain."""
        return len(self.prefix), not self.is_wildcard

    def fits(self, reference: ImageReference) -> bool:
        """Whether the prefix matches the image: its host, a part of its path, or its full name with tag or digest."""
        if self.is_wildcard:
            return re.sub(r":[0-9]+$", "", reference.registry).endswith(self.prefix[1:])
        return f"{reference.name}/".startswith(f"{self.prefix}/") or self.prefix in _full_names(reference)


class RegistriesConf(NamedTuple):
    """The content of all files together.

    Args:
        registries: one entry for each prefix; later files replace the entries of earlier ones.
        aliases: short name → full name.
    """

    registries: tuple[_Registry, ...] = ()
    aliases: Mapping[str, str] = MappingProxyType({})

    def locate(self, reference: ImageReference) -> Located:
        """Return the places to pull ``reference`` from.

        Raises:
            UsageError: its registry is blocked, or a location is invalid.
        """
        fitting = [registry for registry in self.registries if registry.fits(reference)]
        if not fitting:
            return Located(Location(reference))
        entry = max(fitting, key=lambda registry: registry.rank)
        if entry.blocked:
            raise UsageError(f"image {reference}: registry {entry.prefix} is blocked by {entry.where}")
        fitting_pulls = ("all", "tag-only" if reference.digest is None else "digest-only")
        mirrors = tuple(
            _rewritten(reference, entry, mirror.location, mirror.insecure)
            for mirror in entry.mirrors
            if mirror.pull_from_mirror in fitting_pulls
        )
        return Located(_rewritten(reference, entry, entry.location, entry.insecure), mirrors)


def _full_names(reference: ImageReference) -> Iterator[str]:
    """Yield the full names of the image; a prefix that equals one of them matches this image only."""
    yield f"{reference.name}:{reference.tag}"
    yield f"{reference.name}@{reference.digest}"
    yield str(reference)


def _rewritten(reference: ImageReference, entry: _Registry, location: str, insecure: bool) -> Location:
    """Return ``reference`` with the prefix replaced by ``location``.

    If the prefix contains the image's tag or digest, the location may replace these too.
    """
    if not location:
        return Location(reference, insecure)
    name = reference.repository if entry.is_wildcard else reference.name[len(entry.prefix) :].lstrip("/")
    registry, _, path = "/".join(filter(None, (location.rstrip("/"), name))).partition("/")
    tag = digest = None
    if len(entry.prefix) > len(reference.name) and not entry.is_wildcard:
        path, _, digest = path.partition("@")
        path, _, tag = path.partition(":")
    try:
        there = replace(
            reference,
            registry=registry,
            repository=path,
            tag=tag or reference.tag,
            # A digest that the user gave is never replaced.
            digest=reference.digest or (Digest.parse(digest) if digest else None),
        )
    except (InvalidReferenceError, InvalidDigestError) as error:
        raise UsageError(
            f"{entry.where}: location {quoted(location)}: expected a place for image {reference}: {error}"
        ) from error
    return Location(there, insecure)


def registries_conf_paths(named: Path | None) -> Iterator[Path]:
    """Yield the files to read; a later file overrides the earlier ones.

    Args:
        named: if the user names a file, only this one is read.
    """
    named = named or (Path(os.environ[ENVIRONMENT_FILE]) if os.environ.get(ENVIRONMENT_FILE) else None)
    if named is not None:
        yield named
        return
    user = configuration_home() / "containers"
    system = Path("/etc/containers")
    yield user / "registries.conf" if (user / "registries.conf").exists() else system / "registries.conf"
    for directory in (system, user):
        yield from sorted((directory / "registries.conf.d").glob("*.conf"))


def read_registries_conf(named: Path | None = None) -> RegistriesConf:
    """Return the merged content of the machine's and the user's files.

    Raises:
        UsageError: a file is invalid; the message names the place.
        OSError: a file can't be read.
    """
    registries: dict[str, _Registry] = {}
    aliases: dict[str, str] = {}
    for path in registries_conf_paths(named):
        item = read_toml(path)
        if item is None:
            continue
        with wrong_file_is_usage():
            registries |= {registry.prefix: registry for registry in map(_parse_registry, item.objects("registry"))}
            aliases |= item.text_map("aliases")
    return RegistriesConf(tuple(registries.values()), {name: value for name, value in aliases.items() if value})


def _parse_registry(item: JsonObject) -> _Registry:
    location = item.optional_text("location") or ""
    prefix = item.optional_text("prefix") or location
    if not prefix:
        raise item.error("prefix", "expected a prefix or a location, got neither")
    if not location and not prefix.startswith("*."):
        location = prefix
    digest_only = item.boolean("mirror-by-digest-only")
    return _Registry(
        prefix=prefix.rstrip("/"),
        location=location,
        insecure=item.boolean("insecure"),
        blocked=item.boolean("blocked"),
        mirrors=tuple(_parse_mirror(mirror, digest_only=digest_only) for mirror in item.objects("mirror")),
        where=item.where.partition(":")[0],
    )


def _parse_mirror(item: JsonObject, *, digest_only: bool) -> _Mirror:
    pull = item.optional_text("pull-from-mirror") or ("digest-only" if digest_only else "all")
    if pull not in _PULL_FROM_MIRROR:
        raise item.error("pull-from-mirror", f"expected one of {', '.join(_PULL_FROM_MIRROR)}, got {quoted(pull)}")
    return _Mirror(item.text("location"), item.boolean("insecure"), pull)


def parse_image(text: str) -> ImageReference:
    """Return the reference in ``text``; short names follow the aliases of registries.conf, or else docker's defaults.

    Raises:
        InvalidReferenceError: ``text`` is not a valid reference.
        UsageError: registries.conf is invalid.

    Spec: containers-registries.conf(5), "Short-name aliases".
    """
    if names_registry(text):
        return ImageReference.parse(text)
    name = text.partition("@")[0]
    path, slash, last = name.rpartition("/")
    name = path + slash + last.partition(":")[0]
    full = read_registries_conf().aliases.get(name, name)
    return ImageReference.parse(full + text[len(name) :])
