"""Manifests, tokens and lists on a bad network: cut off, slow, altered once."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ociexport.errors import AuthenticationError, InvalidImageError, TransferError
from ociexport.registry.client import RegistryClient
from ociexport.registry.hosts.certificates import TlsSettings
from ociexport.registry.http.messages import WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import RegistryOptions
from ociexport.registry.source import RegistrySource
from ociexport.rootfs.unpack import unpack
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.display import PlainProgress
from ociexport.transfer.pull import pull
from ociexport.transfer.sources.list_names import tags_of
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64, build_image
from tests.support.memory_source import member
from tests.support.registry_image import open_registry_source
from tests.support.tls import Authority

QUICK = {"retry_delay_seconds": 0, "read_timeout_seconds": 0.2, "stall_seconds": 0.2}
IMAGE = build_image([[member("a", b"1")]])


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(auth="bearer") as registry:
        IMAGE.serve(registry, "library/app", "1")
        yield registry


def _source(registry: FakeRegistry, **options: object) -> RegistrySource:
    settings = RegistryOptions(retry_delay_seconds=0, **options)  # type: ignore[arg-type]
    reference = ImageReference.parse(f"{registry.host}/library/app:1")
    return open_registry_source(reference, options=settings, progress=PlainProgress())


def _asked(registry: FakeRegistry, pattern: str) -> int:
    return len([path for path in registry.paths() if re.search(pattern, path)])


@pytest.mark.parametrize("fault", [Fault(cut_after=1), Fault(reset_after=1)])
@pytest.mark.parametrize(("path", "requests"), [("/manifests/", 2), ("/token", 2)])
def test_document_that_is_cut_is_asked_for_again(
    registry: FakeRegistry, fault: Fault, path: str, requests: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if path == "/manifests/":
        # Otherwise the first request is refused for its token, and its body is not read.
        registry.auth = None
    source = _source(registry)
    registry.misbehave(path, fault, times=1)
    assert source.fetch_manifest().raw == IMAGE.raw
    source.close()
    assert _asked(registry, path) == requests
    assert len(capsys.readouterr().err.splitlines()) == requests - 1


def test_list_of_tags_that_is_cut_is_asked_for_again(registry: FakeRegistry) -> None:
    client = RegistryClient(RegistryOptions(retry_delay_seconds=0))
    registry.misbehave("/tags/list", Fault(cut_after=3), times=3)
    assert tags_of(client, ImageReference.parse(f"{registry.host}/library/app")) == ("1",)
    client.close()


def test_document_that_is_cut_each_time_ends_in_an_error(registry: FakeRegistry) -> None:
    registry.auth = None
    source = _source(registry)
    registry.misbehave("/manifests/", Fault(cut_after=1))
    with pytest.raises(TransferError) as caught:
        source.fetch_manifest()
    source.close()
    assert str(caught.value) == (
        f"image {registry.host}/library/app:1: GET {registry.url}/v2/library/app/manifests/1: "
        "the connection was closed too early"
    )
    assert _asked(registry, "/manifests/") == 4


def test_challenge_without_a_realm_names_the_registry(registry: FakeRegistry) -> None:
    registry.realm = "me:secret@[bad"
    source = _source(registry)
    with pytest.raises(AuthenticationError) as caught:
        source.fetch_manifest()
    source.close()
    assert str(caught.value) == (
        f"registry {registry.host}: bearer challenge: expected a realm that is an http or https URL, got '[bad'"
    )


@pytest.mark.parametrize("is_pull", [False, True])
def test_document_that_was_altered_once_is_fetched_once_more(
    registry: FakeRegistry, tmp_path: Path, is_pull: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy may alter it once; a document that is wrong at its source stays wrong."""
    altered = Fault(change=lambda raw: raw.replace(b"{", b" ", 1))
    # The first request has no token; its refusal is the challenge.
    registry.misbehave(
        f"/manifests/{IMAGE.digest}", altered, times=1, when=lambda request: "authorization" in request.headers
    )
    registry.misbehave(f"/blobs/{IMAGE.config.digest}", altered, times=1)
    source = open_registry_source(
        ImageReference.parse(f"{registry.host}/library/app@{IMAGE.digest}"), progress=PlainProgress()
    )
    if is_pull:
        pull(source, tmp_path / "layout", platform=AMD64)
    else:
        unpack(source, tmp_path / "rootfs", platform=AMD64)
    source.close()
    said = re.sub("got sha256:[0-9a-f]{64}", "got another", capsys.readouterr().err).splitlines()
    wrong = "digest mismatch: expected {0}, got another; fetching it once more, from the beginning"
    assert said == [
        f"ociexport: warning: image {source.reference}: {wrong.format(IMAGE.digest)}",
        f"ociexport: warning: config {IMAGE.config.digest}: {wrong.format(IMAGE.config.digest)}",
    ]


@pytest.mark.parametrize(
    ("path", "subject"),
    [("/manifests/", "image {host}/library/app:1"), ("/token", "registry {host}: its token service")],
)
def test_document_that_trickles_has_stalled(registry: FakeRegistry, path: str, subject: str) -> None:
    """A byte every few seconds satisfies each read's timeout, and the document would take an hour."""
    registry.auth = "bearer" if path == "/token" else None
    registry.misbehave(path, Fault(trickle_seconds=0.02))
    source = _source(registry, retry_times=1, stall_seconds=0.3)
    with pytest.raises(TransferError) as caught:
        source.fetch_manifest()
    source.close()
    assert str(caught.value).startswith(f"{subject.format(host=registry.host)}: GET {registry.url}/")
    assert ": stalled: " in str(caught.value)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "endless"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CHUNKED + b"2;", b"x"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: y\r\n"),
    ],
)
@pytest.mark.parametrize("is_secure", [False, True])
def test_what_comes_now_and_then_and_does_not_end_has_stalled(
    tmp_path: Path, raw: bytes, endless: bytes, is_secure: bool
) -> None:
    """Each byte restarts a socket's timeout."""
    authority = Authority.new(tmp_path)
    tls = authority.server_context() if is_secure else None
    with FakeRegistry(tls=tls) as registry:
        registry.misbehave("/v2/$", Fault(raw=raw, endless=endless), times=2)
        transport = Transport(RegistryOptions(**QUICK, retry_times=1))  # type: ignore[arg-type]
        settings = TlsSettings(ca_files=(authority.ca_file,))
        url = WebUrl.parse(f"{registry.url}/v2/")
        with pytest.raises(TransferError) as caught:
            transport.send(WireRequest("GET", url, "it", tls=settings, document_bytes=100))
        assert str(caught.value) == f"it: GET {url}: stalled: the answer came byte by byte and did not end"
        assert transport.send(WireRequest("GET", url, "it", tls=settings)).read_up_to(9) == b"{}"
        transport.close()
        assert len(registry.paths()) == 3


def test_tls_greeting_that_trickles_has_stalled() -> None:
    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                # The first bytes of a record of 16 KiB.
                client.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
                threading.Thread(target=trickle, args=(client,), daemon=True).start()

    def trickle(client: socket.socket) -> None:
        with suppress(OSError), client:
            while True:
                client.sendall(b"x")
                time.sleep(0.01)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v2/"
        transport = Transport(RegistryOptions(**QUICK, retry_times=1))  # type: ignore[arg-type]
        with pytest.raises(TransferError) as caught:
            transport.send(WireRequest("GET", WebUrl.parse(url), "it"))
        transport.close()
        listener.shutdown(socket.SHUT_RDWR)
    assert str(caught.value) == f"it: GET {url}: stalled: the answer came byte by byte and did not end"


def test_server_that_is_not_believed_does_not_keep_who_asks_for_its_issuer(tmp_path: Path) -> None:
    """The issuer comes over a second connection, which trickles."""
    context, is_over = Authority.new(tmp_path).server_context(), threading.Event()
    sent: list[bytes] = []

    def serve() -> None:
        client, _ = listener.accept()
        with suppress(OSError):
            context.wrap_socket(client, server_side=True).close()
        client, _ = listener.accept()
        with suppress(OSError), client:
            client.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
            while len(sent) < 2000:
                client.sendall(b"x")
                sent.append(b"x")
                time.sleep(0.01)
        is_over.set()

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(
            Transport(RegistryOptions(**QUICK, retry_times=0, connect_timeout_seconds=0.5))  # type: ignore[arg-type]
        ) as transport,
    ):
        threading.Thread(target=serve, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v2/"
        with pytest.raises(TransferError) as caught:
            transport.send(WireRequest("GET", WebUrl.parse(url), "it"))
        is_over.wait()
    told = "the TLS certificate can't be verified: unable to get local issuer certificate"
    assert str(caught.value) == f"it: GET {url}: {told}"
    assert len(sent) < 2000


@pytest.mark.parametrize(
    ("body", "kind"), [(b"<!DOCTYPE html><html></html>", "HTML document"), (b"", "nothing"), (b"[]", "JSON")]
)
def test_page_in_place_of_a_manifest_is_told_as_one(registry: FakeRegistry, body: bytes, kind: str) -> None:
    """For example the login page of a captive portal."""
    registry.auth = None
    registry.misbehave("/manifests/", Fault(status=200, body=body))
    source = _source(registry)
    with pytest.raises(InvalidImageError) as caught:
        source.fetch_manifest()
    source.close()
    place = f"image {registry.host}/library/app:1: GET {registry.url}/v2/library/app/manifests/1"
    assert str(caught.value).startswith(f"{place}: expected a manifest, got {kind}")
    assert caught.value.hint == "the server may not be a registry; this may be a login or proxy page"


def test_thread_that_looks_at_the_time_ends_with_the_transport() -> None:
    with FakeRegistry() as registry:
        before = threading.enumerate()
        transport = Transport(RegistryOptions(**QUICK))  # type: ignore[arg-type]
        transport.send(WireRequest("GET", WebUrl.parse(f"{registry.url}/v2/"), "it", document_bytes=9))
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "deadlines" and thread not in before)
        transport.close()
        thread.join(30)
        assert not thread.is_alive()


def test_what_is_no_http_is_told() -> None:
    with FakeRegistry() as registry:
        registry.misbehave("/v2/$", Fault(raw=b"SSH-2.0-OpenSSH_9.2\r\n"))
        transport = Transport(RegistryOptions(**QUICK, retry_times=0))  # type: ignore[arg-type]
        with pytest.raises(TransferError) as caught:
            transport.send(WireRequest("GET", WebUrl.parse(f"{registry.url}/v2/"), "it"))
        transport.close()
        assert str(caught.value) == f"it: GET {registry.url}/v2/: expected HTTP, got 'SSH-2.0-OpenSSH_9.2'"


def test_rest_of_a_page_that_trickles_is_not_waited_for() -> None:
    """The rest is read only to reuse the connection."""
    with FakeRegistry() as elsewhere, FakeRegistry() as registry:
        there = {"Location": f"{elsewhere.url}/v2/"}
        registry.misbehave("/v2/$", Fault(status=307, headers=there, body=b" " * 10_000, trickle_seconds=0.1))
        transport = Transport(RegistryOptions())
        answer = transport.send(WireRequest("GET", WebUrl.parse(f"{registry.url}/v2/"), "it"))
        assert answer.read_up_to(100) == b"{}"
        answer.close()
        transport.close()
