"""Credentials in the files where docker keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.reference import ImageReference
from ociexport.registry.credentials import ANONYMOUS, Credentials, find_credentials

USER_PASS = "dXNlcjpwYTpzcw=="  # user:pa:ss


def _authfile(directory: Path, auths: dict[str, object]) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({"auths": auths}))
    return path


@pytest.mark.parametrize(
    ("entry", "credentials"),
    [
        ({"auth": USER_PASS}, Credentials("user", "pa:ss")),
        ({"username": "user", "password": "pa:ss"}, Credentials("user", "pa:ss")),
        ({"auth": "dXNlcjo=", "identitytoken": "refresh"}, Credentials("user", None, "refresh")),
        ({"registrytoken": "bearer"}, Credentials(registry_token="bearer")),
        ({}, ANONYMOUS),
    ],
)
def test_entries_are_read_in_each_form(tmp_path: Path, entry: dict[str, str], credentials: Credentials) -> None:
    """containers-auth.json(5); docker/cli config file "auths"."""
    authfile = _authfile(tmp_path, {"reg.example:5000": entry})
    assert find_credentials(ImageReference.parse("reg.example:5000/a/b"), authfile) == credentials


@pytest.mark.parametrize(
    ("image", "key"),
    [
        ("alpine", "https://index.docker.io/v1/"),
        ("alpine", "index.docker.io"),
        ("alpine", "docker.io"),
        ("alpine", "registry-1.docker.io"),
        ("alpine", "docker.io/library"),
        ("reg.example/ns/repo", "reg.example"),
        ("reg.example/ns/repo", "reg.example/ns"),
        ("reg.example/ns/repo", "reg.example/ns/repo"),
        ("reg.example/ns/repo", "https://reg.example"),
        ("reg.example/ns/repo", "https://reg.example/v2/"),
    ],
)
def test_keys_are_found_in_each_spelling(tmp_path: Path, image: str, key: str) -> None:
    authfile = _authfile(tmp_path, {key: {"auth": USER_PASS}, "other.example": {"auth": "eDp5"}})
    assert find_credentials(ImageReference.parse(image), authfile) == Credentials("user", "pa:ss")


def test_the_most_specific_key_wins(tmp_path: Path) -> None:
    keys = ["reg.example", "reg.example/ns", "reg.example/ns/repo", "reg.example/ns/re"]
    authfile = _authfile(tmp_path, {key: {"username": key, "password": "x"} for key in keys})
    for image, username in [
        ("reg.example/ns/repo", "reg.example/ns/repo"),
        ("reg.example/ns/repository", "reg.example/ns"),
        ("reg.example/other", "reg.example"),
    ]:
        assert find_credentials(ImageReference.parse(image), authfile).username == username


def test_docker_config_is_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert find_credentials(ImageReference.parse("alpine")) == ANONYMOUS
    _authfile(tmp_path, {"docker.io": {"auth": USER_PASS}})
    assert find_credentials(ImageReference.parse("alpine")) == Credentials("user", "pa:ss")


def test_authfile_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_credentials(ImageReference.parse("alpine"), tmp_path / "none.json")


@pytest.mark.parametrize("secret", ["c2VjcmV0=x", "/w=="])
def test_entry_that_does_not_decode_is_named_and_not_shown(tmp_path: Path, secret: str) -> None:
    authfile = _authfile(tmp_path, {"docker.io": {"auth": secret}})
    with pytest.raises(UsageError) as caught:
        find_credentials(ImageReference.parse("alpine"), authfile)
    assert str(caught.value) == f"{authfile}: auths: docker.io: auth: expected base64 of 'user:password'"
