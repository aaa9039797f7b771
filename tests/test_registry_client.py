"""The wire, end to end, against a registry that misbehaves on request."""

from __future__ import annotations

import gzip
import hashlib
import logging
import traceback
from collections.abc import Callable

import pytest

from ociexport import mediatypes
from ociexport.digest import Digest
from ociexport.documents import MAX_MANIFEST_BYTES, Descriptor
from ociexport.errors import (
    AuthenticationError,
    DigestMismatchError,
    LimitExceededError,
    OciexportError,
    RateLimitError,
    RegistryError,
    RegistryNotFoundError,
    SizeMismatchError,
    TransferError,
)
from ociexport.reference import ImageReference
from ociexport.registry.client import RegistrySource, open_registry_source
from ociexport.registry.credentials import Credentials
from ociexport.registry.options import RegistryOptions
from tests.fake_registry import FakeRegistry, Fault, Request

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
BLOB = bytes(range(256)) * 1000
USER = Credentials("user", "pass:word")


def _options(credentials: Credentials | None = None) -> RegistryOptions:
    return RegistryOptions(credentials=credentials, retry_delay_seconds=0, read_timeout_seconds=10)


def _source(registry: FakeRegistry, selector: str = ":1.0", credentials: Credentials | None = None) -> RegistrySource:
    registry.add_manifest("library/app", "1.0", MANIFEST, mediatypes.OCI_MANIFEST)
    reference = ImageReference.parse(f"{registry.host}/library/app{selector}")
    return open_registry_source(reference, options=_options(credentials))


def _blob(registry: FakeRegistry) -> Descriptor:
    return Descriptor(mediatypes.OCI_LAYER_GZIP, registry.add_blob(BLOB), len(BLOB))


def _read_all(source: RegistrySource, descriptor: Descriptor, offset: int = 0, size: int = 7000) -> bytes:
    stream = source.open_blob(descriptor, offset)
    try:
        parts = []
        while part := stream.read(size):
            parts.append(part)
        return b"".join(parts)
    finally:
        stream.close()


def _has_range(request: Request) -> bool:
    return "range" in request.headers


def _error(action: Callable[[], object], kind: type[OciexportError]) -> str:
    """Return the message of the error that ``action`` ends in."""
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    return str(caught.value)


# Manifests


def test_manifest_is_returned_byte_for_byte() -> None:
    """distribution-spec 1.1, "Pulling manifests"."""
    with FakeRegistry() as registry:
        source = _source(registry)
        received = source.fetch_manifest()
        source.close()
        assert (received.raw, received.media_type) == (MANIFEST, mediatypes.OCI_MANIFEST)
        assert received.digest == Digest.of(MANIFEST)
        assert registry.paths() == ["/v2/", "/v2/library/app/manifests/1.0"]


def test_all_four_manifest_types_are_accepted_and_identity_alone() -> None:
    """CONVENTIONS: "Accept always all four"; what is compressed on the way has another digest."""
    with FakeRegistry() as registry:
        source = _source(registry)
        source.fetch_manifest()
        source.close()
        headers = registry.requests[-1].headers
        assert headers["accept"].split(", ") == list(mediatypes.ACCEPTED_MANIFESTS)
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("ociexport/")


def test_digest_in_the_reference_is_asked_for_and_verified() -> None:
    with FakeRegistry() as registry:
        digest = Digest.of(MANIFEST)
        source = _source(registry, f":1.0@{digest}")
        assert source.fetch_manifest().digest == digest
        registry.misbehave("/manifests/", Fault(body=b"{}"))
        message = _error(source.fetch_manifest, DigestMismatchError)
        source.close()
        assert registry.paths()[-1] == f"/v2/library/app/manifests/{digest}"
        assert message == (
            f"image {registry.host}/library/app:1.0@{digest}: digest mismatch: "
            f"expected {digest}, got sha256:{hashlib.sha256(b'{}').hexdigest()}"
        )


def test_descriptor_of_a_manifest_is_verified_in_size_and_digest() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        right = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(MANIFEST), len(MANIFEST))
        assert source.fetch_manifest(right).raw == MANIFEST
        wrong = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(MANIFEST), len(MANIFEST) + 1)
        message = _error(lambda: source.fetch_manifest(wrong), SizeMismatchError)
        source.close()
        size = len(MANIFEST)
        assert message == f"manifest {wrong.digest}: size mismatch: expected {size + 1} bytes, got {size}"


def test_announced_digest_must_be_that_of_the_bytes() -> None:
    """A tag promises nothing about the bytes, so the header is all that there is to compare."""
    with FakeRegistry() as registry:
        source = _source(registry)
        announced = "sha256:" + 64 * "0"
        registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": announced}))
        message = _error(source.fetch_manifest, DigestMismatchError)
        source.close()
        assert message == (
            f"image {registry.host}/library/app:1.0: digest mismatch: expected {announced}, "
            f"as its Docker-Content-Digest announces, got {Digest.of(MANIFEST)}"
        )


@pytest.mark.parametrize("announced", [None, "", "md5:abc", "nonsense"])
def test_announced_digest_may_be_missing_or_unreadable(announced: str | None) -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": announced}))
        assert source.fetch_manifest().digest == Digest.of(MANIFEST)
        source.close()


def test_wrong_announced_digest_does_no_harm_where_the_digest_is_known() -> None:
    """It is compared but never trusted over our own hash."""
    with FakeRegistry() as registry:
        source = _source(registry, f"@{Digest.of(MANIFEST)}")
        registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": "sha256:" + 64 * "0"}))
        assert source.fetch_manifest().raw == MANIFEST
        source.close()


@pytest.mark.parametrize("length_is_told", [True, False])
def test_manifest_of_five_mebibytes_is_refused(length_is_told: bool) -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        headers = {} if length_is_told else {"Content-Length": None, "Connection": "close"}
        registry.misbehave("/manifests/", Fault(body=b" " * (5 << 20), headers=headers))
        message = _error(source.fetch_manifest, LimitExceededError)
        source.close()
        got = 5 << 20 if length_is_told else MAX_MANIFEST_BYTES + 1
        assert message == (
            f"image {registry.host}/library/app:1.0: manifest: expected at most 4194304 bytes, got {got}"
        )


def test_manifest_may_be_named_by_sha512() -> None:
    """image-spec 1.1 descriptor.md, "Registered algorithms"."""
    with FakeRegistry() as registry:
        digest = Digest.of(MANIFEST, "sha512")
        registry.manifests["library/app", str(digest)] = (MANIFEST, mediatypes.OCI_MANIFEST)
        source = _source(registry, f"@{digest}")
        assert source.fetch_manifest().digest == digest
        source.close()


# Blobs


def test_blob_is_read_to_its_end() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        assert _read_all(source, _blob(registry)) == BLOB
        source.close()


def test_blob_is_read_from_an_offset() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        assert _read_all(source, _blob(registry), offset=1000) == BLOB[1000:]
        assert registry.requests[-1].headers["range"] == "bytes=1000-"
        registry.ranges = False
        assert _read_all(source, _blob(registry), offset=1000) == BLOB[1000:]
        source.close()


@pytest.mark.parametrize("fault", [Fault(cut_after=100_000), Fault(reset_after=100_000)])
@pytest.mark.parametrize("ranges", [True, False])
def test_cut_body_goes_on_where_it_ended(fault: Fault, ranges: bool) -> None:
    """PAINS 6 to 8: what arrived is not asked for again, where the server knows ranges."""
    with FakeRegistry(ranges=ranges) as registry:
        source = _source(registry)
        registry.misbehave("/blobs/", fault, times=2)
        assert _read_all(source, _blob(registry)) == BLOB
        source.close()
        asked = [request.headers.get("range") for request in registry.requests if "/blobs/" in request.path]
        assert len(asked) == 3
        assert asked[0] is None
        assert str(asked[1]).startswith("bytes=")


def test_body_without_length_that_is_cut_goes_on() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        fault = Fault(headers={"Content-Length": None, "Connection": "close"}, cut_after=100_000)
        registry.misbehave("/blobs/", fault, times=1)
        assert _read_all(source, _blob(registry)) == BLOB
        source.close()


def test_chunked_body_that_is_cut_goes_on() -> None:
    with FakeRegistry(chunked=True) as registry:
        source = _source(registry)
        registry.misbehave("/blobs/", Fault(cut_after=100_000), times=1)
        assert _read_all(source, _blob(registry)) == BLOB
        source.close()


def test_body_that_is_cut_each_time_ends_in_an_error() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        registry.misbehave("/blobs/", Fault(cut_after=10))
        message = _error(lambda: _read_all(source, descriptor), TransferError)
        source.close()
        url = f"{registry.url}/v2/library/app/blobs/{descriptor.digest}"
        assert message == f"blob {descriptor.digest}: GET {url}: the connection was closed too early"


@pytest.mark.parametrize("content_range", ["bytes 0-10/256000", f"bytes {'9' * 5000}-1/*", "nonsense", None])
def test_part_with_another_beginning_is_not_taken(content_range: str | None) -> None:
    """RFC 9110 15.3.7.1: it would be taken for the missing bytes. All is asked for instead."""
    with FakeRegistry() as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        registry.misbehave("/blobs/", Fault(headers={"Content-Range": content_range}), when=_has_range)
        assert _read_all(source, descriptor, offset=1000) == BLOB[1000:]
        source.close()
        assert [request.headers.get("range") for request in registry.requests[-2:]] == ["bytes=1000-", None]


def test_part_that_nobody_asked_for_is_refused() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        registry.misbehave("/blobs/", Fault(status=206, body=BLOB))
        message = _error(lambda: _read_all(source, descriptor), RegistryError)
        source.close()
        url = f"{registry.url}/v2/library/app/blobs/{descriptor.digest}"
        assert message == f"blob {descriptor.digest}: GET {url}: expected 200 OK, got 206 Partial Content"


@pytest.mark.parametrize("status", [400, 403, 405, 416, 501])
def test_server_that_refuses_ranges_sends_all(status: int) -> None:
    """Some firewalls take a Range for an attack; what they let through is the whole blob."""
    with FakeRegistry() as registry:
        source = _source(registry)
        registry.misbehave("/blobs/", Fault(status=status), when=_has_range)
        assert _read_all(source, _blob(registry), offset=1000) == BLOB[1000:]
        source.close()


def test_blob_that_is_forbidden_with_and_without_range_is_an_error() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        registry.misbehave("/blobs/", Fault(status=403))
        message = _error(lambda: _read_all(source, descriptor, offset=1000), AuthenticationError)
        source.close()
        url = f"{registry.url}/v2/library/app/blobs/{descriptor.digest}"
        assert message == f"blob {descriptor.digest}: GET {url}: 403 Forbidden"
        assert len(registry.paths()) == 3


def test_part_of_another_length_is_refused() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        registry.misbehave("/blobs/", Fault(headers={"Content-Range": "bytes 1000-256000/256001"}))
        message = _error(lambda: _read_all(source, descriptor, offset=1000), SizeMismatchError)
        source.close()
        assert message == f"blob {descriptor.digest}: size mismatch: expected 256000 bytes, got a part of 256001"


def test_compressed_content_encoding_is_refused() -> None:
    """PAINS 11: a body that a proxy has compressed has another digest."""
    with FakeRegistry() as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        registry.misbehave("", Fault(headers={"Content-Encoding": "br"}, change=lambda raw: b"\0" + raw))
        blob_message = _error(lambda: _read_all(source, descriptor), RegistryError)
        manifest_message = _error(source.fetch_manifest, RegistryError)
        source.close()
        told = "Content-Encoding: expected identity, as asked for, got 'br'"
        assert blob_message == f"blob {descriptor.digest}: {told}"
        assert manifest_message == f"image {registry.host}/library/app:1.0: {told}"


@pytest.mark.parametrize("chunked", [True, False])
def test_gzip_that_a_proxy_has_added_is_undone(chunked: bool) -> None:
    """PAINS 11; the length tells that the body is not the blob itself."""
    with FakeRegistry(chunked=chunked) as registry:
        source = _source(registry)
        registry.misbehave("", Fault(headers={"Content-Encoding": "gzip"}, change=gzip.compress))
        assert source.fetch_manifest().raw == MANIFEST
        assert _read_all(source, _blob(registry)) == BLOB
        assert _read_all(source, _blob(registry), offset=1000) == BLOB[1000:]
        source.close()


def test_gzip_that_is_none_is_an_error() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        registry.misbehave("", Fault(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8bnonsense"))
        blob_message = _error(lambda: _read_all(source, descriptor), RegistryError)
        manifest_message = _error(source.fetch_manifest, RegistryError)
        source.close()
        told = "Content-Encoding: expected gzip, as the server says, got something else (Error -3 "
        assert blob_message.startswith(f"blob {descriptor.digest}: {told}")
        assert manifest_message.startswith(f"image {registry.host}/library/app:1.0: {told}")


def test_layer_that_is_called_gzip_by_its_storage_is_taken_as_it_is() -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        registry.misbehave("/blobs/", Fault(headers={"Content-Encoding": "gzip"}))
        assert _read_all(source, _blob(registry)) == BLOB
        source.close()


# Authentication


@pytest.mark.parametrize("member", ["token", "access_token"])
def test_anonymous_token_is_fetched_with_the_service_as_it_is_quoted(member: str) -> None:
    """The service of the challenge holds colons, commas and quotes."""
    with FakeRegistry(auth="bearer", token_member=member) as registry:
        source = _source(registry)
        source.fetch_manifest()
        _read_all(source, _blob(registry))
        source.close()
        token_request = registry.requests[1]
        assert token_request.query["service"] == [registry.service]
        assert token_request.query["scope"] == ["repository:library/app:pull"]
        assert "authorization" not in token_request.headers
        assert [path for path in registry.paths() if path == "/token"] == ["/token"]


def test_token_that_a_proxy_has_compressed_is_read() -> None:
    with FakeRegistry(auth="bearer") as registry:
        registry.misbehave("/token", Fault(change=gzip.compress, headers={"Content-Encoding": "gzip"}))
        source = _source(registry)
        assert source.fetch_manifest().raw == MANIFEST
        source.close()


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_credentials_open_the_registry(auth: str) -> None:
    with FakeRegistry(auth=auth, users={"user": "pass:word"}) as registry:
        source = _source(registry, credentials=USER)
        assert source.fetch_manifest().raw == MANIFEST
        source.close()


def test_registry_token_is_sent_as_it_is() -> None:
    with FakeRegistry() as registry:
        source = _source(registry, credentials=Credentials(registry_token="abc"))
        source.fetch_manifest()
        source.close()
        assert registry.requests[-1].headers["authorization"] == "Bearer abc"


def test_missing_credentials_are_an_authentication_error() -> None:
    with FakeRegistry(auth="basic", users={"user": "pass:word"}) as registry:
        source = _source(registry)
        message = _error(source.fetch_manifest, AuthenticationError)
        source.close()
        url = f"{registry.url}/v2/library/app/manifests/1.0"
        assert message == (
            f"image {registry.host}/library/app:1.0: GET {url}: 401 Unauthorized: UNAUTHORIZED: authentication required"
        )


def test_expired_token_is_renewed_once_in_mid_pull() -> None:
    with FakeRegistry(auth="bearer") as registry:
        source = _source(registry)
        source.fetch_manifest()
        registry.revoke_tokens()
        assert _read_all(source, _blob(registry)) == BLOB
        source.close()
        assert registry.paths().count("/token") == 2


def test_token_is_renewed_before_it_expires() -> None:
    with FakeRegistry(auth="bearer", token_seconds=5) as registry:
        source = _source(registry)
        source.fetch_manifest()
        source.fetch_manifest()
        source.close()
        assert registry.paths()[1:] == ["/token", "/v2/library/app/manifests/1.0"] * 2


def test_endless_401_ends() -> None:
    with FakeRegistry(auth="bearer") as registry:
        source = _source(registry)
        source.fetch_manifest()
        challenge = f'Bearer realm="{registry.url}/token",service="{registry.service[:10]}"'
        registry.service = registry.service[:10]
        registry.misbehave("/manifests/", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        message = _error(source.fetch_manifest, AuthenticationError)
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
    """The seed: a realm on a port that nobody listens on; the user has never heard of this address."""
    with FakeRegistry(auth="bearer", realm="http://127.0.0.1:1/service/token") as registry:
        source = _source(registry)
        with pytest.raises(TransferError) as caught:
            source.fetch_manifest()
        source.close()
        assert str(caught.value) == (
            f"registry {registry.host}: its token service: GET http://127.0.0.1:1/service/token?…: connection refused; "
            "the registry's own token service is misconfigured or unreachable"
        )
        assert caught.value.hint == (
            f"registry {registry.host} sends its clients to http://127.0.0.1:1/service/token for tokens: "
            "tell those who run it"
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
        source = _source(registry)
        registry.misbehave("/token", fault)
        message = _error(source.fetch_manifest, AuthenticationError)
        source.close()
        assert message == f"registry {registry.host}: its token service: GET {registry.url}/token: {told}"


# Redirects


def test_blobs_come_through_a_redirect_that_sees_no_authorization() -> None:
    """PAINS 15: storage answers 400 to an Authorization that is not its own, and must not learn it."""
    with (
        FakeRegistry(address="127.0.0.2") as storage,
        FakeRegistry(auth="bearer", users={"user": "pass:word"}, redirect_to=storage) as registry,
    ):
        source = _source(registry, credentials=USER)
        storage.misbehave("/storage/", Fault(cut_after=100_000), times=1)
        assert _read_all(source, _blob(registry)) == BLOB
        source.close()
        assert [request.headers.get("authorization") for request in storage.requests] == [None, None]
        assert storage.requests[1].headers["range"].startswith("bytes=")


def test_redirects_use_the_same_connections_again() -> None:
    with FakeRegistry() as storage, FakeRegistry(auth="bearer", redirect_to=storage) as registry:
        source = _source(registry)
        for _ in range(3):
            registry.revoke_tokens()
            assert _read_all(source, _blob(registry)) == BLOB
        source.close()
        assert {request.connection for request in registry.requests} == {1}
        assert {request.connection for request in storage.requests} == {1}


def test_authorization_is_not_sent_to_another_port() -> None:
    with FakeRegistry() as storage, FakeRegistry(auth="bearer", redirect_to=storage) as registry:
        source = _source(registry)
        assert _read_all(source, _blob(registry)) == BLOB
        source.close()
        assert "authorization" not in storage.requests[0].headers


def test_signed_query_of_a_redirect_is_in_no_message() -> None:
    with FakeRegistry() as storage, FakeRegistry(redirect_to=storage) as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        storage.misbehave("/storage/", Fault(status=403, body=b"<Error>AccessDenied</Error>"))
        message = _error(lambda: _read_all(source, descriptor), AuthenticationError)
        source.close()
        assert "secret" not in message
        assert f"GET {storage.url}/storage/{descriptor.digest}?…: 403 Forbidden" in message


def test_signed_query_of_a_redirect_is_in_no_traceback() -> None:
    """What a broken connection leaves is shown with all that caused it."""
    with FakeRegistry() as storage, FakeRegistry(redirect_to=storage) as registry:
        source = _source(registry)
        descriptor = _blob(registry)
        storage.misbehave("/storage/", Fault(reset_after=-1))
        with pytest.raises(TransferError) as caught:
            _read_all(source, descriptor)
        source.close()
        lines = "".join(traceback.format_exception(caught.value))
        assert "/storage/" in lines
        assert "very-secret" not in lines


def test_signed_query_of_a_redirect_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 tells each request with its URL to whoever turns on its debug log."""
    with FakeRegistry(address="127.0.0.2") as storage, FakeRegistry(redirect_to=storage) as registry:
        source = _source(registry)
        with caplog.at_level(logging.DEBUG):
            _read_all(source, _blob(registry))
            storage.misbehave("/storage/", Fault(headers={"no colon": "x", "Location": "/y?sig=very-secret"}))
            _read_all(source, _blob(registry))
            logging.getLogger("urllib3.connectionpool").debug("of others: /path?query=kept")
        source.close()
    assert "/storage/" in caplog.text
    assert "very-secret" not in caplog.text
    assert "query=kept" in caplog.text


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("file:///etc/passwd", "expected a redirect to http or https, got 'file:///etc/passwd'"),
        ("javascript:alert(1)", "expected a redirect to http or https, got 'javascript:alert(1)'"),
        ("http://[::1", "expected a redirect to http or https, got 'http://[::1'"),
        ("http://a:99999/x?sig=1", "expected a redirect to http or https, got 'http://a:99999/x'"),
        ("http://a:abc/", "expected a redirect to http or https, got 'http://a:abc/'"),
        ("/v2/library/app/manifests/1.0", "expected at most 10 redirects"),
    ],
)
def test_redirects_are_bounded_and_lead_to_http_only(location: str, told: str) -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        registry.misbehave("/manifests/", Fault(status=307, headers={"Location": location}))
        message = _error(source.fetch_manifest, RegistryError)
        source.close()
        url = f"{registry.url}/v2/library/app/manifests/1.0"
        assert message == f"image {registry.host}/library/app:1.0: GET {url}: {told}"
        assert len(registry.paths()) < 15


# Errors and retries


def test_missing_image_is_not_found() -> None:
    with FakeRegistry() as registry:
        source = _source(registry, ":2.0")
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
        source = _source(registry)
        registry.misbehave("/manifests/", fault)
        message = _error(source.fetch_manifest, kind)
        source.close()
        url = f"{registry.url}/v2/library/app/manifests/1.0"
        assert message == f"image {registry.host}/library/app:1.0: GET {url}: {told}"
        assert len([path for path in registry.paths() if "/manifests/" in path]) == 1


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(status=503), Fault(status=429), Fault(status=408), Fault(reset_after=-1)]
)
def test_passing_errors_are_retried(fault: Fault) -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        registry.misbehave("/manifests/", fault, times=3)
        assert source.fetch_manifest().raw == MANIFEST
        source.close()
        assert len(registry.paths()) == 5


@pytest.mark.parametrize(("status", "kind"), [(503, TransferError), (429, RateLimitError)])
def test_retries_end(status: int, kind: type[RegistryError]) -> None:
    with FakeRegistry() as registry:
        source = _source(registry)
        registry.misbehave("/manifests/", Fault(status=status))
        _error(source.fetch_manifest, kind)
        source.close()
        assert len(registry.paths()) == 5


def test_registry_that_is_down_is_named() -> None:
    with FakeRegistry() as registry:
        host = registry.host
    source = open_registry_source(ImageReference.parse(f"{host}/a:1"), options=_options())
    message = _error(source.fetch_manifest, TransferError)
    source.close()
    assert message == f"registry {host}: GET http://{host}/v2/: connection refused"


def test_name_that_does_not_resolve_is_named() -> None:
    source = open_registry_source(ImageReference.parse("registry.invalid/a:1"), options=_options())
    message = _error(source.fetch_manifest, TransferError)
    source.close()
    assert message.startswith("registry registry.invalid: GET https://registry.invalid/v2/: the host's name can't be")


def test_cookies_are_not_sent_back() -> None:
    """Harbor takes a client with cookies for a browser."""
    with FakeRegistry() as registry:
        source = _source(registry)
        registry.misbehave("", Fault(headers={"Set-Cookie": "sid=1; Path=/"}))
        source.fetch_manifest()
        source.fetch_manifest()
        source.close()
        assert all("cookie" not in request.headers for request in registry.requests)


def test_one_connection_serves_a_whole_pull() -> None:
    with FakeRegistry(auth="bearer") as registry:
        source = _source(registry)
        source.fetch_manifest()
        for _ in range(3):
            _read_all(source, _blob(registry))
        source.close()
        assert {request.connection for request in registry.requests} == {1}
