"""Manifests, tokens and lists on a bad network: cut, trickling, altered once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ociexport.errors import AuthenticationError, TransferError
from ociexport.progress_display import PlainProgress
from ociexport.reference import ImageReference
from ociexport.registry.client import RegistryClient, RegistrySource, open_registry_source
from ociexport.registry.exchange import WireRequest
from ociexport.registry.options import RegistryOptions
from ociexport.registry.transport import Transport
from ociexport.transfer import pull
from ociexport.tree.layers import unpack
from tests.fake_registry import FakeRegistry, Fault
from tests.image_builder import AMD64, build_image
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
    """By a proxy, say; what is wrong at its source stays wrong."""
    altered = Fault(change=lambda raw: raw.replace(b"{", b" ", 1))
    registry.misbehave(f"/manifests/{IMAGE.digest}", altered, times=1)
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
