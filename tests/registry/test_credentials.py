"""The places that are searched for credentials, and their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.registry.auth.credentials import auth_places, parse_user_and_password
from ociexport.registry.options import ANONYMOUS, Credentials


def _places(authfile: str | None = None, **environment: str) -> list[str]:
    places = auth_places(Path(authfile) if authfile else None, {"HOME": "/home/me", **environment})
    return [str(place) for place in places]


def test_places_are_those_of_podman_and_docker() -> None:
    """containers-auth.json(5); docker/cli."""
    assert _places(XDG_RUNTIME_DIR="/run/user/7") == [
        "/run/user/7/containers/auth.json",
        "/home/me/.config/containers/auth.json",
        "/home/me/.docker/config.json",
        "/home/me/.dockercfg",
    ]


def test_places_follow_the_environment() -> None:
    assert _places(
        XDG_RUNTIME_DIR="/run/user/7", XDG_CONFIG_HOME="/conf", DOCKER_CONFIG="/docker", DOCKER_AUTH_CONFIG="{}"
    ) == [
        "DOCKER_AUTH_CONFIG",
        "/run/user/7/containers/auth.json",
        "/conf/containers/auth.json",
        "/docker/config.json",
        "/home/me/.dockercfg",
    ]


@pytest.mark.parametrize(
    ("authfile", "environment", "places"),
    [
        ("/a.json", {}, ["/a.json"]),
        ("/a.json", {"REGISTRY_AUTH_FILE": "/b.json"}, ["/a.json"]),
        (None, {"REGISTRY_AUTH_FILE": "/b.json"}, ["/b.json"]),
        ("/a.json", {"DOCKER_AUTH_CONFIG": "{}"}, ["DOCKER_AUTH_CONFIG", "/a.json"]),
    ],
)
def test_named_file_is_the_only_one(authfile: str | None, environment: dict[str, str], places: list[str]) -> None:
    assert _places(authfile, **environment) == places


@pytest.mark.parametrize(
    ("text", "credentials"),
    [("user:pass", Credentials("user", "pass")), ("u:p:q", Credentials("u", "p:q")), ("u:", Credentials("u", ""))],
)
def test_password_may_hold_colons(text: str, credentials: Credentials) -> None:
    assert parse_user_and_password(text) == credentials


@pytest.mark.parametrize("text", ["user", ":pass", ""])
def test_user_without_password_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_user_and_password(text)
    assert str(caught.value) == "credentials: expected user:password"


def test_credentials_tell_who_asks_and_no_secret() -> None:
    assert [
        str(credentials)
        for credentials in (
            Credentials("user", "secret"),
            Credentials(identity_token="secret"),
            Credentials(registry_token="secret"),
            ANONYMOUS,
        )
    ] == ["user user", "the holder of an identity token", "the holder of a registry token", "anonymous"]
    assert "secret" not in repr(Credentials("user", "secret", "secret", "secret"))
