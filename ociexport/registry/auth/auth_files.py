"""The files in which docker, podman and skopeo keep credentials."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ociexport.errors import InvalidImageError, UsageError
from ociexport.registry.auth.credentials import ENVIRONMENT_CONTENT, AuthPlace, Finding, auth_places
from ociexport.registry.auth.helpers import fetch_from_helper
from ociexport.registry.options import Credentials
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.reference import DEFAULT_REGISTRY

# The key that docker writes for Docker Hub, and those that other tools and people write, most common first.
DOCKER_HUB_SERVER = "https://index.docker.io/v1/"
DOCKER_HUB_KEYS = (DOCKER_HUB_SERVER, "index.docker.io", "docker.io", "registry-1.docker.io")


def search_credentials(registry: str, repository: str, authfile: Path | None = None) -> Finding:
    """Return the credentials for ``repository`` of ``registry``, or a finding that lists the places without any.

    Raises:
        UsageError: a file is invalid, or a file that the user named does not exist.
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


def verify_auth_files(registry: str, repository: str, authfile: Path | None = None) -> None:
    """Return if the files that a search for ``repository`` of ``registry`` reads can be read; no helper is run.

    A search goes on to the next file only where a helper has nothing. Files after one that names a helper are not read.

    Raises:
        UsageError, OSError: as `search_credentials`.
    """
    helpers: list[str] = []

    def note_helper(name: str, server: str, place: str) -> None:
        helpers.append(name)

    for place in auth_places(authfile):
        config = _read_place(place)
        if config is None:
            continue
        if _search_config(config, place, registry, repository, note_helper) or helpers:
            return


def server_name(registry: str) -> str:
    """Return docker's name for ``registry`` in its files and credential helpers."""
    return DOCKER_HUB_SERVER if registry == DEFAULT_REGISTRY else registry


def _read_place(place: AuthPlace) -> JsonObject | None:
    """Return the content of ``place``, in the form of a ``config.json``; None where there is no such place."""
    if place.path is None:
        raw = os.environ[ENVIRONMENT_CONTENT].encode("utf-8", "surrogateescape")
    else:
        try:
            raw = place.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if place.must_exist:
                raise UsageError(f"{place}: expected a file with credentials, got no such file") from error
            return None
        except PermissionError:
            # With sudo -u the variables may name another user's directories. A file that exists must be readable.
            if place.must_exist or os.path.isfile(place.path):
                raise
            return None
    if not raw.strip():
        raw = b"{}"
    return parse_auth_config(raw, str(place))


def _absence(place: AuthPlace) -> str:
    """Return why ``place`` could not be read."""
    try:
        os.stat(place.path or "")
    except PermissionError:
        return "in a directory that this user may not search"
    except OSError:
        pass
    return "no such file"


def parse_auth_config(raw: bytes, where: str) -> JsonObject:
    """Return the JSON object in a file with credentials.

    Raises:
        UsageError: the file holds something else.
    """
    try:
        return parse_json_object(raw, where=where)
    except InvalidImageError as error:
        raise UsageError(str(error)) from error


def _search_config(
    config: JsonObject,
    place: AuthPlace,
    registry: str,
    repository: str,
    ask_helper: Callable[[str, str, str], Credentials | None] = fetch_from_helper,
) -> Finding | None:
    try:
        # Helpers are programs of the machine; a variable, which a CI job may set, can't name one.
        if place.path is not None and not place.is_legacy:
            helper, key = helper_for(config, registry)
            found = ask_helper(helper, server_name(registry), str(place)) if helper is not None else None
            if found is not None:
                return Finding(found, key=key, helper=helper)
        auths = config if place.is_legacy else config.optional_object("auths")
        return _search_auths(auths, registry, repository) if auths is not None else None
    except InvalidImageError as error:
        raise UsageError(str(error)) from error


def _search_auths(auths: JsonObject, registry: str, repository: str) -> Finding | None:
    for key in _matching_keys(auths, registry, repository):
        # Where a helper keeps the secret, docker leaves an empty entry that records the login.
        if credentials := _parse_entry(auths.object(key)):
            return Finding(credentials, key=key)
    return None


def helper_for(config: JsonObject, registry: str) -> tuple[str | None, str]:
    """Return the credential helper that ``config`` names for ``registry``, if any, and the key that names it."""
    helpers = config.text_map("credHelpers")
    for name in (registry, *(DOCKER_HUB_KEYS if registry == DEFAULT_REGISTRY else ())):
        if helpers.get(name):
            return helpers[name], f"credHelpers: {name}"
    return config.optional_text("credsStore"), "credsStore"


def _matching_keys(auths: JsonObject, registry: str, repository: str) -> Iterator[str]:
    """Yield the keys of ``auths`` that match ``repository``, the most specific first."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), 0, -1):
        name = "/".join([registry, *parts[:count]])
        if name in auths:
            yield name
    hosts = DOCKER_HUB_KEYS if registry == DEFAULT_REGISTRY else (registry,)
    yield from (name for name in hosts if name in auths)
    for name in auths.keys:
        # Old versions of docker wrote URLs, of which only the host matters.
        if "/" in name and name not in hosts and _host_of_url(name) in hosts:
            yield name


def _host_of_url(key: str) -> str | None:
    """Return the host of a key that is a URL; None for a namespace, which looks similar."""
    rest = key.removeprefix("https://").removeprefix("http://")
    host, _, path = rest.partition("/")
    return host if rest != key or path in ("", "v1/", "v1", "v2/", "v2") else None


def _parse_entry(entry: JsonObject) -> Credentials:
    username, password = entry.optional_text("username"), entry.optional_text("password")
    encoded = entry.optional_text("auth")
    if encoded is not None:
        try:
            text = _decode_base64(encoded.strip()).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            # The message does not show the value: it is a secret, even where it is malformed.
            raise UsageError(f"{entry.where}: auth: expected base64 of 'user:password'") from error
        username, _, password = text.rstrip("\0").partition(":")
    identity_token = entry.optional_text("identitytoken")
    return Credentials(
        username=username or None,
        password=password or None,
        identity_token=identity_token,
        registry_token=entry.optional_text("registrytoken"),
    )


def _decode_base64(text: str) -> bytes:
    """Return the bytes that ``text`` encodes; scripts leave out the padding at its end, or part of it."""
    digits = text.rstrip("=")
    return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
