"""Tokens: how long they are used, how they are renewed, and what is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest

from ociexport.errors import AuthenticationError
from ociexport.registry.auth.challenges import parse_challenges, plan_token_requests
from ociexport.registry.options import Credentials
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.wire_images import MANIFEST, image_source, read_all

LAYERS = [bytes([number]) * 5000 for number in range(12)]


@pytest.mark.parametrize("seconds", [-1, 0, 1, 10, 59, None])
def test_short_lived_token_is_fetched_once(seconds: int | None) -> None:
    """The specification's least lifetime is 60 s; a registry that names less would be asked before each request."""
    with FakeRegistry(auth="bearer", token_seconds=seconds) as registry:
        source = image_source(registry)
        for _ in range(5):
            assert source.fetch_manifest().raw == MANIFEST
        source.close()
        assert registry.paths().count("/token") == 1


@pytest.mark.parametrize("uses", [1, 2, 3, 5])
@pytest.mark.parametrize("threads", [1, 6])
def test_token_for_a_few_requests_is_renewed_as_often_as_needed(uses: int, threads: int) -> None:
    with FakeRegistry(auth="bearer", token_uses=uses) as registry:
        source = image_source(registry)
        assert source.fetch_manifest().raw == MANIFEST
        layers = [Descriptor(mediatypes.OCI_LAYER_GZIP, registry.add_blob(raw), len(raw)) for raw in LAYERS]
        with ThreadPoolExecutor(threads) as pool:
            assert list(pool.map(lambda layer: read_all(source, layer), layers)) == LAYERS
        source.close()
        assert registry.paths().count("/token") <= 3 * (len(LAYERS) + 1)


def test_registry_that_refuses_each_token_is_asked_twice() -> None:
    with FakeRegistry(auth="bearer", token_uses=0) as registry:
        source = image_source(registry)
        with pytest.raises(AuthenticationError):
            source.fetch_manifest()
        source.close()
        assert registry.paths().count("/token") == 2


def test_threads_that_are_all_refused_end() -> None:
    with FakeRegistry(auth="bearer") as registry:
        source = image_source(registry)
        assert source.fetch_manifest().raw == MANIFEST
        layers = [Descriptor(mediatypes.OCI_LAYER_GZIP, registry.add_blob(raw), len(raw)) for raw in LAYERS]
        challenge = f'Bearer realm="{registry.url}/token",service="s"'
        registry.service = "s"
        registry.misbehave("/blobs/", Fault(status=401, headers={"WWW-Authenticate": challenge}))

        def is_refused(layer: Descriptor) -> bool:
            with pytest.raises(AuthenticationError):
                read_all(source, layer)
            return True

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(is_refused, layers))
        source.close()
        assert sum("/blobs/" in path for path in registry.paths()) <= 3 * len(LAYERS)


@pytest.mark.parametrize(
    "scope",
    [
        "repository:a:pull",
        "repository:a:pull repository:b:pull",
        "repository:a:pull  registry:catalog:* repository:c:x",
    ],
)
@pytest.mark.parametrize("credentials", [Credentials(), Credentials("me", "pass"), Credentials(identity_token="old")])
def test_each_scope_is_a_parameter_of_its_own(scope: str, credentials: Credentials) -> None:
    """distribution, "Token Authentication"; the form of "OAuth2 Token Authentication" has one parameter for all."""
    (challenge,) = parse_challenges('Bearer realm="https://a.example/t?x=1",service="s"')
    *posts, get = plan_token_requests(challenge, credentials, scope, where="it")
    assert parse_qs(urlsplit(get.url).query)["scope"] == scope.split()
    for post in posts:
        assert parse_qs((post.form or b"").decode())["scope"] == [scope]
