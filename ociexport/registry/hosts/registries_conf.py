"""registries.conf: where podman, skopeo and buildah read mirrors, moved and blocked registries and short names.

Spec: containers-registries.conf(5), version 2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ociexport.errors import InvalidDigestError, InvalidReferenceError, UsageError, quoted
from ociexport.registry.hosts.toml import read_toml, wrong_file_is_usage
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.reference import ImageReference, names_registry
from ociexport.system.environment import configuration_home

ENVIRONMENT_FILE = "CONTAINERS_REGISTRIES_CONF"
_PULL_FROM_MIRROR = ("all", "digest-only", "tag-only")


class Location(NamedTuple):
    """Where an image is.

    Args:
        reference: of the image there; its tag and digest are those that the user named, or that stand for these there.
        insecure: any TLS certificate will do, and plain http too.
    """

    reference: ImageReference
    insecure: bool = False


class Located(NamedTuple):
    """Where an image is to be asked for: mirrors in order, and the registry itself."""

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
        """Whether it is for all hosts within a domain."""
        return self.prefix.startswith("*.")

    @property
    def rank(self) -> tuple[int, bool]:
        """Of several that fit the one with the highest counts: a host before all hosts of a domain."""
        return len(self.prefix), not self.is_wildcard

    def fits(self, reference: ImageReference) -> bool:
        """Whether this entry is about the image: it names its host, a part of its path, or all of it with its tag."""
        if self.is_wildcard:
            return re.sub(r":[0-9]+$", "", reference.registry).endswith(self.prefix[1:])
        return f"{reference.name}/".startswith(f"{self.prefix}/") or self.prefix in _full_names(reference)


class RegistriesConf(NamedTuple):
    """What all files together say.

    Args:
        registries: later files have replaced what earlier ones said of the same prefix.
        aliases: short names and the names that they stand for.
    """

    registries: tuple[_Registry, ...] = ()
    aliases: Mapping[str, str] = MappingProxyType({})

    def locate(self, reference: ImageReference) -> Located:
        """Return where ``reference`` is to be asked for.

        Raises:
            UsageError: its registry is blocked.
        """
        fitting = [registry for registry in self.registries if registry.fits(reference)]
        if not fitting:
            return Located(Location(reference))
        entry = max(fitting, key=lambda registry: registry.rank)
        if entry.blocked:
            raise UsageError(f"image {reference}: registry {entry.prefix} is blocked by {entry.where}")
        wanted = ("all", "tag-only" if reference.digest is None else "digest-only")
        mirrors = tuple(
            _rewritten(reference, entry, mirror.location, mirror.insecure)
            for mirror in entry.mirrors
            if mirror.pull_from_mirror in wanted
        )
        return Located(_rewritten(reference, entry, entry.location, entry.insecure), mirrors)


def _full_names(reference: ImageReference) -> Iterator[str]:
    """Yield the names of one image alone that a prefix may be."""
    yield f"{reference.name}:{reference.tag}"
    yield f"{reference.name}@{reference.digest}"
    yield str(reference)


def _rewritten(reference: ImageReference, entry: _Registry, location: str, insecure: bool) -> Location:
    """Return ``reference`` with ``location`` in the place of the prefix.

    Where the prefix is one image with its tag or digest, the location may name another tag or digest in their place.
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
            # What the user named by digest is that, wherever it comes from.
            digest=reference.digest or (Digest.parse(digest) if digest else None),
        )
    except (InvalidReferenceError, InvalidDigestError) as error:
        raise UsageError(
            f"{entry.where}: location {quoted(location)}: expected a place for image {reference}: {error}"
        ) from error
    return Location(there, insecure)


def registries_conf_paths(named: Path | None) -> Iterator[Path]:
    """Yield the files that are read, the least important first.

    Args:
        named: the only one, where the user names it.
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
    """Return what the files of this machine and user say.

    Raises:
        UsageError: one of them is not as the manual page has it; the place is told.
        OSError: one can't be read.
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
    """Return the reference that ``text`` means, with the aliases of registries.conf; else docker's defaults.

    Raises:
        InvalidReferenceError: ``text`` does not parse.
        UsageError: registries.conf is wrong.

    Spec: containers-registries.conf(5), "Short-name aliases".
    """
    if names_registry(text):
        return ImageReference.parse(text)
    name = text.partition("@")[0]
    path, slash, last = name.rpartition("/")
    name = path + slash + last.partition(":")[0]
    full = read_registries_conf().aliases.get(name, name)
    return ImageReference.parse(full + text[len(name) :])
