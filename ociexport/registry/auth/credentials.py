"""Credentials for a registry, and the places that are searched for them.

The order of the search; the first place with an entry for the image decides:

1. the command line (``--creds``, ``--username``, ``--registry-token``);
2. ``DOCKER_AUTH_CONFIG``, whose value is the content of a file, as with docker and GitLab;
3. ``--authfile``, or else ``REGISTRY_AUTH_FILE``; if either is given, no other file is read;
4. ``containers/auth.json`` in ``XDG_RUNTIME_DIR``, then in ``XDG_CONFIG_HOME`` (``~/.config``);
5. docker's ``config.json`` in ``DOCKER_CONFIG`` (``~/.docker``);
6. ``~/.dockercfg``, docker's file before 2015.

Within a file the order is ``credHelpers``, ``credsStore``, ``auths``; in ``auths`` the most specific key wins.

Spec: containers-auth.json(5); docker/cli "docker login", "Credential helpers".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ociexport.errors import UsageError
from ociexport.registry.options import ANONYMOUS, Credentials
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.environment import configuration_home, home_directory

ENVIRONMENT_CONTENT = "DOCKER_AUTH_CONFIG"
ENVIRONMENT_FILE = "REGISTRY_AUTH_FILE"


class Finding(NamedTuple):
    """The result of a search for credentials.

    Args:
        place: the file or variable with the credentials; None where no place has any.
        key: the entry in it.
        helper: the credential helper that the entry names; None where the file itself holds the secret.
        passed_over: the places without an entry, each with the reason.
    """

    credentials: Credentials = ANONYMOUS
    place: str | None = None
    key: str | None = None
    helper: str | None = None
    passed_over: tuple[tuple[str, str], ...] = ()

    @property
    def origin(self) -> str:
        """Where the credentials were found, as messages name it."""
        if self.place is None:
            return "no credentials found"
        if self.key is None:
            return self.place
        helper = f", by docker-credential-{self.helper}" if self.helper is not None else ""
        return f"{self.place}: entry '{self.key}'{helper}"

    def __str__(self) -> str:
        """Return the identity and where it was found; no secret."""
        return f"{self.credentials} (from {self.origin})" if self.credentials else "anonymous (no credentials found)"


def parse_user_and_password(text: str) -> Credentials:
    """Return the credentials in ``user:password``; the password may hold colons.

    Raises:
        UsageError: there is no colon or no user.
    """
    username, colon, password = text.partition(":")
    if not colon or not username:
        raise UsageError("credentials: expected user:password", hint="for example --creds alice:secret")
    return Credentials(username, password)


def encode_user_and_password(credentials: Credentials) -> str:
    """Return ``user:password`` in base64, as a header and docker's files contain it."""
    import base64  # noqa: PLC0415 - start-up: few registries are asked with a password

    pair = f"{credentials.username or ''}:{credentials.password or ''}"
    return base64.b64encode(pair.encode("utf-8")).decode("ascii")


class AuthPlace(NamedTuple):
    """One place that is searched for credentials.

    Args:
        path: of the file; None for `ENVIRONMENT_CONTENT`.
        is_legacy: a ``.dockercfg``, which consists of the auths alone.
        must_exist: the user named it.
    """

    path: Path | None
    is_legacy: bool = False
    must_exist: bool = False

    def __str__(self) -> str:
        return ENVIRONMENT_CONTENT if self.path is None else str(self.path)


def auth_places(authfile: Path | None = None, environment: Mapping[str, str] = os.environ) -> Iterator[AuthPlace]:
    """Yield the places that are searched for credentials, in order.

    Args:
        authfile: the value of ``--authfile``.
        environment: the process's own, except in tests.
    """
    if environment.get(ENVIRONMENT_CONTENT):
        yield AuthPlace(None)
    named = named_auth_path(authfile, environment)
    if named is not None:
        yield AuthPlace(named, must_exist=True)
        return
    for path in containers_auth_paths(environment):
        yield AuthPlace(path)
    yield AuthPlace(docker_config_path(environment))
    yield AuthPlace(home_directory(environment) / ".dockercfg", is_legacy=True)


def is_any_auth_place(authfile: Path | None) -> bool:
    """Whether a search for credentials has anything to read, or to report as missing."""
    return any(place.path is None or place.must_exist or os.path.lexists(place.path) for place in auth_places(authfile))


def named_auth_path(authfile: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that ``--authfile`` or else ``REGISTRY_AUTH_FILE`` names; None where neither does."""
    return authfile or (Path(environment[ENVIRONMENT_FILE]) if environment.get(ENVIRONMENT_FILE) else None)


def containers_auth_paths(environment: Mapping[str, str] = os.environ) -> tuple[Path, Path]:
    """Return where podman and skopeo keep logins: the session's file, which they write, and the persistent one.

    They read the persistent one second.
    """
    runtime = environment.get("XDG_RUNTIME_DIR")
    of_session = Path(runtime) / "containers" if runtime else Path(f"/run/containers/{os.getuid()}")
    persistent = configuration_home(environment) / "containers"
    return of_session / "auth.json", persistent / "auth.json"


def docker_config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where docker keeps its configuration."""
    directory = environment.get("DOCKER_CONFIG")
    return (Path(directory) if directory else home_directory(environment) / ".docker") / "config.json"
