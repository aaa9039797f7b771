"""Credentials for a registry, and where they are looked for.

In this order; the first that has something for the image decides:

1. what the user gave outright (``--creds``, ``--username``, ``--registry-token``);
2. ``DOCKER_AUTH_CONFIG``, whose value is a file's content, as docker and GitLab have it;
3. ``--authfile``, or else ``REGISTRY_AUTH_FILE``; where either is given, no other file is looked at;
4. ``containers/auth.json`` in ``XDG_RUNTIME_DIR``, then in ``XDG_CONFIG_HOME`` (``~/.config``);
5. docker's ``config.json`` in ``DOCKER_CONFIG`` (``~/.docker``);
6. ``~/.dockercfg``, as docker had it before 2015.

Within a file ``credHelpers`` goes before ``credsStore`` before ``auths``, and there the most specific key.

Spec: containers-auth.json(5); docker/cli "docker login", "Credential helpers".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ociexport.errors import UsageError
from ociexport.registry.options import ANONYMOUS, Credentials
from ociexport.system.environment import configuration_home, home_directory

ENVIRONMENT_CONTENT = "DOCKER_AUTH_CONFIG"
ENVIRONMENT_FILE = "REGISTRY_AUTH_FILE"


class Finding(NamedTuple):
    """What a search found, and how it came to it.

    Args:
        place: the file or variable that had the credentials; None where none had any.
        key: the entry in it.
        helper: the credential helper that it names; None where the file has the secret itself.
        passed_over: the places that had nothing, each with the reason.
    """

    credentials: Credentials = ANONYMOUS
    place: str | None = None
    key: str | None = None
    helper: str | None = None
    passed_over: tuple[tuple[str, str], ...] = ()

    @property
    def origin(self) -> str:
        """Where they were found, for people."""
        if self.place is None:
            return "no other place to look"
        if self.key is None:
            return self.place
        helper = f", by docker-credential-{self.helper}" if self.helper is not None else ""
        return f"{self.place}: entry '{self.key}'{helper}"

    def __str__(self) -> str:
        """Return whom a registry is asked as, and where that was found; no secret."""
        return f"{self.credentials} (from {self.origin})" if self.credentials else "nobody (anonymous)"


def parse_user_and_password(text: str) -> Credentials:
    """Return the credentials in ``user:password``; the password may hold colons.

    Raises:
        UsageError: there is no colon or no user.
    """
    username, colon, password = text.partition(":")
    if not colon or not username:
        raise UsageError("credentials: expected user:password", hint="for example --creds alice:secret")
    return Credentials(username, password)


class AuthPlace(NamedTuple):
    """One place where credentials are looked for.

    Args:
        path: of the file; None for `ENVIRONMENT_CONTENT`.
        is_legacy: a ``.dockercfg``, which has nothing but the auths.
        must_exist: the user named it.
    """

    path: Path | None
    is_legacy: bool = False
    must_exist: bool = False

    def __str__(self) -> str:
        return ENVIRONMENT_CONTENT if self.path is None else str(self.path)


def auth_places(authfile: Path | None = None, environment: Mapping[str, str] = os.environ) -> Iterator[AuthPlace]:
    """Yield the places where credentials are looked for, in order.

    Args:
        authfile: what ``--authfile`` says.
        environment: the process's own, unless a test has another.
    """
    if environment.get(ENVIRONMENT_CONTENT):
        yield AuthPlace(None)
    named = authfile or (Path(environment[ENVIRONMENT_FILE]) if environment.get(ENVIRONMENT_FILE) else None)
    if named is not None:
        yield AuthPlace(named, must_exist=True)
        return
    for path in containers_auth_paths(environment):
        yield AuthPlace(path)
    yield AuthPlace(docker_config_path(environment))
    yield AuthPlace(home_directory(environment) / ".dockercfg", is_legacy=True)


def containers_auth_paths(environment: Mapping[str, str] = os.environ) -> tuple[Path, Path]:
    """Return where podman and skopeo keep logins: that of the session, where they write, and the lasting one."""
    # The second is where they look when they have no session.
    runtime = environment.get("XDG_RUNTIME_DIR")
    of_session = Path(runtime) / "containers" if runtime else Path(f"/run/containers/{os.getuid()}")
    lasting = configuration_home(environment) / "containers"
    return of_session / "auth.json", lasting / "auth.json"


def docker_config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where docker keeps its configuration."""
    directory = environment.get("DOCKER_CONFIG")
    return (Path(directory) if directory else home_directory(environment) / ".docker") / "config.json"
