"""The files in which docker, podman and skopeo keep credentials."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from pathlib import Path

from ociexport.errors import InvalidImageError, UsageError
from ociexport.registry.auth.credentials import ENVIRONMENT_CONTENT, AuthPlace, Finding, auth_places
from ociexport.registry.auth.helpers import fetch_from_helper
from ociexport.registry.options import Credentials
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.reference import DEFAULT_REGISTRY

# What docker writes for Docker Hub, and the names that other tools and people write, most usual first.
DOCKER_HUB_SERVER = "https://index.docker.io/v1/"
DOCKER_HUB_KEYS = (DOCKER_HUB_SERVER, "index.docker.io", "docker.io", "registry-1.docker.io")


def search_credentials(registry: str, repository: str, authfile: Path | None = None) -> Finding:
    """Return the credentials for ``repository`` of ``registry``, or how nothing was found.

    Raises:
        UsageError: a file is not of this kind, or was named and is not there.
        AuthenticationError: a credential helper is missing or fails.
        OSError: a file can't be read.
    """
    passed_over: list[tuple[str, str]] = []
    for place in auth_places(authfile):
        config = _read_place(place)
        if config is None:
            passed_over.append((str(place), _absence(place)))
            continue
        finding = _search_config(config, place, registry, repository)
        if finding is not None:
            return Finding(finding.credentials, str(place), finding.key, finding.helper, tuple(passed_over))
        passed_over.append((str(place), "nothing for this registry"))
    return Finding(passed_over=tuple(passed_over))


def server_name(registry: str) -> str:
    """Return what docker calls ``registry`` in its files and to its helpers."""
    return DOCKER_HUB_SERVER if registry == DEFAULT_REGISTRY else registry


def _read_place(place: AuthPlace) -> JsonObject | None:
    """Return what ``place`` holds, in the form of a ``config.json``; None where it is not there."""
    if place.path is None:
        raw = os.environ[ENVIRONMENT_CONTENT].encode("utf-8", "surrogateescape")
    else:
        try:
            raw = place.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if place.must_exist:
                raise UsageError(f"{place}: expected a file with credentials, there is none") from error
            return None
        except PermissionError:
            # sudo -u keeps the variables of another user. A file that is there must be readable.
            if place.must_exist or os.path.isfile(place.path):
                raise
            return None
    if not raw.strip():
        raw = b"{}"
    return parse_auth_config(raw, str(place))


def _absence(place: AuthPlace) -> str:
    """Return why there is nothing at ``place``."""
    try:
        os.stat(place.path or "")
    except PermissionError:
        return "in a directory that this user may not look into"
    except OSError:
        pass
    return "no such file"


def parse_auth_config(raw: bytes, where: str) -> JsonObject:
    """Return a file with credentials as JSON.

    Raises:
        UsageError: it is none.
    """
    try:
        return parse_json_object(raw, where=where)
    except InvalidImageError as error:
        raise UsageError(str(error)) from error


def _search_config(config: JsonObject, place: AuthPlace, registry: str, repository: str) -> Finding | None:
    try:
        # Helpers are programs of the machine; a variable that some CI job sets names none.
        if place.path is not None and not place.is_legacy:
            helper, key = helper_for(config, registry)
            found = fetch_from_helper(helper, server_name(registry), str(place)) if helper is not None else None
            if found is not None:
                return Finding(found, key=key, helper=helper)
        auths = config if place.is_legacy else config.optional_object("auths")
        return _search_auths(auths, registry, repository) if auths is not None else None
    except InvalidImageError as error:
        raise UsageError(str(error)) from error


def _search_auths(auths: JsonObject, registry: str, repository: str) -> Finding | None:
    for key in _matching_keys(auths, registry, repository):
        # Beside a helper docker leaves an empty entry, to remember that somebody is logged in.
        if credentials := _parse_entry(auths.object(key)):
            return Finding(credentials, key=key)
    return None


def helper_for(config: JsonObject, registry: str) -> tuple[str | None, str]:
    """Return the credential helper that ``config`` has for ``registry``, and the key that names it."""
    helpers = config.text_map("credHelpers")
    for name in (registry, *(DOCKER_HUB_KEYS if registry == DEFAULT_REGISTRY else ())):
        if helpers.get(name):
            return helpers[name], f"credHelpers: {name}"
    return config.optional_text("credsStore"), "credsStore"


def _matching_keys(auths: JsonObject, registry: str, repository: str) -> Iterator[str]:
    """Yield the keys of ``auths`` that are for ``repository``, the most specific first."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), 0, -1):
        name = "/".join([registry, *parts[:count]])
        if name in auths:
            yield name
    hosts = DOCKER_HUB_KEYS if registry == DEFAULT_REGISTRY else (registry,)
    yield from (name for name in hosts if name in auths)
    for name in auths.keys:
        # Old versions of docker wrote URLs; of these only the host counts.
        if "/" in name and name not in hosts and _host_of_url(name) in hosts:
            yield name


def _host_of_url(key: str) -> str | None:
    """Return the host in a key that is a URL; None for a namespace, which looks much the same."""
    rest = key.removeprefix("https://").removeprefix("http://")
    host, _, path = rest.partition("/")
    return host if rest != key or path in ("", "v1/", "v1", "v2/", "v2") else None


def _parse_entry(entry: JsonObject) -> Credentials:
    username, password = entry.optional_text("username"), entry.optional_text("password")
    encoded = entry.optional_text("auth")
    if encoded is not None:
        try:
            text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            # The value itself is a secret, however badly it is written.
            raise UsageError(f"{entry.where}: auth: expected base64 of 'user:password'") from error
        username, _, password = text.rstrip("\0").partition(":")
    identity_token = entry.optional_text("identitytoken")
    return Credentials(
        username=username or None,
        password=password or None,
        identity_token=identity_token,
        registry_token=entry.optional_text("registrytoken"),
    )
