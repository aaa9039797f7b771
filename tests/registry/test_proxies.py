"""Registries behind an HTTP proxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ociexport.errors import TransferError, UsageError
from ociexport.registry.options import RegistryOptions
from ociexport.spec import mediatypes
from ociexport.spec.reference import ImageReference
from tests.support.fake_registry import FakeRegistry
from tests.support.raw_server import RawServer
from tests.support.registry_image import open_registry_source
from tests.support.tls import Authority

MANIFEST = b'{"schemaVersion": 2, "layers": []}'


_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@contextmanager
def _tunnelling_proxy(target: FakeRegistry, seen: list[str], established: bytes = _ESTABLISHED) -> Iterator[str]:
    """Yield the URL of a proxy that answers each CONNECT with ``established`` and a connection to ``target``."""

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
            client.sendall(established)
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
    """CONNECT, RFC 9110 9.3.6: the proxy sees only the host's name."""
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


@pytest.mark.parametrize(
    "established",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + _ESTABLISHED,
        b"HTTP/1.0 200\r\nVia : x\r\nX-\xc3\x96dd: v\r\nX-Long: " + b"v" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: v\r\n" * 150 + b"Content-Length: 5\r\n\r\n",
    ],
)
def test_answer_to_connect_may_be_odd(established: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context("registry.example")) as registry:
        registry.add_manifest("app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        with _tunnelling_proxy(registry, [], established) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            assert _fetch("registry.example/app:1", ca_file=authority.ca_file) == MANIFEST


@pytest.mark.parametrize(
    ("established", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "expected a header 'Name: value', got 'no colon'"),
        (b"HTTP/1.1 103 X\r\n\r\n" * 101 + _ESTABLISHED, "expected at most 100 interim answers (1xx), got more"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"v" * 2**20 + b"\r\n\r\n", "expected at most 1048576 bytes of headers, got more"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: v\r\n" * 2**18, "expected at most 1048576 bytes of headers, got more"),
        (b"SOCKS?\r\n\r\n", "expected HTTP, got 'SOCKS?'"),
    ],
)
def test_answer_to_connect_that_is_malformed_is_told(
    established: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(lambda request: established) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(TransferError) as caught:
            _fetch("registry.example/app:1")
        assert len(proxy.requests) == 1
    subject = "image registry.example/app:1: GET https://registry.example/v2/app/manifests/1"
    assert str(caught.value) == f"{subject}: {told} (by the proxy {proxy.host})"


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
        "image registry.example/app:1: "
        "GET https://registry.example/v2/app/manifests/1: connection refused (by the proxy 127.0.0.1:1)"
    )


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://me:secret@[bad", "http://[bad"),
        ("http://me:secret@127.0.0.1:99999", "http://127.0.0.1:99999"),
        ("http://me:secret/more@proxy.example", "http://proxy.example"),
        ("ftp://me:secret@proxy.example", "ftp://proxy.example"),
        ("socks4://me:secret@proxy.example:1080", "socks4://proxy.example:1080"),
        ("socks5://me:secret@[bad", "socks5://[bad"),
    ],
)
def test_proxy_that_is_none_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str, shown: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(UsageError) as caught:
        _fetch("registry.example/app:1")
    told = "HTTPS_PROXY or ALL_PROXY: expected http:// or socks5://HOST[:PORT]"
    assert str(caught.value) == f"{told}, got '{shown}'"


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
        "image registry.example/app:1: "
        f"GET https://registry.example/v2/app/manifests/1: the proxy answers {status} (by the proxy {host})"
    )
    login_hint = "put the proxy's user and password into its URL: http://USER:PASSWORD@HOST:PORT"
    is_about_login = caught.value.hint == login_hint
    assert (is_about_login, len(asked)) == (status.startswith("407"), tries)


def test_proxy_needs_no_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for curl."""
    monkeypatch.setenv("HTTPS_PROXY", "me:secret@127.0.0.1:1")
    with pytest.raises(TransferError, match=r"connection refused \(by the proxy 127\.0\.0\.1:1\)$"):
        _fetch("registry.example/app:1")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_registry_on_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """To a proxy, 127.0.0.1 is the proxy's own machine. Go has the same rule (httpproxy, Config.ProxyFunc)."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with FakeRegistry(address=address) as registry:
        registry.add_manifest("app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        assert _fetch(f"{registry.host}/app:1") == MANIFEST
        if address == "127.0.0.1":
            assert _fetch(f"localhost:{registry.port}/app:1") == MANIFEST


def test_issuer_is_told_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PAINS 19: a company's proxy replaces all certificates by its own."""
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
        "image registry.example/app:1: "
        "GET https://registry.example/v2/app/manifests/1: the TLS certificate can't be verified: "
        f"unable to get local issuer certificate (by the proxy {shown}) (issued by Example Org)"
    )
    assert registry.requests == []


# SOCKS


@contextmanager
def _socks_proxy(target: FakeRegistry, asked: list[bytes], *, user: bytes = b"", reply: int = 0) -> Iterator[str]:
    """Yield ``host:port`` of a SOCKS 5 proxy that connects each request to ``target``; RFC 1928 and 1929.

    ``asked`` gets the requested host and port, or ``refused`` for a user that is refused.
    """

    def serve(client: socket.socket) -> None:
        with suppress(OSError), client, client.makefile("rb") as stream:
            offered = stream.read(stream.read(2)[1])
            method = 2 if user else 0
            if method not in offered:
                asked.append(b"refused")
                client.sendall(b"\x05\xff")
                return
            client.sendall(bytes([5, method]))
            if user:
                name = stream.read(stream.read(2)[1])
                password = stream.read(stream.read(1)[0])
                is_wrong = name + b":" + password != user
                if is_wrong:
                    asked.append(b"refused")
                client.sendall(bytes([1, is_wrong]))
                if is_wrong:
                    return
            kind = stream.read(4)[3]
            host = stream.read({1: 4, 4: 16}.get(kind) or stream.read(1)[0])
            asked.append(host + b":%d" % int.from_bytes(stream.read(2), "big"))
            client.sendall(bytes([5, reply, 0, 1, 0, 0, 0, 0, 0, 0]))
            if reply:
                return
            with socket.create_connection(("127.0.0.1", target.port)) as there:
                thread = threading.Thread(target=copy, args=(there, client), daemon=True)
                thread.start()
                copy(client, there)
                thread.join(5)

    def copy(source: socket.socket, destination: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                destination.sendall(data)
            destination.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("user", ["", "me:secret"])
@pytest.mark.parametrize("is_secure", [False, True])
def test_socks_proxy_connects_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, user: str, is_secure: bool
) -> None:
    """``ssh -D``: the name is looked up only at the other end of the connection."""
    authority = Authority.new(tmp_path)
    asked: list[bytes] = []
    with (
        FakeRegistry(tls=authority.server_context("registry.invalid") if is_secure else None) as registry,
        _socks_proxy(registry, asked, user=user.encode()) as proxy,
    ):
        registry.add_manifest("app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://{user}{'@' if user else ''}{proxy}")
        options = {"ca_file": authority.ca_file} if is_secure else {"plain_http": True}
        assert _fetch("registry.invalid/app:1", **options) == MANIFEST
        # An HTTP proxy would get the full URL.
        assert registry.paths()[0] == "/v2/app/manifests/1"
    assert asked == [b"registry.invalid:443" if is_secure else b"registry.invalid:80"]


@pytest.mark.parametrize(
    ("user", "given", "reply", "tries", "told"),
    [
        (b"me:secret", "", 0, 1, "it requires a user and password in its URL: socks5://USER:PASSWORD@HOST:PORT"),
        (b"me:secret", "me:wrong@", 0, 1, "it does not accept the user and password in its URL"),
        (b"", "", 2, 1, "the connection is not allowed"),
        (b"", "", 9, 2, "the connection could not be made (reply 9)"),
    ],
)
def test_refusal_of_a_socks_proxy_is_told(
    monkeypatch: pytest.MonkeyPatch, user: bytes, given: str, reply: int, tries: int, told: str
) -> None:
    """A lasting refusal is not retried: repeated wrong passwords may lock the user out."""
    asked: list[bytes] = []
    with FakeRegistry() as registry, _socks_proxy(registry, asked, user=user, reply=reply) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"socks5://{given}{proxy}")
        with pytest.raises(TransferError) as caught:
            _fetch("registry.invalid/app:1", retry_times=1, retry_delay_seconds=0)
    assert len(asked) == tries
    assert str(caught.value) == (
        "image registry.invalid/app:1: "
        f"GET https://registry.invalid/v2/app/manifests/1: the SOCKS proxy: {told} (by the proxy {proxy})"
    )
