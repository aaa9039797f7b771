"""The first request goes to the image at once; a server is pinged only where its answer leaves a question open."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ociexport.errors import AuthenticationError, RegistryNotFoundError, TransferError
from ociexport.registry.options import Credentials, RegistryOptions
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.reference import ImageReference
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.registry_image import open_registry_source
from tests.support.tls import Authority

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
PATH = "/v2/team/app/manifests/1"
ALICE = Credentials("alice", "secret")


def _fetch(registry: FakeRegistry, **options: object) -> bytes:
    registry.add_manifest("team/app", "1", MANIFEST, mediatypes.OCI_MANIFEST)
    settings = RegistryOptions(**{"retry_delay_seconds": 0, "retry_times": 1, **options})  # type: ignore[arg-type]
    source = open_registry_source(ImageReference.parse(f"{registry.host}/team/app:1"), options=settings)
    try:
        return source.fetch_manifest().raw
    finally:
        source.close()


def test_open_registry_gets_one_request() -> None:
    with FakeRegistry() as registry:
        assert _fetch(registry) == MANIFEST
        assert registry.paths() == [PATH]


def test_refusal_is_the_challenge() -> None:
    """The token service's own scope is requested at once, and once."""
    with FakeRegistry(auth="bearer", users={"alice": "secret"}) as registry:
        assert _fetch(registry, credentials=ALICE) == MANIFEST
        assert registry.paths() == [PATH, "/token", PATH]


@pytest.mark.parametrize("status", [403, 404])
def test_registry_that_hides_images_from_anonymous_users_is_pinged_for_its_challenge(status: int) -> None:
    with FakeRegistry(auth="basic", users={"alice": "secret"}) as registry:
        registry.misbehave(PATH, Fault(status=status), when=lambda request: "authorization" not in request.headers)
        assert _fetch(registry, credentials=ALICE) == MANIFEST
        assert registry.paths() == [PATH, "/v2/", PATH]


def test_refusal_without_a_challenge_makes_a_ping() -> None:
    with FakeRegistry(auth="basic", users={"alice": "secret"}) as registry:
        bare = Fault(status=401, headers={"WWW-Authenticate": None})
        registry.misbehave(PATH, bare, when=lambda request: "authorization" not in request.headers)
        assert _fetch(registry, credentials=ALICE) == MANIFEST
        assert registry.paths() == [PATH, "/v2/", PATH]


def test_ping_that_asks_for_nothing_leaves_the_first_answer() -> None:
    with FakeRegistry() as registry:
        registry.misbehave(PATH, Fault(status=404))
        with pytest.raises(RegistryNotFoundError):
            _fetch(registry, credentials=ALICE)
        assert registry.paths()[:2] == [PATH, "/v2/"]
        assert all("authorization" not in request.headers for request in registry.requests)


def test_credentials_are_not_sent_without_a_challenge() -> None:
    with FakeRegistry() as registry:
        registry.misbehave("", Fault(status=401))
        with pytest.raises(AuthenticationError):
            _fetch(registry, credentials=ALICE)
        assert all("authorization" not in request.headers for request in registry.requests)


def test_token_from_the_command_line_waits_until_the_scheme_is_known(tmp_path: Path) -> None:
    """A registry on loopback may speak http or https; plain text must not carry a secret to one that speaks https."""
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context("127.0.0.1")) as registry:
        assert _fetch(registry, credentials=Credentials(registry_token="t"), ca_file=authority.ca_file) == MANIFEST
        assert registry.paths() == ["/v2/", PATH]


def test_registry_on_loopback_with_tls_is_found_after_plain_text(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context("127.0.0.1")) as registry:
        assert _fetch(registry, ca_file=authority.ca_file) == MANIFEST
        assert registry.paths() == ["/v2/", PATH]


def test_registry_that_is_down_is_reported_as_before() -> None:
    source = open_registry_source(
        ImageReference.parse("127.0.0.1:1/team/app:1"), options=RegistryOptions(retry_times=0)
    )
    with pytest.raises(
        TransferError, match=r"registry 127\.0\.0\.1:1: GET http://127\.0\.0\.1:1/v2/: connection refused"
    ):
        source.fetch_manifest()
    source.close()


def test_first_request_that_fails_for_the_moment_is_repeated() -> None:
    with FakeRegistry() as registry:
        registry.misbehave(PATH, Fault(status=503), times=1)
        assert _fetch(registry) == MANIFEST
        assert registry.paths() == [PATH, PATH]


def test_request_with_the_token_is_repeated_after_a_reset() -> None:
    """The server has answered with its challenge, so it is there."""
    with FakeRegistry(auth="bearer") as registry:
        reset = Fault(reset_after=-1)
        registry.misbehave(PATH, reset, when=lambda request: "authorization" in request.headers, times=2)
        assert _fetch(registry, retry_times=2) == MANIFEST
        assert registry.paths() == [PATH, "/token", PATH, PATH, PATH]


def test_first_request_that_is_redirected_is_repeated_after_a_reset_there() -> None:
    """The registry has answered with the redirect, so it is there."""
    with FakeRegistry(address="127.0.0.2") as storage, FakeRegistry(redirect_to=storage) as registry:
        storage.misbehave("/storage/", Fault(reset_after=-1), times=2)
        descriptor = Descriptor(mediatypes.OCI_LAYER, registry.add_blob(b"layer"), 5)
        options = RegistryOptions(retry_delay_seconds=0, retry_times=2)
        source = open_registry_source(ImageReference.parse(f"{registry.host}/team/app:1"), options=options)
        with closing(source), closing(source.open_blob(descriptor)) as stream:
            assert stream.read(5) == b"layer"
        assert "/v2/" not in registry.paths()


def test_token_service_without_https_gets_no_credentials_from_a_registry_with_https(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(auth="bearer", tls=authority.server_context("127.0.0.1")) as registry, FakeRegistry() as tokens:
        registry.realm = f"{tokens.url}/token"
        with pytest.raises(AuthenticationError, match="expected https, as for the registry itself"):
            _fetch(registry, credentials=ALICE, ca_file=authority.ca_file)
        assert tokens.requests == []
