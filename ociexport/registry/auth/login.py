"""Storing credentials where docker and podman find them, and removing them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from ociexport.errors import UsageError
from ociexport.registry.auth.auth_files import DOCKER_HUB_KEYS, helper_for, parse_auth_config, server_name
from ociexport.registry.auth.credentials import (
    containers_auth_paths,
    docker_config_path,
    encode_user_and_password,
    named_auth_path,
)
from ociexport.registry.auth.helpers import erase_from_helper, store_in_helper
from ociexport.registry.options import Credentials
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.reference import DEFAULT_REGISTRY
from ociexport.system.files import new_file
from ociexport.system.host_paths import real_path


class Compat(Enum):
    """The tool whose file is written."""

    DOCKER = "docker"
    CONTAINERS = "containers"


@dataclass(frozen=True, slots=True)
class LoginFile:
    """The file that stores logins.

    Args:
        compat: the tool whose names for registries the file uses: podman calls Docker Hub ``docker.io``.
    """

    path: Path
    compat: Compat

    def key(self, registry: str) -> str:
        """Return the key of ``registry`` in this file."""
        return server_name(registry) if self.compat is Compat.DOCKER else registry


def login_file(authfile: Path | None, compat: Compat, environment: Mapping[str, str] = os.environ) -> LoginFile:
    """Return the file for logins: that of ``--authfile``, of ``REGISTRY_AUTH_FILE``, or docker's or podman's own.

    Podman's session file is gone after a restart. An ordinary user without a session directory gets podman's
    persistent file, which podman reads second.
    """
    named = named_auth_path(authfile, environment)
    if named is not None:
        return LoginFile(named, compat)
    if compat is Compat.DOCKER:
        return LoginFile(docker_config_path(environment), compat)
    of_session, persistent = containers_auth_paths(environment)
    has_session = environment.get("XDG_RUNTIME_DIR") or os.geteuid() == 0
    return LoginFile(of_session if has_session else persistent, compat)


def verify_login_file(file: LoginFile) -> None:
    """Return if ``file`` is valid or does not exist yet, so that a login can be stored in it.

    Raises:
        UsageError, OSError: as `write_login`.
    """
    _read_members(file.path)


def write_login(file: LoginFile, registry: str, credentials: Credentials) -> str:
    """Store ``credentials`` for ``registry``; returns their place, as messages name it.

    If the file names a credential helper for the registry, the helper stores the secret, and the file gets an empty
    entry, as with docker.

    Raises:
        UsageError: the file is invalid, or its path leads through a link of another user.
        AuthenticationError: the helper is missing or fails.
        OSError: the file can't be written; it is unchanged.
    """
    members = _read_members(file.path)
    helper, _ = helper_for(JsonObject(members, str(file.path)), registry)
    entry: dict[str, str] = {}
    if helper is not None:
        store_in_helper(helper, server_name(registry), credentials, str(file.path))
    else:
        entry["auth"] = encode_user_and_password(credentials)
        if credentials.identity_token is not None:
            entry["identitytoken"] = credentials.identity_token
    auths = members.setdefault("auths", {})
    for key in _keys_of(registry):
        auths.pop(key, None)
    auths[file.key(registry)] = entry
    _write_members(file.path, members)
    return f"docker-credential-{helper} (named in {file.path})" if helper is not None else str(file.path)


def remove_login(file: LoginFile, registry: str) -> bool:
    """Remove the credentials for ``registry`` from the file and its helper; returns whether there was a place for them.

    Raises:
        UsageError, AuthenticationError, OSError: as `write_login`.
    """
    members = _read_members(file.path)
    helper, _ = helper_for(JsonObject(members, str(file.path)), registry)
    auths = members.get("auths") or {}
    known = [key for key in _keys_of(registry) if key in auths]
    if helper is not None:
        erase_from_helper(helper, server_name(registry), str(file.path))
    if known:
        for key in known:
            del auths[key]
        _write_members(file.path, members)
    return bool(known) or helper is not None


def _keys_of(registry: str) -> tuple[str, ...]:
    return DOCKER_HUB_KEYS if registry == DEFAULT_REGISTRY else (registry, f"https://{registry}")


def _read_members(path: Path) -> dict[str, Any]:
    """Return all members of the file, unknown ones included: they are written back."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    if not raw.strip():
        return {}
    parse_auth_config(raw, str(path))
    members: dict[str, Any] = json.loads(raw)
    if not isinstance(members.get("auths") or {}, dict):
        raise UsageError(f"{path}: auths: expected an object")
    if members.get("auths") is None:
        members.pop("auths", None)
    return members


def _write_members(path: Path, members: dict[str, Any]) -> None:
    """Replace the file as a whole or not at all; only its owner may read it."""
    path = Path(real_path(str(path)))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with new_file(str(path), mode=0o600) as file:
        file.write(json.dumps(members, indent="\t", ensure_ascii=False).encode() + b"\n")
