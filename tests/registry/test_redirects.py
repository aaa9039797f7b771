"""Redirects: which server gets which headers, and that no message shows the query of a signed URL."""

from __future__ import annotations

import logging
import traceback

import pytest

from ociexport.errors import (
    AuthenticationError,
    RegistryError,
    TransferError,
)
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.wire_images import BLOB, USER, blob_in, error_of, image_source, read_all


def test_blobs_come_through_a_redirect_that_sees_no_authorization() -> None:
    """PAINS 15: storage answers 400 to an Authorization meant for another server, and must not learn it."""
    with (
        FakeRegistry(address="127.0.0.2") as storage,
        FakeRegistry(auth="bearer", users={"user": "pass:word"}, redirect_to=storage) as registry,
    ):
        source = image_source(registry, credentials=USER)
        storage.misbehave("/storage/", Fault(cut_after=100_000), times=1)
        assert read_all(source, blob_in(registry)) == BLOB
        source.close()
        assert [request.headers.get("authorization") for request in storage.requests] == [None, None]
        assert storage.requests[1].headers["range"].startswith("bytes=")


def test_redirects_use_the_same_connections_again() -> None:
    with FakeRegistry() as storage, FakeRegistry(auth="bearer", redirect_to=storage) as registry:
        source = image_source(registry)
        for _ in range(3):
            registry.revoke_tokens()
            assert read_all(source, blob_in(registry)) == BLOB
        source.close()
        assert {request.connection for request in registry.requests} == {1}
        assert {request.connection for request in storage.requests} == {1}


def test_authorization_is_not_sent_to_another_port() -> None:
    with FakeRegistry() as storage, FakeRegistry(auth="bearer", redirect_to=storage) as registry:
        source = image_source(registry)
        assert read_all(source, blob_in(registry)) == BLOB
        source.close()
        assert "authorization" not in storage.requests[0].headers


def test_signed_query_of_a_redirect_is_in_no_message() -> None:
    with FakeRegistry() as storage, FakeRegistry(redirect_to=storage) as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        storage.misbehave("/storage/", Fault(status=403, body=b"<Error>AccessDenied</Error>"))
        message = error_of(lambda: read_all(source, descriptor), AuthenticationError)
        source.close()
        assert "secret" not in message
        assert f"GET {storage.url}/storage/{descriptor.digest}?…: 403 Forbidden" in message


def test_signed_query_of_a_redirect_is_in_no_traceback() -> None:
    """A traceback shows the error of a broken connection with all its causes."""
    with FakeRegistry() as storage, FakeRegistry(redirect_to=storage) as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        storage.misbehave("/storage/", Fault(reset_after=-1))
        with pytest.raises(TransferError) as caught:
            read_all(source, descriptor)
        source.close()
        lines = "".join(traceback.format_exception(caught.value))
        assert "/storage/" in lines
        assert "very-secret" not in lines


def test_signed_query_of_a_redirect_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 writes each request with its URL to its debug log."""
    with FakeRegistry(address="127.0.0.2") as storage, FakeRegistry(redirect_to=storage) as registry:
        source = image_source(registry)
        with caplog.at_level(logging.DEBUG):
            read_all(source, blob_in(registry))
            storage.misbehave("/storage/", Fault(headers={"no colon": "x", "Location": "/y?sig=very-secret"}))
            read_all(source, blob_in(registry))
            logging.getLogger("urllib3.connectionpool").debug("of others: /path?query=kept")
        source.close()
    assert "/storage/" in caplog.text
    assert "very-secret" not in caplog.text
    assert "query=kept" in caplog.text


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (
            "file:///etc/passwd",
            "WEB, got 'file:///etc/passwd'",
        ),
        (
            "javascript:alert(1)",
            "WEB, got 'javascript:alert(1)'",
        ),
        ("http://[::1", "WEB, got 'http://[::1'"),
        (
            "http://a:99999/x?sig=1",
            "WEB, got 'http://a:99999/x'",
        ),
        ("http://a:abc/", "WEB, got 'http://a:abc/'"),
        ("http://registry.example\\@127.0.0.1/x", "WEB, got 'http://127.0.0.1/x'"),
        ("/v2/library/app/manifests/1.0", "expected at most 10 redirects"),
    ],
)
def test_redirects_are_bounded_and_lead_to_http_only(location: str, told: str) -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        registry.misbehave("/manifests/", Fault(status=307, headers={"Location": location}))
        message = error_of(source.fetch_manifest, RegistryError)
        source.close()
        url = f"{registry.url}/v2/library/app/manifests/1.0"
        told = told.replace("WEB", "expected a redirect to http or https and a plain host[:port]")
        assert message == f"image {registry.host}/library/app:1.0: GET {url}: {told}"
        assert len(registry.paths()) < 15
