"""Failing registries: what is retried, and which message appears."""

from __future__ import annotations

import gzip

import pytest

from ociexport.errors import (
    AuthenticationError,
    RateLimitError,
    RegistryError,
    RegistryNotFoundError,
    TransferError,
)
from ociexport.spec.reference import ImageReference
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.registry_image import open_registry_source
from tests.support.wire_images import MANIFEST, blob_in, error_of, image_source, read_all, wire_options


def test_missing_image_is_not_found() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry, ":2.0")
        with pytest.raises(RegistryNotFoundError) as caught:
            source.fetch_manifest()
        source.close()
        url = f"{registry.url}/v2/library/app/manifests/2.0"
        assert str(caught.value) == (
            f"image {registry.host}/library/app:2.0: GET {url}: 404 Not Found: MANIFEST_UNKNOWN: manifest unknown"
        )
        assert (caught.value.method, caught.value.url, caught.value.status) == ("GET", url, 404)
        assert caught.value.codes == ("MANIFEST_UNKNOWN",)


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (
            Fault(status=403, body=b'{"errors": [{"code": "DENIED", "message": "quota\\u0007 of\\nyours"}]}'),
            AuthenticationError,
            "403 Forbidden: DENIED: quota\\x07 of\\nyours",
        ),
        (Fault(status=400), RegistryError, "400 Bad Request"),
        (Fault(status=418, body=b'{"message": "short"}'), RegistryError, "418 I'm a Teapot: short"),
        (
            Fault(status=404, body=b"<!DOCTYPE html><html><body>no</body></html>"),
            RegistryNotFoundError,
            "404 Not Found: with HTML document, ASCII text, with no line terminators in place of a registry's error",
        ),
        (
            Fault(
                status=404,
                body=gzip.compress(b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'),
                headers={"Content-Encoding": "gzip"},
            ),
            RegistryNotFoundError,
            "404 Not Found: MANIFEST_UNKNOWN",
        ),
        (
            Fault(status=404, body=b"404 page not found\n", headers={"Content-Type": "text/plain"}),
            RegistryNotFoundError,
            "404 Not Found: 404 page not found",
        ),
    ],
)
def test_lasting_errors_are_told_in_the_registrys_words_and_not_retried(
    fault: Fault, kind: type[RegistryError], told: str
) -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        registry.misbehave("/manifests/", fault)
        message = error_of(source.fetch_manifest, kind)
        source.close()
        url = f"{registry.url}/v2/library/app/manifests/1.0"
        assert message == f"image {registry.host}/library/app:1.0: GET {url}: {told}"
        # A 400 may mean that a registry on loopback expects TLS, which a ping finds out.
        requests = 2 if fault.status == 400 else 1
        assert len([path for path in registry.paths() if "/manifests/" in path]) == requests


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(status=503), Fault(status=429), Fault(status=408), Fault(reset_after=-1)]
)
def test_passing_errors_are_retried(fault: Fault) -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        registry.misbehave("/manifests/", fault, times=3)
        assert source.fetch_manifest().raw == MANIFEST
        source.close()
        assert registry.paths().count("/v2/library/app/manifests/1.0") == 4


@pytest.mark.parametrize(("status", "kind"), [(503, TransferError), (429, RateLimitError)])
def test_retries_end(status: int, kind: type[RegistryError]) -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        registry.misbehave("/manifests/", Fault(status=status))
        error_of(source.fetch_manifest, kind)
        source.close()
        assert len(registry.paths()) == 4


def test_registry_that_is_down_is_named() -> None:
    with FakeRegistry() as registry:
        host = registry.host
    source = open_registry_source(ImageReference.parse(f"{host}/a:1"), options=wire_options())
    message = error_of(source.fetch_manifest, TransferError)
    source.close()
    assert message == f"registry {host}: GET http://{host}/v2/: connection refused"


def test_name_that_does_not_resolve_is_named() -> None:
    source = open_registry_source(ImageReference.parse("registry.invalid/a:1"), options=wire_options())
    message = error_of(source.fetch_manifest, TransferError)
    source.close()
    assert message.startswith(
        "image registry.invalid/a:1: GET https://registry.invalid/v2/a/manifests/1: the host's name can't be"
    )


def test_cookies_are_not_sent_back() -> None:
    """Harbor treats a client with cookies as a browser."""
    with FakeRegistry() as registry:
        source = image_source(registry)
        registry.misbehave("", Fault(headers={"Set-Cookie": "sid=1; Path=/"}))
        source.fetch_manifest()
        source.fetch_manifest()
        source.close()
        assert all("cookie" not in request.headers for request in registry.requests)


def test_one_connection_serves_a_whole_pull() -> None:
    with FakeRegistry(auth="bearer") as registry:
        source = image_source(registry)
        source.fetch_manifest()
        for _ in range(3):
            read_all(source, blob_in(registry))
        source.close()
        assert {request.connection for request in registry.requests} == {1}
