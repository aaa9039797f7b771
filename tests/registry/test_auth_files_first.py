"""A file with credentials that can't be used is reported before the first request, whether or not one is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ociexport.cli.main import main
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image
from tests.support.memory_source import member

IMAGE = build_image([[member("a", b"1")]])
PLACES = (".config/containers/auth.json", ".docker/config.json")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def _broken(registry: FakeRegistry) -> list[tuple[str, str]]:
    """Return contents of a file with credentials that are invalid, and what the message says of each."""
    return [
        ("nonsense", "expected a JSON document, got ASCII text"),
        ("[]", "expected a JSON object, got a list"),
        (json.dumps({"auths": []}), "auths: expected an object, got a list"),
        (
            json.dumps({"auths": {registry.host: {"auth": "!"}}}),
            f"auths: {registry.host}: auth: expected base64 of 'user:password'",
        ),
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("place", PLACES)
def test_invalid_file_is_reported_before_the_first_request(
    home: Path, capsys: pytest.CaptureFixture[str], place: str, number: int
) -> None:
    with FakeRegistry() as registry:
        name = IMAGE.serve(registry, "app", "1")
        content, told = _broken(registry)[number]
        _write(home / place, content)
        assert main(["pull", name, "-o", "out", "-q"]) == 2
        assert not registry.requests
    assert capsys.readouterr().err.startswith(f"ociexport: error: {home / place}: {told}")


@pytest.mark.parametrize("command", ["pull -o out", "inspect", "unpack -o out", "verify", "tags"])
def test_missing_authfile_is_reported_by_each_command(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A user who names a file means it, although this registry asks for no credentials."""
    word, *others = command.split()
    with FakeRegistry() as registry:
        name = IMAGE.serve(registry, "app", "1")
        name = name.rpartition(":")[0] if word == "tags" else name
        words = [word, name, *others] if word != "unpack" else [word, name, "out"]
        assert main([*words, "--authfile", "none.json"]) == 2
        assert not registry.requests
    told = "ociexport: error: none.json: expected a file with credentials, got no such file"
    assert capsys.readouterr().err.splitlines()[0] == told


@pytest.mark.parametrize(
    "words", [["--creds", "a:b"], ["--registry-token", "x"], ["--mirror", "127.0.0.1:1"], ["--v1"]]
)
def test_missing_authfile_is_reported_beside_other_options(words: list[str]) -> None:
    with FakeRegistry() as registry:
        name = IMAGE.serve(registry, "app", "1")
        assert main(["pull", name, "-o", "out", "-q", "--authfile", "none.json", *words]) == 2
        assert not registry.requests


def test_missing_file_of_the_variable_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "none.json")
    with FakeRegistry() as registry:
        assert main(["pull", IMAGE.serve(registry, "app", "1"), "-o", "out", "-q"]) == 2
        assert not registry.requests


def test_authfile_that_can_not_be_read_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    Path("directory").mkdir()
    with FakeRegistry() as registry:
        assert main(["pull", IMAGE.serve(registry, "app", "1"), "-o", "out", "-q", "--authfile", "directory"]) == 9
        assert not registry.requests
    assert "directory" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize("first", ["entry", "helper", "--creds"])
def test_file_that_the_search_does_not_reach_may_be_invalid(home: Path, first: str) -> None:
    """The first place with an entry decides; later files are not read, and no file with ``--creds``."""
    with FakeRegistry() as registry:
        name = IMAGE.serve(registry, "app", "1")
        if first == "entry":
            auths = {registry.host: {"auth": "dXNlcjpwYXNz"}}
            _write(home / PLACES[0], json.dumps({"auths": auths}))
        elif first == "helper":
            _write(home / PLACES[0], json.dumps({"credsStore": "none-such"}))
        _write(home / PLACES[1], "nonsense")
        words = ["--creds", "a:b"] if first == "--creds" else []
        assert main(["pull", name, "-o", "out", "-q", *words]) == 0
