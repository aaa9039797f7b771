"""Credentials for a registry, from the files where docker keeps them."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ociexport.errors import UsageError
from ociexport.jsonfields import JsonObject, parse_json_object
from ociexport.reference import ImageReference

# What docker writes for Docker Hub, and the names that other tools and people write, most usual first.
DOCKER_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry is told about who asks; all None for nobody. Its repr shows no secret.

    Args:
        username: for basic authentication, with ``password``.
        password: or an access token in its place.
        identity_token: an OAuth2 refresh token, to be exchanged at the registry's token service.
        registry_token: a bearer token to be sent as it is.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    identity_token: str | None = field(default=None, repr=False)
    registry_token: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return self != ANONYMOUS


ANONYMOUS = Credentials()


def find_credentials(reference: ImageReference, authfile: Path | None = None) -> Credentials:
    """Return the credentials that docker's ``config.json`` has for the registry of ``reference``.

    Args:
        authfile: another file of the same kind; it must exist.

    Raises:
        UsageError: the file is not of that kind.
        OSError: it can't be read.
    """
    path = authfile or docker_config_path()
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if authfile is not None:
            raise
        return ANONYMOUS
    auths = parse_json_object(raw, where=str(path)).optional_object("auths")
    if auths is None:
        return ANONYMOUS
    for key in _keys_for(reference):
        entry = auths.optional_object(key)
        if entry is not None:
            return _parse_entry(entry)
    return ANONYMOUS


def docker_config_path() -> Path:
    """Return where docker keeps its configuration."""
    directory = os.environ.get("DOCKER_CONFIG")
    return Path(directory) / "config.json" if directory else Path.home() / ".docker" / "config.json"


def _keys_for(reference: ImageReference) -> Iterator[str]:
    """Yield the keys that may hold the credentials, the most specific first."""
    parts = reference.repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join([reference.registry, *parts[:count]])
    if reference.is_docker_hub:
        yield from DOCKER_HUB_KEYS
        return
    for prefix in ("", "https://", "http://"):
        yield from (f"{prefix}{reference.registry}{suffix}" for suffix in ("", "/", "/v1/", "/v2/"))


def _parse_entry(entry: JsonObject) -> Credentials:
    username, password = entry.optional_text("username"), entry.optional_text("password")
    encoded = entry.optional_text("auth")
    if encoded is not None:
        try:
            text = base64.b64decode(encoded, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            # The value itself is a secret, however badly it is written.
            raise UsageError(f"{entry.where}: auth: expected base64 of 'user:password'") from error
        username, _, password = text.rstrip("\0").partition(":")
    return Credentials(
        username=username or None,
        password=password or None,
        identity_token=entry.optional_text("identitytoken"),
        registry_token=entry.optional_text("registrytoken"),
    )
