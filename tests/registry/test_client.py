"""Manifests and blobs end to end, from a registry that misbehaves on request."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from ociexport.errors import (
    AuthenticationError,
    DigestMismatchError,
    LimitExceededError,
    RegistryError,
    SizeMismatchError,
    TransferError,
)
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import Digest
from tests.support.fake_registry import FakeRegistry, Fault, Request
from tests.support.wire_images import BLOB, MANIFEST, blob_in, error_of, image_source, read_all


def _has_range(request: Request) -> bool:
    return "range" in request.headers


# Manifests


def test_manifest_is_returned_byte_for_byte() -> None:
    """distribution-spec 1.1, "Pulling manifests"."""
    with FakeRegistry() as registry:
        source = image_source(registry)
        received = source.fetch_manifest()
        source.close()
        assert (received.raw, received.media_type) == (MANIFEST, mediatypes.OCI_MANIFEST)
        assert received.digest == Digest.of(MANIFEST)
        assert registry.paths() == ["/v2/library/app/manifests/1.0"]


def test_all_four_manifest_types_are_accepted_and_identity_alone() -> None:
    """CONVENTIONS: "Accept always all four"; compression on the way changes the digest."""
    with FakeRegistry() as registry:
        source = image_source(registry)
        source.fetch_manifest()
        source.close()
        headers = registry.requests[-1].headers
        assert headers["accept"].split(", ") == list(mediatypes.ACCEPTED_MANIFESTS)
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("ociexport/")


def test_digest_in_the_reference_is_asked_for_and_verified() -> None:
    with FakeRegistry() as registry:
        digest = Digest.of(MANIFEST)
        source = image_source(registry, f":1.0@{digest}")
        assert source.fetch_manifest().digest == digest
        registry.misbehave("/manifests/", Fault(body=b"{}"))
        message = error_of(source.fetch_manifest, DigestMismatchError)
        source.close()
        assert registry.paths()[-1] == f"/v2/library/app/manifests/{digest}"
        assert message == (
            f"image {registry.host}/library/app:1.0@{digest}: digest mismatch: "
            f"expected {digest}, got sha256:{hashlib.sha256(b'{}').hexdigest()}"
        )


def test_descriptor_of_a_manifest_is_verified_in_size_and_digest() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        right = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(MANIFEST), len(MANIFEST))
        assert source.fetch_manifest(right).raw == MANIFEST
        wrong = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(MANIFEST), len(MANIFEST) + 1)
        message = error_of(lambda: source.fetch_manifest(wrong), SizeMismatchError)
        source.close()
        size = len(MANIFEST)
        assert message == f"manifest {wrong.digest}: size mismatch: expected {size + 1} bytes, got {size}"


def test_announced_digest_must_be_that_of_the_bytes() -> None:
    """A tag declares no digest, so the header is the only one to compare with."""
    with FakeRegistry() as registry:
        source = image_source(registry)
        announced = "sha256:" + 64 * "0"
        registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": announced}))
        message = error_of(source.fetch_manifest, DigestMismatchError)
        source.close()
        assert message == (
            f"image {registry.host}/library/app:1.0: digest mismatch: expected {announced}, "
            f"from the Docker-Content-Digest header, got {Digest.of(MANIFEST)}"
        )


@pytest.mark.parametrize("announced", [None, "", "md5:abc", "nonsense"])
def test_announced_digest_may_be_missing_or_unreadable(announced: str | None) -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": announced}))
        assert source.fetch_manifest().digest == Digest.of(MANIFEST)
        source.close()


def test_wrong_announced_digest_does_no_harm_where_the_digest_is_known() -> None:
    """The header is compared, but our own digest decides."""
    with FakeRegistry() as registry:
        source = image_source(registry, f"@{Digest.of(MANIFEST)}")
        registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": "sha256:" + 64 * "0"}))
        assert source.fetch_manifest().raw == MANIFEST
        source.close()


@pytest.mark.parametrize("length_is_told", [True, False])
def test_manifest_of_five_mebibytes_is_refused(length_is_told: bool) -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        headers = {} if length_is_told else {"Content-Length": None, "Connection": "close"}
        registry.misbehave("/manifests/", Fault(body=b" " * (5 << 20), headers=headers))
        message = error_of(source.fetch_manifest, LimitExceededError)
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
        source = image_source(registry, f"@{digest}")
        assert source.fetch_manifest().digest == digest
        source.close()


# Blobs


def test_blob_is_read_to_its_end() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        assert read_all(source, blob_in(registry)) == BLOB
        source.close()


def test_blob_is_read_from_an_offset() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        assert read_all(source, blob_in(registry), offset=1000) == BLOB[1000:]
        assert registry.requests[-1].headers["range"] == "bytes=1000-"
        registry.ranges = False
        assert read_all(source, blob_in(registry), offset=1000) == BLOB[1000:]
        source.close()


@pytest.mark.parametrize("fault", [Fault(cut_after=100_000), Fault(reset_after=100_000)])
@pytest.mark.parametrize("ranges", [True, False])
def test_cut_body_goes_on_where_it_ended(fault: Fault, ranges: bool) -> None:
    """PAINS 6 to 8: bytes received are not requested again, if the server supports ranges."""
    with FakeRegistry(ranges=ranges) as registry:
        source = image_source(registry)
        registry.misbehave("/blobs/", fault, times=2)
        assert read_all(source, blob_in(registry)) == BLOB
        source.close()
        asked = [request.headers.get("range") for request in registry.requests if "/blobs/" in request.path]
        assert len(asked) == 3
        assert asked[0] is None
        assert str(asked[1]).startswith("bytes=")


def test_body_without_length_that_is_cut_goes_on() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        fault = Fault(headers={"Content-Length": None, "Connection": "close"}, cut_after=100_000)
        registry.misbehave("/blobs/", fault, times=1)
        assert read_all(source, blob_in(registry)) == BLOB
        source.close()


def test_chunked_body_that_is_cut_goes_on() -> None:
    with FakeRegistry(chunked=True) as registry:
        source = image_source(registry)
        registry.misbehave("/blobs/", Fault(cut_after=100_000), times=1)
        assert read_all(source, blob_in(registry)) == BLOB
        source.close()


def test_body_that_is_cut_each_time_ends_in_an_error() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        registry.misbehave("/blobs/", Fault(cut_after=10))
        message = error_of(lambda: read_all(source, descriptor), TransferError)
        source.close()
        url = f"{registry.url}/v2/library/app/blobs/{descriptor.digest}"
        assert message == f"blob {descriptor.digest}: GET {url}: the connection was closed too early"


@pytest.mark.parametrize("content_range", ["bytes 0-10/256000", f"bytes {'9' * 5000}-1/*", "nonsense", None])
def test_part_with_another_beginning_is_not_taken(content_range: str | None) -> None:
    """RFC 9110 15.3.7.1: it would be taken for the missing bytes. The whole blob is requested instead."""
    with FakeRegistry() as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        registry.misbehave("/blobs/", Fault(headers={"Content-Range": content_range}), when=_has_range)
        assert read_all(source, descriptor, offset=1000) == BLOB[1000:]
        source.close()
        assert [request.headers.get("range") for request in registry.requests[-2:]] == ["bytes=1000-", None]


def test_part_that_nobody_asked_for_is_refused() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        registry.misbehave("/blobs/", Fault(status=206, body=BLOB))
        message = error_of(lambda: read_all(source, descriptor), RegistryError)
        source.close()
        url = f"{registry.url}/v2/library/app/blobs/{descriptor.digest}"
        assert message == f"blob {descriptor.digest}: GET {url}: expected 200 OK, got 206 Partial Content"


@pytest.mark.parametrize("status", [400, 403, 405, 416, 501])
def test_server_that_refuses_ranges_sends_all(status: int) -> None:
    """Some firewalls take a Range for an attack, and pass only requests for the whole blob."""
    with FakeRegistry() as registry:
        source = image_source(registry)
        registry.misbehave("/blobs/", Fault(status=status), when=_has_range)
        assert read_all(source, blob_in(registry), offset=1000) == BLOB[1000:]
        source.close()


def test_blob_that_is_forbidden_with_and_without_range_is_an_error() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        registry.misbehave("/blobs/", Fault(status=403))
        message = error_of(lambda: read_all(source, descriptor, offset=1000), AuthenticationError)
        source.close()
        url = f"{registry.url}/v2/library/app/blobs/{descriptor.digest}"
        assert message == f"blob {descriptor.digest}: GET {url}: 403 Forbidden"
        assert len(registry.paths()) == 3


def test_part_of_another_length_is_refused() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        registry.misbehave("/blobs/", Fault(headers={"Content-Range": "bytes 1000-256000/256001"}))
        message = error_of(lambda: read_all(source, descriptor, offset=1000), SizeMismatchError)
        source.close()
        assert message == f"blob {descriptor.digest}: size mismatch: expected 256000 bytes, got a part of 256001"


def test_compressed_content_encoding_is_refused() -> None:
    """PAINS 11: a body compressed by a proxy has another digest."""
    with FakeRegistry() as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        registry.misbehave("", Fault(headers={"Content-Encoding": "br"}, change=lambda raw: b"\0" + raw))
        blob_message = error_of(lambda: read_all(source, descriptor), RegistryError)
        manifest_message = error_of(source.fetch_manifest, RegistryError)
        source.close()
        told = "Content-Encoding: expected identity, as requested, got 'br'"
        assert blob_message == f"blob {descriptor.digest}: {told}"
        assert manifest_message == f"image {registry.host}/library/app:1.0: {told}"


@pytest.mark.parametrize("chunked", [True, False])
def test_gzip_that_a_proxy_has_added_is_undone(chunked: bool) -> None:
    """PAINS 11; the length shows that the body is not the blob itself."""
    with FakeRegistry(chunked=chunked) as registry:
        source = image_source(registry)
        registry.misbehave("", Fault(headers={"Content-Encoding": "gzip"}, change=gzip.compress))
        assert source.fetch_manifest().raw == MANIFEST
        assert read_all(source, blob_in(registry)) == BLOB
        assert read_all(source, blob_in(registry), offset=1000) == BLOB[1000:]
        source.close()


def test_gzip_that_is_none_is_an_error() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        descriptor = blob_in(registry)
        registry.misbehave("", Fault(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8bnonsense"))
        blob_message = error_of(lambda: read_all(source, descriptor), RegistryError)
        manifest_message = error_of(source.fetch_manifest, RegistryError)
        source.close()
        told = "Content-Encoding: expected gzip, as declared, got other data (Error -3 "
        assert blob_message.startswith(f"blob {descriptor.digest}: {told}")
        assert manifest_message.startswith(f"image {registry.host}/library/app:1.0: {told}")


def test_layer_that_is_called_gzip_by_its_storage_is_taken_as_it_is() -> None:
    with FakeRegistry() as registry:
        source = image_source(registry)
        registry.misbehave("/blobs/", Fault(headers={"Content-Encoding": "gzip"}))
        assert read_all(source, blob_in(registry)) == BLOB
        source.close()
