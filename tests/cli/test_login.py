"""`ociexport login`, `logout` and `auth explain`."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.registry.auth.auth_files import search_credentials
from ociexport.registry.auth.login import Compat, login_file
from ociexport.registry.options import Credentials
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.ordinary_user import GID, UID
from tests.support.system_parts import require

USERS = {"user": "pass"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory that the user may write to."""
    for name in ("XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def _run(monkeypatch: pytest.MonkeyPatch, *words: str, stdin: str = "pass\n") -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    return main(words)


def _login(monkeypatch: pytest.MonkeyPatch, *words: str, stdin: str = "pass\n") -> int:
    return _run(monkeypatch, "login", "-u", "user", "--password-stdin", *words, stdin=stdin)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize(
    ("options", "path"),
    [
        ([], ".docker/config.json"),
        (["--compat", "containers"], "run/containers/auth.json"),
        (["--authfile", "own.json"], "own.json"),
    ],
)
def test_credentials_are_tried_and_kept(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    auth: str,
    options: list[str],
    path: str,
) -> None:
    monkeypatch.chdir(home)
    with FakeRegistry(auth=auth, users=USERS) as registry:
        assert _login(monkeypatch, *options, registry.host) == 0
        file = home / path
        assert json.loads(file.read_text()) == {"auths": {registry.host: {"auth": "dXNlcjpwYXNz"}}}
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        told = capsys.readouterr().err
        shown = path if options[:1] == ["--authfile"] else file
        assert told == f"ociexport: {registry.host}: user user accepted; stored in {shown}\n"


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_credentials_that_are_refused_are_not_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], auth: str
) -> None:
    with FakeRegistry(auth=auth, users=USERS) as registry:
        assert _login(monkeypatch, registry.host, stdin="wrong") == 4
    lines = capsys.readouterr().err.splitlines()
    assert "401 Unauthorized: UNAUTHORIZED" in lines[0]
    assert lines[1] == "hint: check the user name and password; some registries require an access token as the password"
    assert not (home / ".docker").exists()


def test_registry_that_asks_nobody_is_told_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeRegistry() as registry:
        assert _login(monkeypatch, registry.host) == 0
    assert "not checked: this registry requires no login" in capsys.readouterr().err


def test_other_members_of_the_file_stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / ".docker" / "config.json"
    file.parent.mkdir()
    content = {"auths": {"other": {"auth": "eDp5"}}, "HttpHeaders": {"a": "b"}, "psFormat": "ä"}
    file.write_text(json.dumps(content))
    with FakeRegistry(auth="basic", users=USERS) as registry:
        assert _login(monkeypatch, registry.host) == 0
        assert json.loads(file.read_text()) == {
            **content,
            "auths": {"other": {"auth": "eDp5"}, registry.host: {"auth": "dXNlcjpwYXNz"}},
        }
        assert _run(monkeypatch, "logout", registry.host) == 0
    assert json.loads(file.read_text()) == content


def test_link_to_the_file_stays_a_link(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "real.json").write_text("{}")
    (home / "link.json").symlink_to("real.json")
    with FakeRegistry(auth="basic", users=USERS) as registry:
        assert _login(monkeypatch, "--authfile", str(home / "link.json"), registry.host) == 0
        assert (home / "link.json").is_symlink()
        assert registry.host in (home / "real.json").read_text()


def test_link_of_another_user_is_not_written_through(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require(root=True)
    mine = home / "mine.json"
    mine.write_text("{}")
    link = home / "auth.json"
    link.symlink_to(mine)
    os.chown(link, UID, GID, follow_symlinks=False)
    with FakeRegistry(auth="basic", users=USERS) as registry:
        assert _login(monkeypatch, "--authfile", str(link), registry.host) == 2
    assert mine.read_text() == "{}"
    assert "expected no link of another user" in capsys.readouterr().err


def test_file_of_another_kind_is_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "auth.json").write_text("nonsense")
    with FakeRegistry(auth="basic", users=USERS) as registry:
        assert _login(monkeypatch, "--authfile", str(home / "auth.json"), registry.host) == 2
        assert not registry.requests
    assert (home / "auth.json").read_text() == "nonsense"


def test_helper_keeps_the_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker/cli: the file records only that there is a login."""
    store = home / "store"
    helper = home / "bin" / "docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\ncase $1 in\nstore) cat > {store};;\nget) cat {store};;\nerase) rm {store};;\nesac\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    file = home / ".docker" / "config.json"
    file.parent.mkdir()
    file.write_text('{"credsStore": "test"}')
    with FakeRegistry(auth="basic", users=USERS) as registry:
        assert _login(monkeypatch, registry.host) == 0
        assert json.loads(file.read_text()) == {"credsStore": "test", "auths": {registry.host: {}}}
        assert json.loads(store.read_text()) == {"ServerURL": registry.host, "Username": "user", "Secret": "pass"}
        assert search_credentials(registry.host, "a").credentials == Credentials("user", "pass")
        assert _run(monkeypatch, "logout", registry.host) == 0
    assert not store.exists()
    assert json.loads(file.read_text()) == {"credsStore": "test", "auths": {}}


@pytest.mark.parametrize(("compat", "key"), [("docker", "https://index.docker.io/v1/"), ("containers", "docker.io")])
@pytest.mark.parametrize("name", [None, "docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"])
def test_docker_hub_goes_by_the_name_that_each_tool_has_for_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, compat: str, key: str, name: str | None
) -> None:
    monkeypatch.setattr("ociexport.registry.client.RegistryClient.verify_login", lambda self, registry: True)
    file = home / "auth.json"
    file.write_text('{"auths": {"index.docker.io": {"auth": "eDp5"}}}')
    words = ["--compat", compat, "--authfile", str(file), *([name] if name else [])]
    assert _login(monkeypatch, *words) == 0
    assert json.loads(file.read_text()) == {"auths": {key: {"auth": "dXNlcjpwYXNz"}}}


def test_login_that_another_file_goes_before_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An old login of podman's would be used instead."""
    monkeypatch.setattr("ociexport.registry.client.RegistryClient.verify_login", lambda self, registry: True)
    assert _login(monkeypatch, "--compat", "containers", "reg.example") == 0
    capsys.readouterr()
    assert _login(monkeypatch, "reg.example") == 0
    assert capsys.readouterr().err.splitlines() == [
        f"ociexport: reg.example: user user accepted; stored in {home}/.docker/config.json",
        f"ociexport: warning: reg.example: {home}/run/containers/auth.json also has credentials for it, "
        "which take precedence",
    ]


@pytest.mark.parametrize(
    ("variables", "uid", "path"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000, "/run/user/1000/containers/auth.json"),
        ({}, 0, f"/run/containers/{os.getuid()}/auth.json"),
        ({}, 1000, "/home/me/.config/containers/auth.json"),
        ({"XDG_CONFIG_HOME": "/conf"}, 1000, "/conf/containers/auth.json"),
    ],
)
def test_login_is_kept_where_podman_does(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], uid: int, path: str
) -> None:
    """containers-auth.json(5), "FORMAT"; podman-login(1), "FILES"."""
    monkeypatch.setattr("os.geteuid", lambda: uid)
    assert login_file(None, Compat.CONTAINERS, {"HOME": "/home/me", **variables}).path == Path(path)


def test_logout_tells_of_what_other_files_have(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ociexport.registry.client.RegistryClient.verify_login", lambda self, registry: True)
    assert _login(monkeypatch, "--compat", "containers", "reg.example") == 0
    capsys.readouterr()
    assert _run(monkeypatch, "logout", "reg.example") == 0
    assert capsys.readouterr().err.splitlines() == [
        f"ociexport: reg.example: nothing in {home}/.docker/config.json",
        f"ociexport: warning: reg.example: {home}/run/containers/auth.json still has credentials for it",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["login", "--password-stdin", "reg.example"], "--password-stdin: expected --username with it"),
        (
            ["login", "reg.example"],
            "login: expected --username and --password-stdin, or a terminal to ask on, got neither",
        ),
        (
            ["login", "-u", "x", "--password-stdin", "reg.example/a"],
            "registry: expected host[:port], got 'reg.example/a'",
        ),
        (["logout", "a b"], "registry: expected host[:port], got 'a b'"),
    ],
)
def test_what_can_not_be_meant_is_usage(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert _run(monkeypatch, *words) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"ociexport: error: {told}"


def test_user_and_password_are_asked_for_on_a_terminal(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO("user\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "pass")
    with FakeRegistry(auth="basic", users=USERS) as registry:
        assert main(["login", registry.host]) == 0
    assert capsys.readouterr().out == ""


def test_empty_password_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _login(monkeypatch, "reg.example", stdin="\n") == 2
    assert capsys.readouterr().err == (
        "ociexport: error: --password-stdin: expected a password, got nothing\nhint: --password-stdin <password.txt\n"
    )


# auth explain


def test_explain_tells_file_and_entry_and_no_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PAINS 17."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    for path, content in [
        (home / ".config/containers/auth.json", {"auths": {"quay.io": {"auth": "eDp5"}}}),
        (home / ".docker/config.json", {"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNz"}}}),
    ]:
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    assert _run(monkeypatch, "auth", "explain", "alpine") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{home}/run/containers/auth.json: no such file",
        f"{home}/.config/containers/auth.json: nothing for this registry",
        f"{home}/.docker/config.json: entry 'https://index.docker.io/v1/'",
        "docker.io/library/alpine: pulled as user user",
    ]


def test_explain_tells_that_nothing_was_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "auth", "explain", "reg.example/a:1") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "no credentials found",
        "reg.example/a: pulled anonymously",
    ]


# The options of pull and unpack


def test_registry_options_reach_the_wire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeRegistry() as mirror, FakeRegistry(auth="basic", users=USERS) as registry:
        registry.misbehave("/manifests/", Fault(status=503), times=1)
        words = ["--creds", "user:pass", "--mirror", f"{registry.host}={mirror.url}", "-H", "X-Tenant: a b"]
        words += ["--retry-times", "1", "--retry-delay", "0", "--mirror", "other.example=http://127.0.0.1:1"]
        assert main(["pull", f"{registry.host}/app:1", "-o", str(tmp_path / "out"), *words]) == 3
        assert [request.headers.get("x-tenant") for request in registry.requests] == ["a b"] * 3
        assert mirror.paths() == ["/v2/app/manifests/1", "/v2/"]
    assert "retry 1 of 1" in capsys.readouterr().err


AUTHS = '{"auths": {"HOST": {"auth": "dXNlcjpwYXNz"}}}'


@pytest.mark.parametrize(
    ("words", "variables", "files"),
    [
        (["--creds", "user:pass"], {}, {}),
        (["--username", "user", "--password-stdin"], {}, {}),
        (["--authfile", "own.json"], {"REGISTRY_AUTH_FILE": "/none"}, {"own.json": AUTHS}),
        ([], {"DOCKER_AUTH_CONFIG": AUTHS}, {}),
        ([], {"REGISTRY_AUTH_FILE": "own.json"}, {"own.json": AUTHS}),
        ([], {}, {"run/containers/auth.json": AUTHS}),
        ([], {}, {".config/containers/auth.json": AUTHS}),
        ([], {"DOCKER_CONFIG": "conf"}, {"conf/config.json": AUTHS}),
        ([], {}, {".docker/config.json": AUTHS}),
        ([], {}, {".dockercfg": '{"HOST": {"auth": "dXNlcjpwYXNz"}}'}),
    ],
)
def test_each_way_to_give_credentials_opens_a_registry(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    variables: dict[str, str],
    files: dict[str, str],
) -> None:
    """CONVENTIONS, credential search."""
    monkeypatch.chdir(home)
    image = build_image([[member("a", b"1")]])
    with FakeRegistry(auth="bearer", users=USERS) as registry:
        for name, content in variables.items():
            monkeypatch.setenv(name, content.replace("HOST", registry.host))
        for path, content in files.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(content.replace("HOST", registry.host))
        reference = image.serve(registry, "app", "1")
        assert _run(monkeypatch, "pull", reference, "-o", "out", "-q", "--platform", "linux/amd64", *words) == 0


def test_registry_token_is_for_who_has_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = build_image([[member("a", b"1")]])
    with FakeRegistry() as registry:
        words = ["--registry-token", "own", "--platform", "linux/amd64"]
        assert _run(monkeypatch, "pull", image.serve(registry, "app", "1"), "-o", str(home / "out"), "-q", *words) == 0
        assert {request.headers["authorization"] for request in registry.requests[1:]} == {"Bearer own"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--creds", "a:b", "--registry-token", "c"], "--creds and --registry-token: expected one of them"),
        (["--creds", "ab"], "credentials: expected user:password"),
        (["-u", "a"], "--username and --password-stdin: expected both of them"),
        (["-H", "secret"], "--header: expected NAME:VALUE, got 'secret' and something else"),
        (["--retry-times", "-1"], "--retry-times: expected a number from 0 on, got '-1'"),
        (["--max-wait", "x"], "--max-wait: expected seconds, a number from 0 on, got 'x'"),
        (["--mirror", "ftp://x"], "--mirror: expected host[:port] or a URL, got 'ftp://x'"),
        (["--cert-dir", "/none"], "--cert-dir: /none: expected a directory"),
        (["--authfile", "/none"], "/none: expected a file with credentials, got no such file"),
    ],
)
def test_registry_options_that_can_not_be_meant_are_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    with FakeRegistry(auth="basic", users=USERS) as registry:
        assert main(["pull", f"{registry.host}/app:1", "-o", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"ociexport: error: {told}"
