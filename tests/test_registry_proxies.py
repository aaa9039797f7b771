"""Registries behind an HTTP proxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ociexport import mediatypes
from ociexport.errors import TransferError, UsageError
from ociexport.reference import ImageReference
from ociexport.registry.client import open_registry_source
from ociexport.registry.options import RegistryOptions
from tests.fake_registry import FakeRegistry
from tests.tls import Authority

MANIFEST = b'{"schemaVersion": 2, "layers": []}'


@contextmanager
def _tunnelling_proxy(target: FakeRegistry, seen: list[str]) -> Iterator[str]:
    """Yield the URL of a proxy that takes CONNECT, wherever to, and connects to ``target``."""

    def copy(source: socket.socket, destination: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                destination.sendall(data)
            destination.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        seen.append(head.decode().split("\r\n")[0])
        seen.extend(line for line in head.decode().split("\r\n") if line.lower().startswith("proxy-auth"))
        with client, socket.create_connection(("127.0.0.1", target.port)) as upstream:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            there = threading.Thread(target=copy, args=(client, upstream), daemon=True)
            there.start()
            copy(upstream, client)
            there.join(5)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _fetch(image: str, **options: object) -> bytes:
    settings = RegistryOptions(**{"retry_times": 0, **options})  # type: ignore[arg-type]
    source = open_registry_source(ImageReference.parse(image), options=settings)
    try:
        return source.fetch_manifest().raw
    finally:
        source.close()


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_tls_is_tunnelled_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """CONNECT, RFC 9110 9.3.6: the proxy sees the host's name and nothing else."""
    authority = Authority.new(tmp_path)
    seen: list[str] = []
    with FakeRegistry(tls=authority.server_context("registry.example")) as registry:
        registry.add_manifest("app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        with _tunnelling_proxy(registry, seen) as proxy:
            monkeypatch.setenv(variable, proxy)
            assert _fetch("registry.example/app:1", ca_file=authority.ca_file) == MANIFEST
    # Python 3.11 speaks HTTP/1.0 here, later ones 1.1.
    assert [line.split(" HTTP")[0] for line in seen] == [
        "CONNECT registry.example:443",
        "Proxy-Authorization: Basic bWU6c2VjcmV0",
    ]


def test_no_proxy_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.0/8")
    with FakeRegistry() as registry:
        registry.add_manifest("app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        assert _fetch(f"{registry.host}/app:1") == MANIFEST


def test_proxy_that_is_down_is_no_secret_and_its_password_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:1")
    with pytest.raises(TransferError) as caught:
        _fetch("registry.example/app:1")
    assert str(caught.value) == (
        "registry registry.example: GET https://registry.example/v2/: connection refused (by the proxy 127.0.0.1:1)"
    )


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://me:secret@[bad", "http://[bad"),
        ("http://me:secret@127.0.0.1:99999", "http://127.0.0.1:99999"),
        ("http://me:secret/more@proxy.example", "http://proxy.example"),
        ("ftp://me:secret@proxy.example", "ftp://proxy.example"),
        ("socks5://me:secret@proxy.example:1080", "socks5://proxy.example:1080"),
    ],
)
def test_proxy_that_is_none_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str, shown: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(UsageError) as caught:
        _fetch("registry.example/app:1")
    assert str(caught.value) == f"HTTPS_PROXY or ALL_PROXY: expected http://HOST[:PORT], got '{shown}'"


@pytest.mark.parametrize(("status", "tries"), [("407 Proxy Authentication Required", 1), ("502 Bad Gateway", 2)])
def test_refusal_of_a_proxy_is_told_in_words(monkeypatch: pytest.MonkeyPatch, status: str, tries: int) -> None:
    asked: list[bytes] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    asked.append(client.recv(65536))
                    client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{host}")
        with pytest.raises(TransferError) as caught:
            _fetch("registry.example/app:1", retry_times=1, retry_delay_seconds=0)
        listener.shutdown(socket.SHUT_RDWR)
    assert str(caught.value) == (
        f"registry registry.example: GET https://registry.example/v2/: the proxy answers {status} (by the proxy {host})"
    )
    is_about_login = caught.value.hint == "a proxy's user and password stand in its URL: http://USER:PASSWORD@HOST:PORT"
    assert (is_about_login, len(asked)) == (status.startswith("407"), tries)


def test_proxy_needs_no_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """As curl has it."""
    monkeypatch.setenv("HTTPS_PROXY", "me:secret@127.0.0.1:1")
    with pytest.raises(TransferError, match=r"connection refused \(by the proxy 127\.0\.0\.1:1\)$"):
        _fetch("registry.example/app:1")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_registry_on_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What a proxy calls 127.0.0.1 is the proxy itself. The Go tools do so (httpproxy, Config.ProxyFunc)."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with FakeRegistry(address=address) as registry:
        registry.add_manifest("app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        assert _fetch(f"{registry.host}/app:1") == MANIFEST
        if address == "127.0.0.1":
            assert _fetch(f"localhost:{registry.port}/app:1") == MANIFEST


def test_issuer_is_told_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PAINS 19: a company's proxy puts certificates of its own in the place of all others."""
    seen: list[str] = []
    with (
        FakeRegistry(tls=Authority.new(tmp_path).server_context("registry.example")) as registry,
        _tunnelling_proxy(registry, seen) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(TransferError) as caught:
            _fetch("registry.example/app:1")
    shown = proxy.rpartition("@")[2]
    assert str(caught.value) == (
        "registry registry.example: GET https://registry.example/v2/: the TLS certificate can't be verified: "
        f"unable to get local issuer certificate (by the proxy {shown}) (issued by Example Org)"
    )
    assert registry.requests == []
