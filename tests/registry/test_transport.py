"""Timeouts, stalls, TLS, and closing all connections at once."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from ociexport.errors import RateLimitError, RegistryError, TransferError, UsageError
from ociexport.registry.hosts.certificates import ClientCertificate, TlsSettings
from ociexport.registry.http.messages import WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import RegistryOptions
from ociexport.system.progress.display import PlainProgress
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.tls import Authority


def _get(registry: FakeRegistry, path: str = "/v2/") -> WireRequest:
    return WireRequest("GET", WebUrl.parse(registry.url + path), "it")


def _options(**options: object) -> RegistryOptions:
    return RegistryOptions(retry_delay_seconds=0, **options)  # type: ignore[arg-type]


def test_silent_server_is_a_transfer_error() -> None:
    with FakeRegistry() as registry:
        registry.misbehave("", Fault(delay_seconds=2))
        transport = Transport(_options(read_timeout_seconds=0.1, retry_times=1))
        with pytest.raises(TransferError) as caught:
            transport.send(_get(registry))
        transport.close()
        assert str(caught.value) == f"it: GET {registry.url}/v2/: no answer in time"
        assert len(registry.paths()) == 2


def test_body_that_trickles_has_stalled() -> None:
    """PAINS 9: each byte arrives in time, but the blob never ends."""
    with FakeRegistry(bytes_per_second=1_000_000) as registry:
        blob = registry.add_blob(bytes(2_000_000))
        transport = Transport(_options(min_bytes_per_second=10_000_000, stall_seconds=0.2))
        answer = transport.send(_get(registry, f"/v2/a/blobs/{blob}"))
        with pytest.raises(TransferError) as caught:
            answer.read_up_to(2_000_000)
        answer.close()
        transport.close()
        assert str(caught.value).startswith(f"it: GET {registry.url}/v2/a/blobs/{blob}: stalled: ")


def test_what_has_arrived_is_given_before_the_rest_is_waited_for() -> None:
    with FakeRegistry() as registry:
        blob = registry.add_blob(bytes(200_000))
        registry.misbehave("/blobs/", Fault(stall_after=100_000, delay_seconds=60))
        transport = Transport()
        answer = transport.send(_get(registry, f"/v2/a/blobs/{blob}"))
        started = time.monotonic()
        assert len(answer.read(1 << 20)) == 100_000
        # The bytes are returned before the stall is over.
        assert time.monotonic() - started < 30
        answer.close()
        transport.close()


@pytest.mark.parametrize("fault", [Fault(delay_seconds=5), Fault(stall_after=1, delay_seconds=5)])
def test_close_ends_what_waits_in_other_threads(fault: Fault) -> None:
    """An interrupted run must end within a second, even while its threads wait for bytes."""
    with FakeRegistry() as registry:
        blob = registry.add_blob(bytes(200_000))
        registry.misbehave("/blobs/", fault)
        transport = Transport()
        errors: list[Exception] = []

        def read_all() -> None:
            try:
                answer = transport.send(_get(registry, f"/v2/a/blobs/{blob}"))
                while answer.read(1 << 20):
                    pass
            except TransferError as error:
                errors.append(error)

        thread = threading.Thread(target=read_all)
        thread.start()
        time.sleep(0.3)
        started = time.monotonic()
        transport.close()
        thread.join()
        assert time.monotonic() - started < 4
        assert len(errors) == 1


def test_connection_is_closed_where_descriptors_have_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def no_copy(one: socket.socket) -> socket.socket:
        opened.append(one)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with FakeRegistry() as registry, closing(Transport(_options(retry_times=0))) as transport:
        monkeypatch.setattr(socket.socket, "dup", no_copy)
        with pytest.raises(TransferError) as caught:
            transport.send(_get(registry))
    assert str(caught.value) == f"it: GET {registry.url}/v2/: too many open files"
    assert [one.fileno() for one in opened] == [-1]


def test_close_ends_the_wait_before_a_retry() -> None:
    with FakeRegistry() as registry:
        registry.misbehave("", Fault(status=503))
        transport = Transport(RegistryOptions(retry_delay_seconds=60))
        threading.Timer(0.3, transport.close).start()
        started = time.monotonic()
        with pytest.raises(TransferError):
            transport.send(_get(registry))
        assert time.monotonic() - started < 5


def test_each_retry_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry() as registry:
        registry.misbehave("", Fault(status=503), times=1)
        # Once on the kept connection, where it costs no retry, and once on a new one.
        registry.misbehave("", Fault(reset_after=-1), times=2)
        transport = Transport(_options(retry_times=2), PlainProgress())
        transport.send(_get(registry)).close()
        transport.close()
    assert capsys.readouterr().err.splitlines() == [
        "ociexport: it: 503 Service Unavailable; retry 1 of 2 in 0.0 s",
        "ociexport: it: connection reset by peer; retry 2 of 2 in 0.0 s",
    ]


def test_unknown_authority_is_refused(tmp_path: Path) -> None:
    with FakeRegistry(tls=Authority.new(tmp_path).server_context()) as registry:
        transport = Transport(_options(retry_times=0))
        with pytest.raises(RegistryError) as caught:
            transport.send(_get(registry))
        transport.close()
        assert str(caught.value) == (
            f"it: GET {registry.url}/v2/: the TLS certificate can't be verified: "
            "unable to get local issuer certificate (issued by Example Org)"
        )
        assert caught.value.hint == (
            f"if you trust the issuer of {registry.host}'s certificate, "
            "give the issuer's certificate with --cacert FILE; "
            "--insecure accepts any certificate"
        )
        assert registry.requests == []


def test_unknown_authority_is_not_tried_again(tmp_path: Path) -> None:
    with FakeRegistry(tls=Authority.new(tmp_path).server_context()) as registry:
        transport = Transport(RegistryOptions(retry_delay_seconds=60))
        with pytest.raises(RegistryError):
            transport.send(_get(registry))
        transport.close()


def test_connection_that_ends_within_tls_is_told_in_words() -> None:
    def hang_up(listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.recv(4096)
        client.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up, args=(listener,), daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v2/"
        transport = Transport(_options(retry_times=0))
        with pytest.raises(TransferError) as caught:
            transport.send(WireRequest("GET", WebUrl.parse(url), "it"))
        transport.close()
    assert str(caught.value) == f"it: GET {url}: the connection was closed too early"


def test_retry_after_is_obeyed() -> None:
    """PAINS 13."""
    with FakeRegistry() as registry:
        registry.misbehave("", Fault(status=429, headers={"Retry-After": "1"}), times=1)
        transport = Transport(_options())
        started = time.monotonic()
        transport.send(_get(registry)).close()
        transport.close()
        assert time.monotonic() - started >= 1


def test_quota_is_told_with_its_error_and_not_waited_for_too_long() -> None:
    """PAINS 12: the error contains the limit, the remaining count and the reset."""
    with FakeRegistry() as registry:
        headers = {
            "RateLimit-Limit": "100;w=21600",
            "RateLimit-Remaining": "0;w=21600",
            "Docker-RateLimit-Source": "192.0.2.1",
            "Retry-After": "3600",
        }
        body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]}'
        registry.misbehave("", Fault(status=429, headers=headers, body=body))
        transport = Transport(_options())
        with pytest.raises(RateLimitError) as caught:
            transport.send(_get(registry))
        transport.close()
        assert str(caught.value) == (
            f"it: GET {registry.url}/v2/: 429 Too Many Requests: "
            "TOOMANYREQUESTS: You have reached your pull rate limit. "
            "(limit 100 in 6 h, 0 left, counted for 192.0.2.1, asks to wait: 3600 s)"
        )
        assert caught.value.hint == "wait for the quota to renew, log in for a larger one, or use a mirror"
        assert len(registry.paths()) == 1


def test_file_without_certificates_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nonsense")
    (tmp_path / "client.cert").write_text("nonsense")
    for tls, told in [
        (TlsSettings(ca_files=(tmp_path / "ca.crt",)), f"{tmp_path}/ca.crt: expected certificates"),
        (
            TlsSettings(client_certificate=ClientCertificate(tmp_path / "client.cert", None)),
            f"{tmp_path}/client.cert: expected a client certificate with its key",
        ),
    ]:
        transport = Transport(_options())
        with pytest.raises(UsageError, match=re.escape(told)):
            transport.send(WireRequest("GET", WebUrl.parse("https://127.0.0.1:1/"), "it", tls=tls))
        transport.close()


def test_connections_are_not_made_after_the_end() -> None:
    transport = Transport(_options())
    transport.close()
    with pytest.raises(TransferError, match="the connections were closed"):
        transport.send(WireRequest("GET", WebUrl.parse("http://127.0.0.1:1/"), "it"))


def test_warnings_are_passed_on_once(capsys: pytest.CaptureFixture[str]) -> None:
    """distribution-spec 1.1, "Warnings"."""
    with FakeRegistry() as registry:
        registry.misbehave("", Fault(headers={"Warning": '299 - "going \\"away\\"", 299 - "soon", 110 x "stale"'}))
        transport = Transport(_options(), PlainProgress())
        transport.send(_get(registry)).close()
        transport.send(_get(registry)).close()
        transport.close()
    assert capsys.readouterr().err.splitlines() == [
        f'ociexport: warning: {registry.host} says: going "away"',
        f"ociexport: warning: {registry.host} says: soon",
    ]


def test_warnings_without_end_are_not_all_told(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry() as registry:
        transport = Transport(_options(), PlainProgress())
        for number in range(3):
            texts = ", ".join(f'299 - "{number} {other}"' for other in range(100))
            registry.behave()
            registry.misbehave("", Fault(headers={"Warning": texts}))
            transport.send(_get(registry)).close()
        transport.close()
    assert len(capsys.readouterr().err.splitlines()) == 32
