"""The first connection is begun before requests is imported, and never where another server may be asked first."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ociexport.images.source import ASKS, PINGS_AND_SENDS, UNKNOWN, FirstRequest
from ociexport.registry.client import RegistryClient
from ociexport.registry.early import EarlyConnections, begin_early
from ociexport.registry.options import Credentials, Mirror, RegistryOptions
from ociexport.spec import mediatypes
from ociexport.spec.platforms import host_platform
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import SILENT
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.registry_image import open_registry_source

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
PATH = "/v2/team/app/manifests/1"
IMAGE = build_image([[member("a", b"a")]], platform=host_platform())


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Return with an environment that has no proxies, mirrors or credentials of the machine."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


def _reference(registry: FakeRegistry) -> ImageReference:
    registry.add_manifest("team/app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
    return ImageReference.parse(f"{registry.host}/team/app:1")


def _options(**options: object) -> RegistryOptions:
    conf = Path("/dev/null")
    return RegistryOptions(registries_conf=conf, hosts_dirs=(), retry_times=0, **options)  # type: ignore[arg-type]


@contextmanager
def _begun(
    reference: ImageReference, options: RegistryOptions, first: FirstRequest
) -> Iterator[EarlyConnections | None]:
    early = begin_early(reference, options, first)
    yield early
    if early is not None:
        early.close()


def _fetch(early: EarlyConnections | None, reference: ImageReference, **options: object) -> bytes:
    with closing(RegistryClient(_options(**options), SILENT, early)) as client:
        return open_registry_source(reference, client=client).fetch_manifest().raw


def test_request_that_was_sent_early_is_not_sent_again() -> None:
    with FakeRegistry() as registry, _begun(_reference(registry), _options(), ASKS) as early:
        while not registry.requests:
            time.sleep(0.01)
        assert _fetch(early, _reference(registry)) == MANIFEST
        assert [(request.path, request.connection) for request in registry.requests] == [(PATH, 1)]


def test_ping_that_was_sent_early_is_not_sent_again() -> None:
    with FakeRegistry() as registry, _begun(_reference(registry), _options(), PINGS_AND_SENDS) as early:
        while not registry.requests:
            time.sleep(0.01)
        with closing(RegistryClient(_options(), SILENT, early)) as client:
            assert client.session(client.home(_reference(registry))).ping() == f"http://{registry.host}/v2"
        assert [(request.path, request.connection) for request in registry.requests] == [("/v2/", 1)]


def test_connection_alone_is_used() -> None:
    with FakeRegistry() as registry, _begun(_reference(registry), _options(), UNKNOWN) as early:
        while not registry._connections:
            time.sleep(0.01)
        assert registry.requests == []
        assert _fetch(early, _reference(registry)) == MANIFEST
        assert [request.connection for request in registry.requests] == [1]


def test_answer_to_another_request_is_not_taken() -> None:
    with FakeRegistry() as registry, _begun(_reference(registry), _options(), ASKS) as early:
        registry.misbehave(PATH, Fault(body=b"{}"), when=lambda request: "x-tenant" not in request.headers)
        while not registry.requests:
            time.sleep(0.01)
        assert _fetch(early, _reference(registry), headers=(("X-Tenant", "a"),)) == MANIFEST
        assert [request.connection for request in registry.requests] == [1, 2]


def test_connection_that_is_cut_is_made_again() -> None:
    with FakeRegistry() as registry:
        registry.misbehave(PATH, Fault(reset_after=-1), times=1)
        with _begun(_reference(registry), _options(), ASKS) as early:
            assert _fetch(early, _reference(registry)) == MANIFEST


def test_what_nobody_takes_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with _begun(ImageReference.parse(f"127.0.0.1:{port}/team/app:1"), _options(), UNKNOWN) as early:
            there, _ = server.accept()
        assert early is not None
        assert early.take("127.0.0.1", port) is None
        with there:
            there.settimeout(10)
            assert there.recv(1) == b""


def test_no_server_is_no_error() -> None:
    with _begun(ImageReference.parse("127.0.0.1:1/team/app:1"), _options(), ASKS) as early:
        assert early is not None
        taken = early.take("127.0.0.1", 1)
        assert taken is not None
        assert taken.descriptor() is None


@pytest.mark.parametrize("where", ["mirror", "registries.conf", "hosts.toml", "v1"])
def test_nothing_is_begun_where_another_server_may_be_first(where: str, tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        conf = tmp_path / "registries.conf"
        host = registry.host
        conf.write_text(f'[[registry]]\nlocation = "{host}"\n[[registry.mirror]]\nlocation = "mirror.example"\n')
        options = {
            "mirror": _options(mirrors=(Mirror("mirror.example"),)),
            "registries.conf": RegistryOptions(registries_conf=conf, hosts_dirs=()),
            "hosts.toml": RegistryOptions(registries_conf=Path("/dev/null"), hosts_dirs=(tmp_path,)),
            "v1": _options(v1=True),
        }[where]
        with _begun(_reference(registry), options, ASKS) as early:
            assert early is None


@pytest.mark.parametrize(
    "name", ["HTTPS_PROXY", "https_proxy", "Https_Proxy", "all_proxy", "https://registry.invalid_proxy"]
)
def test_nothing_is_begun_behind_a_proxy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with _begun(ImageReference.parse("registry.invalid/app:1"), _options(), ASKS) as early:
        assert early is None


@pytest.mark.parametrize("first", [ASKS, PINGS_AND_SENDS], ids=["pull", "push"])
@pytest.mark.parametrize("given", ["command line", "file", "header"])
def test_with_credentials_nothing_is_asked_early(given: str, first: FirstRequest, tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        options = {
            "command line": _options(credentials=Credentials("alice", "secret")),
            "file": _options(authfile=tmp_path / "auth.json"),
            "header": _options(headers=(("X-Secret", "s"),)),
        }[given]
        auth = base64.b64encode(b"alice:secret").decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        with _begun(_reference(registry), options, first):
            while not registry._connections:
                time.sleep(0.01)
            time.sleep(0.05)
        assert registry.requests == []


def test_command_asks_once(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        name = IMAGE.serve(registry, "team/app", "1")
        for _ in range(2):
            ended = run_command("pull", "-q", name, "--out", tmp_path / "layout", home=tmp_path)
            assert (ended.returncode, ended.stderr) == (0, "")
        assert registry.paths().count(PATH) == 2


def test_push_asks_once_where_the_api_is(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    with FakeRegistry() as registry:
        ended = run_command("push", "-q", tmp_path / "layout", f"{registry.host}/team/app:1", home=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert registry.paths().count("/v2/") == 1


def test_wrong_configuration_is_reported_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text("no JSON")
    (tmp_path / "file").write_text("")
    with FakeRegistry() as registry:
        name = IMAGE.serve(registry, "team/app", "1")
        auth = ("--authfile", tmp_path / "auth.json")
        for words in (
            ("--out", tmp_path / "layout", *auth),
            ("--out", tmp_path / "file"),
            ("--out", "x", "--jobs", "0"),
        ):
            assert run_command("pull", name, *words, home=tmp_path).returncode != 0
        write_layout(tmp_path / "image", {"1": IMAGE})
        for more in (auth, ("--jobs", "0")):
            assert run_command("push", tmp_path / "image", name, *more, home=tmp_path).returncode != 0
        assert registry.requests == []
