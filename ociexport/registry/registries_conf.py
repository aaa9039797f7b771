"""registries.conf: where podman, skopeo and buildah are told of mirrors, moved and blocked registries.

Spec: containers-registries.conf(5), version 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ociexport.errors import UsageError, quoted
from ociexport.home import configuration_home
from ociexport.jsonfields import JsonObject
from ociexport.reference import ImageReference
from ociexport.registry.tomlfiles import read_toml, wrong_file_is_usage

ENVIRONMENT_FILE = "CONTAINERS_REGISTRIES_CONF"
_PULL_FROM_MIRROR = ("all", "digest-only", "tag-only")


@dataclass(frozen=True, slots=True)
class Location:
    """Where an image is: the registry and the repository there.

    Args:
        insecure: any TLS certificate will do, and plain http too.
    """

    registry: str
    repository: str
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Located:
    """Where an image is to be asked for: mirrors in order, and the registry itself."""

    home: Location
    mirrors: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class _Mirror:
    location: str
    insecure: bool
    pull_from_mirror: str


@dataclass(frozen=True, slots=True)
class _Registry:
    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[_Mirror, ...]
    where: str

    def fits(self, name: str) -> bool:
        """Whether this entry is about the image called ``name`` (registry/repository)."""
        if self.prefix.startswith("*."):
            return name.partition("/")[0].endswith(self.prefix[1:])
        return name == self.prefix or name.startswith(f"{self.prefix}/")


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """What all files together say.

    Args:
        registries: later files have replaced what earlier ones said of the same prefix.
        aliases: short names and the names that they stand for.
    """

    registries: tuple[_Registry, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)

    def locate(self, reference: ImageReference) -> Located:
        """Return where ``reference`` is to be asked for.

        Raises:
            UsageError: its registry is blocked.
        """
        name = reference.name
        fitting = [registry for registry in self.registries if registry.fits(name)]
        if not fitting:
            return Located(Location(reference.registry, reference.repository))
        entry = max(fitting, key=lambda registry: len(registry.prefix))
        if entry.blocked:
            raise UsageError(f"image {reference}: registry {entry.prefix} is blocked by {entry.where}")
        wanted = ("all", "tag-only" if reference.digest is None else "digest-only")
        mirrors = tuple(
            _rewritten(name, entry.prefix, mirror.location, mirror.insecure, entry.where)
            for mirror in entry.mirrors
            if mirror.pull_from_mirror in wanted
        )
        return Located(_rewritten(name, entry.prefix, entry.location, entry.insecure, entry.where), mirrors)


def _rewritten(name: str, prefix: str, location: str, insecure: bool, where: str) -> Location:
    """Return ``name`` with ``location`` in the place of ``prefix``."""
    if location:
        rest = name.partition("/")[2] if prefix.startswith("*.") else name[len(prefix) :]
        name = location.rstrip("/") + ("/" if rest and not rest.startswith("/") else "") + rest
    registry, _, repository = name.partition("/")
    if not registry or not repository:
        raise UsageError(
            f"{where}: location {quoted(location)}: expected a registry and a repository in {quoted(name)}"
        )
    return Location(registry, repository, insecure)


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
