"""Registries that require authentication: challenges, tokens, and token services."""

from __future__ import annotations

import gzip
import time
from types import SimpleNamespace

import pytest

from ociexport.errors import (
    AuthenticationError,
    TransferError,
)
from ociexport.registry.options import Credentials
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.wire_images import BLOB, MANIFEST, USER, blob_in, error_of, image_source, read_all


@pytest.mark.parametrize("member", ["token", "access_token"])
def test_anonymous_token_is_fetched_with_the_service_as_it_is_quoted(member: str) -> None:
    """The challenge's service contains colons, commas and quotes."""
    with FakeRegistry(auth="bearer", token_member=member) as registry:
        source = image_source(registry)
        source.fetch_manifest()
        read_all(source, blob_in(registry))
        source.close()
        token_request = registry.requests[1]
        assert token_request.query["service"] == [registry.service]
        assert token_request.query["scope"] == ["repository:library/app:pull"]
        assert "authorization" not in token_request.headers
        assert [path for path in registry.paths() if path == "/token"] == ["/token"]


def test_token_that_a_proxy_has_compressed_is_read() -> None:
    with FakeRegistry(auth="bearer") as registry:
        registry.misbehave("/token", Fault(change=gzip.compress, headers={"Content-Encoding": "gzip"}))
        source = image_source(registry)
        assert source.fetch_manifest().raw == MANIFEST
        source.close()


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_credentials_open_the_registry(auth: str) -> None:
    with FakeRegistry(auth=auth, users={"user": "pass:word"}) as registry:
        source = image_source(registry, credentials=USER)
        assert source.fetch_manifest().raw == MANIFEST
        source.close()


def test_registry_token_is_sent_as_it_is() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry, credentials=Credentials(registry_token="abc"))
        source.fetch_manifest()
        source.close()
        assert registry.requests[-1].headers["authorization"] == "Bearer abc"


def test_missing_credentials_are_an_authentication_error() -> None:
    with FakeRegistry(auth="basic", users={"user": "pass:word"}) as registry:
        source = image_source(registry)
        message = error_of(source.fetch_manifest, AuthenticationError)
        source.close()
        url = f"{registry.url}/v2/library/app/manifests/1.0"
        assert message == (
            f"image {registry.host}/library/app:1.0: GET {url}: 401 Unauthorized: UNAUTHORIZED: authentication required"
        )


def test_expired_token_is_renewed_once_in_mid_pull() -> None:
    with FakeRegistry(auth="bearer") as registry:
        source = image_source(registry)
        source.fetch_manifest()
        registry.revoke_tokens()
        assert read_all(source, blob_in(registry)) == BLOB
        source.close()
        assert registry.paths().count("/token") == 2


def test_token_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeRegistry(auth="bearer", token_seconds=300) as registry:
        source = image_source(registry)
        source.fetch_manifest()
        later = time.monotonic() + 295
        monkeypatch.setattr("ociexport.registry.auth.token_store.time", SimpleNamespace(monotonic=lambda: later))
        source.fetch_manifest()
        source.close()
        assert registry.paths()[1:] == ["/token", "/v2/library/app/manifests/1.0"] * 2


def test_endless_401_ends() -> None:
    with FakeRegistry(auth="bearer") as registry:
        source = image_source(registry)
        source.fetch_manifest()
        challenge = f'Bearer realm="{registry.url}/token",service="{registry.service[:10]}"'
        registry.service = registry.service[:10]
        registry.misbehave("/manifests/", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        message = error_of(source.fetch_manifest, AuthenticationError)
        source.close()
        url = f"{registry.url}/v2/library/app/manifests/1.0"
        assert message == f"image {registry.host}/library/app:1.0: GET {url}: 401 Unauthorized"
        assert registry.paths()[-4:] == [
            "/v2/library/app/manifests/1.0",
            "/v2/library/app/manifests/1.0",
            "/token",
            "/v2/library/app/manifests/1.0",
        ]


def test_token_service_that_nobody_runs_is_named() -> None:
    """The seed: a realm on a port without a listener; the user does not know this address."""
    with FakeRegistry(auth="bearer", realm="http://127.0.0.1:1/service/token") as registry:
        source = image_source(registry)
        with pytest.raises(TransferError) as caught:
            source.fetch_manifest()
        source.close()
        assert str(caught.value) == (
            f"registry {registry.host}: its token service: GET http://127.0.0.1:1/service/token?…: connection refused; "
            "the registry's own token service is misconfigured or unreachable"
        )
        assert caught.value.hint == (
            f"registry {registry.host} directs clients to http://127.0.0.1:1/service/token for tokens: "
            "report this to its operators"
        )


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Fault(body=b"{}"), "expected a 'token' or 'access_token', got neither"),
        (Fault(body=b'{"token": "x\\r\\ny"}'), "token: expected printable ASCII, got something else"),
        (Fault(body=b"x" * 70_000), "expected at most 65536 bytes, got more"),
    ],
)
def test_answer_of_the_token_service_without_a_token_is_an_error(fault: Fault, told: str) -> None:
    with FakeRegistry(auth="bearer") as registry:
        source = image_source(registry)
        registry.misbehave("/token", fault)
        message = error_of(source.fetch_manifest, AuthenticationError)
        source.close()
        assert message == f"registry {registry.host}: its token service: GET {registry.url}/token: {told}"
