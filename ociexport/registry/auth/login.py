"""Keeping credentials where docker and podman find them, and forgetting them again."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ociexport.errors import UsageError
from ociexport.registry.auth.auth_files import DOCKER_HUB_KEYS, helper_for, parse_auth_config, server_name
from ociexport.registry.auth.credentials import ENVIRONMENT_FILE, containers_auth_paths, docker_config_path
from ociexport.registry.auth.helpers import erase_from_helper, store_in_helper
from ociexport.registry.options import Credentials
from ociexport.spec.json_fields import JsonObject
from ociexport.spec.reference import DEFAULT_REGISTRY
from ociexport.system.files import new_file
from ociexport.system.host_paths import real_path


class Compat(Enum):
    """Whose file is written."""

    DOCKER = "docker"
    CONTAINERS = "containers"


@dataclass(frozen=True, slots=True)
class LoginFile:
    """The file that a login is kept in.

    Args:
        compat: whose names for registries it has: podman calls Docker Hub ``docker.io``.
    """

    path: Path
    compat: Compat

    def key(self, registry: str) -> str:
        """Return the name of ``registry`` in this file."""
        return server_name(registry) if self.compat is Compat.DOCKER else registry


def login_file(authfile: Path | None, compat: Compat, environment: Mapping[str, str] = os.environ) -> LoginFile:
    """Return where a login is kept: ``--authfile``, ``REGISTRY_AUTH_FILE``, or where docker or podman would.

    Podman's is gone after a restart. An ordinary user who has no such directory, which podman makes for itself, gets
    the lasting one, which podman reads next.
    """
    named = authfile or (Path(environment[ENVIRONMENT_FILE]) if environment.get(ENVIRONMENT_FILE) else None)
    if named is not None:
        return LoginFile(named, compat)
    if compat is Compat.DOCKER:
        return LoginFile(docker_config_path(environment), compat)
    of_session, lasting = containers_auth_paths(environment)
    is_ours = environment.get("XDG_RUNTIME_DIR") or os.geteuid() == 0
    return LoginFile(of_session if is_ours else lasting, compat)


def write_login(file: LoginFile, registry: str, credentials: Credentials) -> str:
    """Keep ``credentials`` for ``registry``; returns where they are now, for people.

    Where the file names a credential helper for it, that one has the secret, and the file only an empty entry, as
    docker has it.

    Raises:
        UsageError: the file is of another kind, or a link of another user leads to it.
        AuthenticationError: the helper is missing or fails.
        OSError: the file can't be written; it is as it was.
    """
    members = _read_members(file.path)
    helper, _ = helper_for(JsonObject(members, str(file.path)), registry)
    entry: dict[str, str] = {}
    if helper is not None:
        store_in_helper(helper, server_name(registry), credentials, str(file.path))
    else:
        pair = f"{credentials.username or ''}:{credentials.password or ''}"
        entry["auth"] = base64.b64encode(pair.encode("utf-8")).decode("ascii")
        if credentials.identity_token is not None:
            entry["identitytoken"] = credentials.identity_token
    auths = members.setdefault("auths", {})
    for key in _keys_of(registry):
        auths.pop(key, None)
    auths[file.key(registry)] = entry
    _write_members(file.path, members)
    return f"docker-credential-{helper} (named in {file.path})" if helper is not None else str(file.path)


def remove_login(file: LoginFile, registry: str) -> bool:
    """Forget what the file and its helper have for ``registry``; returns whether the file had anything.

    Raises:
        see `write_login`.
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
    """Return the file's members, those that we know nothing of included: they are written again."""
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
    """Replace the file at once, or leave it as it was; only its owner may read it."""
    path = Path(real_path(str(path)))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with new_file(str(path), mode=0o600) as file:
        file.write(json.dumps(members, indent="\t", ensure_ascii=False).encode() + b"\n")
