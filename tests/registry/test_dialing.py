"""Connections to hosts when some addresses, or the name service, do not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from ociexport.registry.dialing import AddressInfo, look_up, open_connection


@contextmanager
def listening(address: str = "127.0.0.1") -> Iterator[int]:
    """Yield the port of a server that accepts connections."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        yield server.getsockname()[1]


@contextmanager
def silent() -> Iterator[int]:
    """Yield the port of a server whose queue is full: the kernel drops new connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def resolves_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Resolve each name to servers on loopback at ``ports``; each port represents one address of the host."""
    infos: list[AddressInfo] = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port)) for port in ports
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: infos)


def test_host_is_reached() -> None:
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    with listening() as port, open_connection("127.0.0.1", port, timeout_seconds=9, options=options) as connected:
        assert connected.getpeername() == ("127.0.0.1", port)
        assert connected.getblocking()
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_host_is_reached_at_its_ipv6_address() -> None:
    with listening("::1") as port, open_connection("::1", port, timeout_seconds=9) as connected:
        assert connected.getpeername()[:2] == ("::1", port)


def test_next_address_is_tried_while_the_first_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8305: a network that drops IPv6 costs a moment, and not the whole timeout."""
    with silent() as first, listening() as second:
        resolves_to(monkeypatch, first, second)
        with open_connection("registry.example", 443, timeout_seconds=60) as connected:
            assert connected.getpeername()[1] == second


def test_next_address_is_tried_at_once_where_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as second:
        resolves_to(monkeypatch, 1, second)
        with open_connection("registry.example", 443, timeout_seconds=60) as connected:
            assert connected.getpeername()[1] == second


def test_what_the_last_address_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, 1, 2)
    with pytest.raises(ConnectionRefusedError):
        open_connection("registry.example", 443, timeout_seconds=60)


def test_addresses_that_are_all_silent_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent() as first, silent() as second:
        resolves_to(monkeypatch, first, second)
        with pytest.raises(TimeoutError):
            open_connection("registry.example", 443, timeout_seconds=0.5)


def test_name_service_that_is_silent_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: over.wait(60))
    with pytest.raises(socket.gaierror, match="no answer from the name service in time") as caught:
        look_up("registry.example", 443, 0.1)
    over.set()
    assert caught.value.errno == socket.EAI_AGAIN


def test_name_that_can_be_none_is_told_as_such() -> None:
    with pytest.raises(socket.gaierror, match="not a valid host name"):
        look_up("a" * 64 + ".example", 443, 60)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_address_is_not_looked_up_in_a_thread(address: str) -> None:
    """A thread would have no time to answer."""
    assert look_up(address, 80, 0)[0][4][:2] == (address, 80)
