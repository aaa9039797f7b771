"""A kept connection that the server has closed is replaced: no retry is counted, and there is no wait."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ociexport.errors import TransferError
from ociexport.registry.auth.credentials import Finding
from ociexport.registry.hosts.certificates import TlsSettings
from ociexport.registry.hosts.endpoints import Endpoint
from ociexport.registry.http.messages import WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import Credentials, RegistryOptions
from ociexport.registry.session import RegistrySession
from ociexport.system.progress.display import PlainProgress
from tests.support.fake_registry import FakeRegistry, Fault, Request
from tests.support.tls import Authority

# No retry is allowed, and each would take a minute.
NO_RETRIES = RegistryOptions(retry_times=0, retry_delay_seconds=60)
# How a server closes: in good order, and with a reset.
CLOSED = Fault(raw=b"")
RESET = Fault(reset_after=-1)


def _get(registry: FakeRegistry, path: str = "/v2/", **fields: object) -> WireRequest:
    return WireRequest("GET", WebUrl.parse(registry.url + path), "it", **fields)  # type: ignore[arg-type]


def _is_nth_of_its_connection(registry: FakeRegistry, request: Request, nth: int) -> bool:
    return sum(other.connection == request.connection for other in registry.requests) == nth


def _close_at_request(registry: FakeRegistry, nth: int, fault: Fault) -> None:
    registry.misbehave("", fault, when=lambda request: _is_nth_of_its_connection(registry, request, nth))


@pytest.mark.parametrize("fault", [CLOSED, RESET])
@pytest.mark.parametrize("nth", [2, 3])
def test_closed_kept_connection_is_replaced_at_once(fault: Fault, nth: int, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry() as registry:
        _close_at_request(registry, nth, fault)
        transport = Transport(NO_RETRIES, PlainProgress())
        started = time.monotonic()
        for _ in range(10):
            assert transport.send(_get(registry, document_bytes=100)).read_up_to(100) == b"{}"
        transport.close()
        assert registry.faults_met >= 3
        assert time.monotonic() - started < 5
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("fault", [CLOSED, RESET])
def test_over_tls_too(fault: Fault, tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context()) as registry:
        _close_at_request(registry, 2, fault)
        transport = Transport(NO_RETRIES)
        for _ in range(4):
            tls = TlsSettings(ca_files=(authority.ca_file,))
            transport.send(_get(registry, document_bytes=100, tls=tls))
        transport.close()
        assert registry.faults_met == 3


def test_other_closed_connections_are_not_tried_first() -> None:
    """Eight idle connections are all closed by the server: each request costs at most one more."""
    with FakeRegistry() as registry:
        barrier = threading.Barrier(8)
        transport = Transport(NO_RETRIES)

        def open_one() -> None:
            answer = transport.send(_get(registry))
            barrier.wait(10)
            answer.close()

        threads = [threading.Thread(target=open_one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _close_at_request(registry, 2, CLOSED)
        transport.send(_get(registry)).close()
        transport.close()
        assert len(registry.requests) == 8 + 2


@pytest.mark.parametrize("fault", [CLOSED, RESET])
def test_new_connection_that_is_closed_is_a_failure(fault: Fault) -> None:
    """Otherwise a server that closes each connection would be asked for ever."""
    with FakeRegistry() as registry:
        registry.misbehave("", fault)
        transport = Transport(NO_RETRIES)
        with pytest.raises(TransferError):
            transport.send(_get(registry))
        transport.close()
        assert len(registry.requests) == 1


def test_server_that_closes_kept_and_new_connections_is_a_failure() -> None:
    with FakeRegistry() as registry:
        transport = Transport(NO_RETRIES)
        transport.send(_get(registry)).close()
        registry.misbehave("", CLOSED)
        with pytest.raises(TransferError):
            transport.send(_get(registry))
        transport.close()
        assert len(registry.requests) == 3


def test_the_ping_too() -> None:
    """A ping has no retries of its own; a shared transport may have kept a connection to the server."""
    with FakeRegistry() as registry:
        transport = Transport(NO_RETRIES)
        transport.send(_get(registry)).close()
        registry.misbehave("", CLOSED, times=1)
        endpoint = Endpoint(registry.host, (f"https://{registry.host}/v2", f"{registry.url}/v2"))
        session = RegistrySession(endpoint, lambda repository: Finding(Credentials(), "nowhere"), transport)
        assert session.ping(retries=False) == f"{registry.url}/v2"
        transport.close()
        assert registry.faults_met == 1


def test_closed_transport_makes_no_new_connection() -> None:
    """An interrupt shuts down kept connections too, and nothing may be asked afterwards."""
    with FakeRegistry() as registry:
        transport = Transport(NO_RETRIES)
        transport.send(_get(registry)).close()
        registry.misbehave("", Fault(delay_seconds=3))
        timer = threading.Timer(0.3, transport.close)
        timer.start()
        started = time.monotonic()
        with pytest.raises(TransferError):
            transport.send(_get(registry))
        timer.join()
        assert time.monotonic() - started < 2
        assert len({request.connection for request in registry.requests}) == 1
