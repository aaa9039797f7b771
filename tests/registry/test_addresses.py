"""No server sends us nearer to this machine than itself: the address that is connected to is checked."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from ociexport.errors import RegistryError
from ociexport.registry.addresses import (
    ForbiddenAddressError,
    Nearness,
    SeenAddresses,
    literal_nearness,
    nearness_of,
)
from ociexport.registry.dialing import open_connection
from ociexport.registry.http.messages import WireRequest
from ociexport.registry.http.transport import Transport
from ociexport.registry.http.web_url import WebUrl
from ociexport.registry.options import RegistryOptions
from tests.support.fake_registry import FakeRegistry, Fault

Names: TypeAlias = dict[str, Callable[[], str]]


@pytest.mark.parametrize(
    ("host", "nearness"),
    [
        ("8.8.8.8", Nearness.INTERNET),
        ("2606:4700::1", Nearness.INTERNET),
        ("64:ff9b::808:808", Nearness.INTERNET),
        ("10.0.0.1", Nearness.PRIVATE),
        ("172.16.0.1", Nearness.PRIVATE),
        ("192.168.1.1", Nearness.PRIVATE),
        ("100.64.0.1", Nearness.PRIVATE),
        ("fd00::1", Nearness.PRIVATE),
        ("::ffff:10.0.0.1", Nearness.PRIVATE),
        ("2002:0a00:0001::1", Nearness.PRIVATE),
        ("64:ff9b::a00:1", Nearness.PRIVATE),
        ("169.254.169.254", Nearness.LINK),
        ("fe80::1", Nearness.LINK),
        ("::ffff:169.254.169.254", Nearness.LINK),
        ("64:ff9b::a9fe:a9fe", Nearness.LINK),
        ("127.0.0.1", Nearness.MACHINE),
        ("127.1", Nearness.MACHINE),
        ("0", Nearness.MACHINE),
        ("0x7f000001", Nearness.MACHINE),
        ("0177.0.0.1", Nearness.MACHINE),
        ("2130706433", Nearness.MACHINE),
        ("::", Nearness.MACHINE),
        ("::1", Nearness.MACHINE),
        ("::127.0.0.1", Nearness.MACHINE),
        ("::ffff:127.0.0.1", Nearness.MACHINE),
        ("2002:7f00:0001::1", Nearness.MACHINE),
        ("64:ff9b::7f00:1", Nearness.MACHINE),
        ("localhost", Nearness.MACHINE),
        ("a.localhost", Nearness.MACHINE),
        ("224.0.0.1", Nearness.MULTICAST),
        ("ff02::1", Nearness.MULTICAST),
        ("registry.example", None),
    ],
)
def test_nearness_of_an_address_in_any_form(host: str, nearness: Nearness | None) -> None:
    assert literal_nearness(host) == nearness


def test_scope_of_an_address_does_not_matter() -> None:
    assert nearness_of("fe80::1%lo") == Nearness.LINK


def test_name_with_near_addresses_only_is_not_connected_to(names: Names) -> None:
    names["rebound.example"] = lambda: "127.0.0.1"
    with FakeRegistry() as server, pytest.raises(ForbiddenAddressError, match=r"the address 127\.0\.0\.1"):
        open_connection("rebound.example", int(server.host.split(":")[1]), timeout_seconds=9, nearest=Nearness.LINK)


def test_server_that_was_seen_far_away_counts_as_far() -> None:
    seen = SeenAddresses()
    seen.add("a.example", 443, "127.0.0.1")
    seen.add("a.example", 443, "8.8.8.8")
    assert seen.nearness("a.example", 443) == seen.limit("a.example", 443) == Nearness.INTERNET
    assert seen.nearness("other.example", 443) == Nearness.INTERNET
    assert seen.limit("other.example", 443) == Nearness.MULTICAST


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A map from names to functions; each lookup of a name resolves to what its function returns."""
    known: Names = {}
    real = socket.getaddrinfo

    def ask(host: str, *arguments: object, **options: object) -> object:
        return real(known[host]() if host in known else host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    return known


def _get(url: str, sent_by: str | None = None) -> WireRequest:
    return WireRequest("GET", WebUrl.parse(url), "it", sent_by=None if sent_by is None else WebUrl.parse(sent_by))


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport(RegistryOptions(retry_times=0))
    yield transport
    transport.close()


def test_name_that_leads_to_this_machine_is_refused_where_it_is_dialled(names: Names, transport: Transport) -> None:
    names["inner.example"] = lambda: "127.0.0.1"
    with FakeRegistry() as server:
        url = f"http://inner.example:{server.host.split(':')[1]}/v2/"
        with pytest.raises(RegistryError) as caught:
            transport.send(_get(url, sent_by="http://8.8.8.8/v2/"))
        assert str(caught.value) == f"it: {url}: a registry on another host may not send its clients to 127.0.0.1"
        assert server.requests == []
        # A URL from the user opens a connection, which is not reused for a URL from a server.
        transport.send(_get(url)).close()
        with pytest.raises(RegistryError, match="may not send its clients"):
            transport.send(_get(url, sent_by="http://8.8.8.8/v2/"))
        assert len(server.requests) == 1


def test_server_on_this_machine_may_name_others_there(names: Names, transport: Transport) -> None:
    names["inner.example"] = names["registry.example"] = lambda: "127.0.0.1"
    with FakeRegistry() as storage, FakeRegistry() as registry:
        port = storage.host.split(":")[1]
        there = f"http://inner.example:{port}/v2/"
        registry.misbehave("/v2/", Fault(status=307, headers={"Location": there}))
        transport.send(_get(f"http://registry.example:{registry.host.split(':')[1]}/v2/")).close()
        assert len(storage.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1\\@8.8.8.8", "%31%32%37.0.0.1", "localhost.", "127.1", "0x7f.1", "[::]"])
def test_no_spelling_of_this_machine_is_asked(transport: Transport, host: str) -> None:
    with pytest.raises(
        RegistryError, match=r"may not send its clients|expected an http or https URL with a plain host"
    ):
        transport.send(_get(f"http://{host}:1/x", sent_by="http://8.8.8.8/v2/"))
