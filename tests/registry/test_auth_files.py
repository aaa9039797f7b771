"""Credentials in the files of docker, podman and skopeo, and in their helpers."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from ociexport.errors import AuthenticationError, UsageError
from ociexport.registry.auth import helpers
from ociexport.registry.auth.auth_files import search_credentials
from ociexport.registry.options import ANONYMOUS, Credentials

USER_PASS = "dXNlcjpwYTpzcw=="  # user:pa:ss
USER = Credentials("user", "pa:ss")


def _write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _install_helper(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    program = directory / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("entry", "credentials"),
    [
        ({"auth": USER_PASS}, USER),
        ({"username": "user", "password": "pa:ss"}, USER),
        ({"auth": "dXNlcjo=", "identitytoken": "refresh"}, Credentials("user", None, "refresh")),
        ({"registrytoken": "bearer"}, Credentials(registry_token="bearer")),
        ({}, ANONYMOUS),
    ],
)
def test_entries_are_read_in_each_form(tmp_path: Path, entry: dict[str, str], credentials: Credentials) -> None:
    """containers-auth.json(5); docker/cli config file "auths"."""
    authfile = _write(tmp_path / "auth.json", {"auths": {"reg.example:5000": entry}})
    assert search_credentials("reg.example:5000", "a/b", authfile).credentials == credentials


@pytest.mark.parametrize("password", ["pa:ss", "pa:ss1", "pa:ss12", "pä:ss"])
@pytest.mark.parametrize("padding", ["", "=", "=="])
def test_auth_is_read_with_and_without_padding(tmp_path: Path, password: str, padding: str) -> None:
    """RFC 4648, 3.2: padding adds nothing where the length is known; scripts that write such files leave it out."""
    encoded = base64.b64encode(f"user:{password}".encode()).decode().rstrip("=") + padding
    authfile = _write(tmp_path / "auth.json", {"auths": {"reg.example": {"auth": encoded}}})
    assert search_credentials("reg.example", "a", authfile).credentials == Credentials("user", password)


@pytest.mark.parametrize("encoded", ["d", "dXNlcjpwY", "dXNl=cjpw", "dXNl cjpw", "not base64!"])
def test_auth_that_is_no_base64_is_an_error(tmp_path: Path, encoded: str) -> None:
    """A length that no bytes encode to, padding in the middle, or other characters."""
    authfile = _write(tmp_path / "auth.json", {"auths": {"reg.example": {"auth": encoded}}})
    with pytest.raises(UsageError) as caught:
        search_credentials("reg.example", "a", authfile)
    assert str(caught.value) == f"{authfile}: auths: reg.example: auth: expected base64 of 'user:password'"


@pytest.mark.parametrize(
    ("registry", "repository", "key"),
    [
        ("docker.io", "library/alpine", "https://index.docker.io/v1/"),
        ("docker.io", "library/alpine", "index.docker.io"),
        ("docker.io", "library/alpine", "docker.io"),
        ("docker.io", "library/alpine", "registry-1.docker.io"),
        ("docker.io", "library/alpine", "docker.io/library"),
        ("reg.example", "ns/repo", "reg.example"),
        ("reg.example", "ns/repo", "reg.example/ns"),
        ("reg.example", "ns/repo", "reg.example/ns/repo"),
        ("reg.example", "ns/repo", "https://reg.example"),
        ("reg.example", "ns/repo", "http://reg.example/v2/"),
        ("reg.example", "ns/repo", "reg.example/v1/"),
    ],
)
def test_keys_are_found_in_each_spelling(tmp_path: Path, registry: str, repository: str, key: str) -> None:
    auths = {"other.example": {"auth": "eDp5"}, "reg.example/other": {"auth": "eDp5"}, key: {"auth": USER_PASS}}
    authfile = _write(tmp_path / "auth.json", {"auths": auths})
    finding = search_credentials(registry, repository, authfile)
    assert (finding.credentials, finding.place, finding.key) == (USER, str(authfile), key)


def test_the_most_specific_key_wins(tmp_path: Path) -> None:
    keys = ["reg.example", "reg.example/ns", "reg.example/ns/repo", "reg.example/ns/re"]
    authfile = _write(tmp_path / "auth.json", {"auths": {key: {"username": key, "password": "x"} for key in keys}})
    for repository, key in [
        ("ns/repo", "reg.example/ns/repo"),
        ("ns/repository", "reg.example/ns"),
        ("ns/repo/part", "reg.example/ns/repo"),
        ("other", "reg.example"),
    ]:
        assert search_credentials("reg.example", repository, authfile).key == key


def test_files_are_asked_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONVENTIONS, "Credential search": a file without an entry for the registry is skipped."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("DOCKER_CONFIG")
    auths = {"reg.example": {"auth": USER_PASS}}
    places = [
        _write(home / ".dockercfg", auths),
        _write(home / ".docker" / "config.json", {"auths": auths}),
        _write(home / ".config" / "containers" / "auth.json", {"auths": auths}),
        _write(tmp_path / "run" / "containers" / "auth.json", {"auths": auths}),
    ]
    for place in reversed(places):
        finding = search_credentials("reg.example", "a")
        assert (finding.place, finding.credentials) == (str(place), USER)
        assert {reason for _, reason in finding.passed_over} <= {"nothing for this registry"}
        place.write_text("{}")
    assert search_credentials("reg.example", "a").credentials == ANONYMOUS


def test_variable_holds_a_files_content_and_names_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"auths": {"reg.example": {"auth": USER_PASS}}, "credsStore": "none-such"}
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(content))
    finding = search_credentials("reg.example", "a")
    assert (finding.place, finding.credentials) == ("DOCKER_AUTH_CONFIG", USER)


def test_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        search_credentials("docker.io", "library/alpine", tmp_path / "none.json")
    assert str(caught.value) == f"{tmp_path / 'none.json'}: expected a file with credentials, got no such file"


@pytest.mark.parametrize("secret", ["c2VjcmV0=x", "/w=="])
def test_entry_that_does_not_decode_is_named_and_not_shown(tmp_path: Path, secret: str) -> None:
    authfile = _write(tmp_path / "auth.json", {"auths": {"docker.io": {"auth": secret}}})
    with pytest.raises(UsageError) as caught:
        search_credentials("docker.io", "library/alpine", authfile)
    assert str(caught.value) == f"{authfile}: auths: docker.io: auth: expected base64 of 'user:password'"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("nonsense", "expected a JSON document, got ASCII text"),
        ('{"auths": []}', "auths: expected an object, got a list"),
        ('{"auths": {"reg.example": 5}}', "auths: reg.example: expected an object, got an integer"),
        ('{"credHelpers": {"reg.example": 5}}', "credHelpers['reg.example']: expected a string, got an integer"),
    ],
)
def test_file_of_another_kind_is_named(tmp_path: Path, content: str, told: str) -> None:
    authfile = tmp_path / "auth.json"
    authfile.write_text(content)
    with pytest.raises(UsageError) as caught:
        search_credentials("reg.example", "a", authfile)
    assert str(caught.value).startswith(f"{authfile}: {told}")


# Helpers

ANSWER = """read server; echo '{"ServerURL": "'$server'", "Username": "'$1'@helper", "Secret": "of '$server'"}'"""


@pytest.mark.parametrize(
    ("registry", "server"), [("reg.example:5000", "reg.example:5000"), ("docker.io", "https://index.docker.io/v1/")]
)
def test_helper_is_asked_for_the_server_as_docker_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: str, server: str
) -> None:
    _install_helper(tmp_path / "bin", monkeypatch, "test", ANSWER)
    authfile = _write(tmp_path / "auth.json", {"credsStore": "test", "auths": {server: {}}})
    finding = search_credentials(registry, "a", authfile)
    assert finding.credentials == Credentials("get@helper", f"of {server}")
    assert (finding.key, finding.helper) == ("credsStore", "test")


def test_helper_of_the_registry_goes_before_the_store_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "store"):
        answer = f"""echo '{{"Username": "{name}", "Secret": "x"}}'"""
        _install_helper(tmp_path / "bin", monkeypatch, name, answer)
    auths = {"reg.example": {"auth": USER_PASS}}
    content: dict[str, object] = {"credHelpers": {"reg.example": "mine"}, "credsStore": "store", "auths": auths}
    authfile = _write(tmp_path / "auth.json", content)
    assert search_credentials("reg.example", "a", authfile).credentials.username == "mine"
    assert search_credentials("other.example", "a", authfile).credentials.username == "store"
    del content["credHelpers"], content["credsStore"]
    _write(authfile, content)
    assert search_credentials("reg.example", "a", authfile).credentials == USER


def test_helper_that_has_nothing_leaves_it_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_helper(tmp_path / "bin", monkeypatch, "test", "echo credentials not found in native keychain; exit 1")
    authfile = _write(tmp_path / "auth.json", {"credsStore": "test", "auths": {"reg.example": {"auth": USER_PASS}}})
    assert search_credentials("reg.example", "a", authfile).credentials == USER


def test_helper_may_give_an_identity_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_helper(tmp_path / "bin", monkeypatch, "test", """echo '{"Username": "<token>", "Secret": "refresh"}'""")
    authfile = _write(tmp_path / "auth.json", {"credsStore": "test"})
    assert search_credentials("reg.example", "a", authfile).credentials == Credentials(identity_token="refresh")


def test_helper_is_absent_where_a_directory_of_path_is_closed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Effective only for an ordinary user: root may search every directory."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    monkeypatch.setenv("PATH", f"{closed}:{os.environ['PATH']}")
    authfile = _write(tmp_path / "auth.json", {"credHelpers": {"reg.example": "absent"}})
    with pytest.raises(AuthenticationError, match=r"docker-credential-absent: program not found on PATH$"):
        search_credentials("reg.example", "a", authfile)


def test_helper_that_may_not_be_run_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_helper(tmp_path / "bin", monkeypatch, "closed", "")
    (tmp_path / "bin" / "docker-credential-closed").chmod(0o644)
    authfile = _write(tmp_path / "auth.json", {"credHelpers": {"reg.example": "closed"}})
    with pytest.raises(AuthenticationError, match=r"docker-credential-closed: can't be run: Permission denied$"):
        search_credentials("reg.example", "a", authfile)


@pytest.mark.parametrize(
    ("name", "script", "told"),
    [
        ("absent", None, "docker-credential-absent: program not found on PATH"),
        ("../sh", None, "docker-credential-'../sh': expected letters, digits, '.', '_' and '-' in its name"),
        ("bad", "echo key ring is locked; exit 3", "docker-credential-bad: get reg.example failed (3): 'key ring is"),
        ("odd", "echo secret", "docker-credential-odd: answer: expected a JSON document, got ASCII text"),
        ("slow", "exec sleep 5", "docker-credential-slow: no answer in 0.2 s"),
    ],
)
def test_helper_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str | None, told: str
) -> None:
    monkeypatch.setattr(helpers, "HELPER_SECONDS", 0.2 if name == "slow" else 60)
    if script is not None:
        _install_helper(tmp_path / "bin", monkeypatch, name, script)
    authfile = _write(tmp_path / "auth.json", {"credHelpers": {"reg.example": name}})
    with pytest.raises(AuthenticationError) as caught:
        search_credentials("reg.example", "a", authfile)
    assert str(caught.value).startswith(f"{authfile}: credential helper {told}")
    assert "secret" not in str(caught.value)
