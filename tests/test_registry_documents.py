"""Manifests, tokens and lists on a bad network: cut, trickling, altered once."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ociexport.errors import TransferError
from ociexport.progress_display import PlainProgress
from ociexport.reference import ImageReference
from ociexport.registry.client import RegistryClient, RegistrySource, open_registry_source
from ociexport.registry.exchange import WireRequest
from ociexport.registry.options import RegistryOptions
from ociexport.registry.transport import Transport
from tests.fake_registry import FakeRegistry, Fault
from tests.image_builder import build_image
from tests.memory_source import member

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
@pytest.mark.parametrize(("path", "requests"), [("/manifests/", 2), ("/token", 2), ("/v2/$", 1)])
def test_document_that_is_cut_is_asked_for_again(
    registry: FakeRegistry, fault: Fault, path: str, requests: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the answer to a ping there is nothing that anybody reads."""
    if path == "/manifests/":
        # Else the first one is refused for its token, and nobody reads it.
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
    assert client.list_tags(ImageReference.parse(f"{registry.host}/library/app")) == ("1",)
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


@pytest.mark.parametrize(
    ("path", "subject"),
    [("/manifests/", "image {host}/library/app:1"), ("/token", "registry {host}: its token service")],
)
def test_document_that_trickles_has_stalled(registry: FakeRegistry, path: str, subject: str) -> None:
    """A byte now and then is in time for each read, and would keep us for an hour."""
    registry.auth = "bearer" if path == "/token" else None
    registry.misbehave(path, Fault(trickle_seconds=0.02))
    source = _source(registry, retry_times=1, stall_seconds=0.3)
    with pytest.raises(TransferError) as caught:
        source.fetch_manifest()
    source.close()
    assert str(caught.value).startswith(f"{subject.format(host=registry.host)}: GET {registry.url}/")
    assert ": stalled: " in str(caught.value)


def test_rest_of_a_page_that_trickles_is_not_waited_for() -> None:
    """It would be read so that the connection can be used again."""
    with FakeRegistry() as elsewhere, FakeRegistry() as registry:
        there = {"Location": f"{elsewhere.url}/v2/"}
        registry.misbehave("/v2/$", Fault(status=307, headers=there, body=b" " * 10_000, trickle_seconds=0.1))
        transport = Transport(RegistryOptions())
        answer = transport.send(WireRequest("GET", f"{registry.url}/v2/", "it"))
        assert answer.read_up_to(100) == b"{}"
        answer.close()
        transport.close()
