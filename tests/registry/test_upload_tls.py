"""Uploads over TLS, and to a registry behind a proxy that does not know that it is reached by https."""

from __future__ import annotations

from pathlib import Path

from ociexport.registry.options import Credentials
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.pusher import BLOB, MIB, Pusher, assert_arrived
from tests.support.tls import Authority


def test_a_blob_is_uploaded_and_continued_over_tls(tmp_path: Path) -> None:
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context(), auth="bearer") as registry:
        registry.uploads.cut_after(24 * MIB)
        Pusher(registry, ca_file=authority.ca_file)()
        assert_arrived(registry)
        assert registry.uploads.received_bytes <= len(BLOB) + 16 * MIB


def test_a_location_with_http_of_the_same_registry_stays_on_https(tmp_path: Path) -> None:
    """A registry behind a proxy that ends TLS names itself with http; its URL here has no port."""
    authority = Authority.new(tmp_path)
    with FakeRegistry(tls=authority.server_context(), auth="basic", users={"user": "pass"}) as registry:
        registry.uploads._open["upload-1"] = bytearray()
        headers = {"Location": "http://127.0.0.1/v2/team/app/blobs/uploads/upload-1"}
        registry.misbehave("/uploads/", Fault(status=202, headers=headers), method="POST")
        Pusher(registry, ca_file=authority.ca_file, credentials=Credentials("user", "pass"))()
        assert_arrived(registry)
        assert "authorization" in registry.requests[-1].headers
