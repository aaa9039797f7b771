"""The TLS handshake and the first request are made before requests is imported, and are verified like any other.

An early connection is used only with the very context that a later one would have, so it can't be less safe.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ociexport.errors import OciexportError, UsageError
from ociexport.images.source import ASKS, ASKS_AND_FETCHES, UNKNOWN
from ociexport.registry.client import RegistryClient
from ociexport.registry.early import EarlyConnections, begin_early
from ociexport.registry.hosts.certificates import ClientCertificate, TlsSettings
from ociexport.registry.hosts.tls_contexts import may_be_made_in_a_thread
from ociexport.registry.options import Credentials, RegistryOptions
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.platforms import host_platform
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import SILENT
from tests.support.command import clear_foreign_variables, run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.registry_image import open_registry_source
from tests.support.tls import Authority

HOST = "registry.example"
MANIFEST = b'{"schemaVersion": 2, "layers": []}'
PATH = "/v2/team/app/manifests/1"
IMAGE = build_image([[member("a", b"a")]], platform=host_platform())
OTHER_IMAGE = build_image([[member("b", b"b")]], platform=host_platform())


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Return with no settings of this machine, and with a name service that knows `HOST`."""
    clear_foreign_variables(monkeypatch, tmp_path)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    look_up = socket.getaddrinfo

    def answer(host: str, *arguments: object, **options: object) -> object:
        return look_up("127.0.0.1" if host == HOST else host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("other"))


def _options(**options: object) -> RegistryOptions:
    given = {"certs_dirs": (), "read_timeout_seconds": 5.0, **options}
    return RegistryOptions(registries_conf=Path("/dev/null"), hosts_dirs=(), retry_times=0, **given)  # type: ignore[arg-type]


def _reference(registry: FakeRegistry) -> ImageReference:
    registry.add_manifest("team/app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
    return ImageReference.parse(f"{HOST}:{registry.port}/team/app:1")


def _fetch(early: EarlyConnections | None, reference: ImageReference, options: RegistryOptions) -> bytes:
    with closing(RegistryClient(options, SILENT, early)) as client:
        return open_registry_source(reference, client=client).fetch_manifest().raw


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def _in_certs_d(authority: Authority, directory: Path, registry: FakeRegistry) -> tuple[Path, ...]:
    place = directory / f"{HOST}:{registry.port}"
    place.mkdir()
    for name, path in (
        ("ca.crt", authority.ca_file),
        ("client.cert", authority.client_cert),
        ("client.key", authority.client_key),
    ):
        shutil.copy(path, place / name)
    return (directory,)


@pytest.mark.parametrize(
    "way",
    [
        "--cacert",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "certs.d",
        "client",
        "insecure",
    ],
)
def test_request_is_answered_before_there_is_a_client(
    way: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = authority.server_context("other.example" if way == "insecure" else HOST, wants_client=way == "client")
    names: list[object] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    with FakeRegistry(tls=context) as registry:
        given: dict[str, object] = {}
        if way == "--cacert":
            given["ca_file"] = authority.ca_file
        elif way in ("certs.d", "client"):
            given["certs_dirs"] = _in_certs_d(authority, tmp_path, registry)
        elif way == "insecure":
            given["insecure"] = True
        elif way == "SSL_CERT_DIR":
            # OpenSSL looks for the hash of the subject.
            monkeypatch.setenv(way, str(tmp_path))
            pem = authority.ca_file.read_bytes()
            (tmp_path / f"{_subject_hash(authority)}.0").write_bytes(pem)
        else:
            monkeypatch.setenv(way, str(authority.ca_file))
        options, reference = _options(**given), _reference(registry)
        early = begin_early(reference, options, ASKS)
        _wait_for(lambda: registry.requests)
        assert _fetch(early, reference, options) == MANIFEST
        assert [(request.path, request.connection) for request in registry.requests] == [(PATH, 1)]
        assert len(registry._connections) == 1
        assert names == [HOST]


def _subject_hash(authority: Authority) -> str:
    words = ["openssl", "x509", "-noout", "-hash", "-in", str(authority.ca_file)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("given", ["command line", "file", "header", "nothing is asked"])
def test_only_the_handshake_is_made_where_a_request_may_need_more(
    given: str, authority: Authority, tmp_path: Path
) -> None:
    with FakeRegistry(tls=authority.server_context(HOST)) as registry:
        auth = base64.b64encode(b"alice:secret").decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {f"{HOST}:{registry.port}": {"auth": auth}}}))
        options = {
            "command line": _options(ca_file=authority.ca_file, credentials=Credentials("alice", "secret")),
            "file": _options(ca_file=authority.ca_file, authfile=tmp_path / "auth.json"),
            "header": _options(ca_file=authority.ca_file, headers=(("X-Secret", "s"),)),
            "nothing is asked": _options(ca_file=authority.ca_file),
        }[given]
        reference = _reference(registry)
        early = begin_early(reference, options, UNKNOWN if given == "nothing is asked" else ASKS)
        _wait_for(lambda: registry._connections)
        time.sleep(0.05)
        assert registry.requests == []
        assert _fetch(early, reference, options) == MANIFEST
        assert [(request.path, request.connection) for request in registry.requests] == [(PATH, 1)]
        assert len(registry._connections) == 1


def test_config_and_layer_have_a_connection_each(authority: Authority) -> None:
    with FakeRegistry(tls=authority.server_context(HOST)) as registry:
        options, reference = _options(ca_file=authority.ca_file), _reference(registry)
        blobs = [Descriptor(mediatypes.OCI_LAYER, registry.add_blob(raw), len(raw)) for raw in (b"a", b"b")]
        early = begin_early(reference, options, ASKS_AND_FETCHES)
        _wait_for(lambda: len(registry._connections) == 2)
        with closing(RegistryClient(options, SILENT, early)) as client:
            source = open_registry_source(reference, client=client)
            source.fetch_manifest()
            streams = [source.open_blob(blob) for blob in blobs]
            assert [stream.read() for stream in streams] == [b"a", b"b"]
        assert sorted(request.connection for request in registry.requests[1:]) == [1, 2]
        assert registry.paths().count(PATH) == 1
        assert len(registry._connections) == 2


def test_connections_that_the_server_has_closed_are_made_again(authority: Authority) -> None:
    """They were idle, so this is no failure, and costs no retry."""
    with FakeRegistry(tls=authority.server_context(HOST)) as registry:
        options, reference = _options(ca_file=authority.ca_file), _reference(registry)
        early = begin_early(reference, options, UNKNOWN._replace(fetches=True))
        _wait_for(lambda: len(registry._connections) == 2)
        for connection in registry._connections:
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        assert _fetch(early, reference, options) == MANIFEST
        assert [request.connection for request in registry.requests] == [3]


def _error_of(
    early: EarlyConnections | None, reference: ImageReference, options: RegistryOptions
) -> tuple[object, ...]:
    with pytest.raises(OciexportError) as caught:
        _fetch(early, reference, options)
    return type(caught.value), str(caught.value), caught.value.hint


@pytest.mark.parametrize("wrong", ["authority", "name", "version", "client", "bundle", "key", "plain"])
def test_handshake_that_fails_gives_the_same_error_and_asks_nothing(
    wrong: str, authority: Authority, other_authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = authority.server_context("other.example" if wrong == "name" else HOST, wants_client=wrong == "client")
    given: dict[str, object] = {"ca_file": (other_authority if wrong == "authority" else authority).ca_file}
    if wrong == "version":
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):  # ours is at least 1.2
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    elif wrong == "client":
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # the refusal comes within the handshake
    elif wrong == "bundle":
        (tmp_path / "bundle.pem").write_text("no certificate")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "bundle.pem"))
    elif wrong == "key":
        shutil.copy(authority.client_cert, tmp_path / "client.cert")
        shutil.copy(other_authority.client_key, tmp_path / "client.key")
        given["cert_dir"] = tmp_path
    with FakeRegistry(tls=None if wrong == "plain" else context) as registry:
        options, reference = _options(**given), _reference(registry)
        expected = _error_of(None, reference, options)
        assert _error_of(begin_early(reference, options, ASKS), reference, options) == expected
        assert registry.requests == []
        assert (expected[0] is UsageError) == (wrong in ("bundle", "key"))


def test_handshake_that_was_less_strict_is_not_used(authority: Authority, other_authority: Authority) -> None:
    """Who verifies gets an error, though an unverified connection to this very server is open."""
    with FakeRegistry(tls=authority.server_context(HOST)) as registry:
        strict, reference = _options(ca_file=other_authority.ca_file), _reference(registry)
        early = begin_early(reference, _options(insecure=True), ASKS)
        _wait_for(lambda: registry.requests)
        _, message, _ = _error_of(early, reference, strict)
        assert "the TLS certificate can't be verified" in str(message)
        assert len(registry.requests) == 1


def test_handshake_with_another_context_is_made_again(authority: Authority) -> None:
    with FakeRegistry(tls=authority.server_context(HOST)) as registry:
        options, reference = _options(ca_file=authority.ca_file), _reference(registry)
        early = begin_early(reference, _options(insecure=True), UNKNOWN)
        _wait_for(lambda: registry._connections)
        assert _fetch(early, reference, options) == MANIFEST
        assert [request.connection for request in registry.requests] == [2]


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts connections, and never answers a handshake."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


def test_handshake_that_gets_no_answer_ends_as_another_would(silent: socket.socket) -> None:
    reference = ImageReference.parse(f"{HOST}:{silent.getsockname()[1]}/team/app:1")
    options = _options(read_timeout_seconds=0.3, stall_seconds=0.1)
    expected = _error_of(None, reference, options)
    began = time.monotonic()
    assert _error_of(begin_early(reference, options, ASKS), reference, options) == expected
    assert time.monotonic() - began < 10
    assert "stalled" in str(expected[1])


def test_handshake_that_nobody_waits_for_is_ended(silent: socket.socket) -> None:
    reference = ImageReference.parse(f"{HOST}:{silent.getsockname()[1]}/team/app:1")
    early = begin_early(reference, _options(), ASKS)
    assert early is not None
    there, _ = silent.accept()
    with there:
        there.settimeout(20)
        assert there.recv(5)[:1] == b"\x16"  # a handshake
        early.close()
        while there.recv(4096):
            pass


@pytest.mark.parametrize(
    ("given", "expected"), [("authorities", True), ("none", False), ("bundle", True), ("client certificate", False)]
)
def test_context_is_made_in_a_thread_only_where_it_imports_and_asks_nothing(
    given: str, expected: bool, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL asks for the passphrase of a key; certifi can't be imported while requests is."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent" if given == "none" else str(authority.ca_file))
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    if given == "bundle":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    pair = ClientCertificate(authority.client_cert, authority.client_key) if given == "client certificate" else None
    assert may_be_made_in_a_thread(TlsSettings(client_certificate=pair)) == expected


# The commands

# Python's own start-up module: requests is not imported before the registry has answered, or after a while.
_WAITING = """
import os, sys, time

class Waiting:
    def find_spec(self, name, path=None, target=None):
        if name == "requests":
            deadline = time.monotonic() + 10
            while not os.path.exists(os.environ["SEEN"]) and time.monotonic() < deadline:
                time.sleep(0.005)
            if not os.path.exists(os.environ["SEEN"]):
                sys.exit("nothing was asked before requests was imported")

sys.meta_path.insert(0, Waiting())
"""


@pytest.mark.parametrize("command", ["layout", "other layout", "again", "archive", "unpack", "inspect", "ls", "push"])
def test_command_asks_before_it_imports_requests(command: str, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_WAITING)
    seen = tmp_path / "seen"
    # No name is loopback here, and the address is: loopback would be asked over plain http.
    with FakeRegistry(tls=authority.server_context("0.0.0.0")) as registry:
        IMAGE.serve(registry, "team/app", "1")
        first = "/v2/" if command == "push" else PATH
        registry.misbehave(first, Fault(), when=lambda request: not seen.write_text(""))
        name = f"0.0.0.0:{registry.port}/team/app:1"
        words = {
            "layout": ("pull", "-q", name, "--out", tmp_path / "layout"),
            "other layout": ("pull", "-q", name, "--out", tmp_path / "other"),
            "again": ("pull", "-q", name, "--out", tmp_path / "again"),
            "archive": ("pull", "-q", name, "--out", tmp_path / "a.tar"),
            "unpack": ("unpack", "-q", name, tmp_path / "tree"),
            "inspect": ("inspect", name),
            "ls": ("ls", "-q", name),
            "push": ("push", "-q", f"{tmp_path / 'other'}:other", f"0.0.0.0:{registry.port}/team/other:1"),
        }[command]
        write_layout(tmp_path / "other", {"other": OTHER_IMAGE})
        write_layout(tmp_path / "again", {f"{name}": IMAGE})
        variables = {"PYTHONPATH": str(tmp_path / "site"), "SEEN": str(seen)}
        ended = run_command(*words, "--cacert", authority.ca_file, home=tmp_path, variables=variables)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert registry.paths()[0] == first
        assert registry.paths().count(first) == 1
        assert registry.paths().count("/v2/") == (1 if command == "push" else 0)
        # Config and layer are requested at once, over the two connections that are begun.
        assert len(registry._connections) == (1 if command in ("again", "inspect", "ls") else 2)
        if command == "again":
            assert registry.paths() == [PATH]
