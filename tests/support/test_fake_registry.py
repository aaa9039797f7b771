"""The fake registry behaves as documented; the tests of the wire depend on it."""

from __future__ import annotations

import http.client
import json

import pytest

from ociexport.spec import mediatypes
from tests.support.fake_registry import FakeRegistry, Fault


def _get(registry: FakeRegistry, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(registry.host, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_gives_what_it_was_given() -> None:
    with FakeRegistry() as registry:
        layer = registry.add_blob(b"layer")
        digest = registry.add_manifest("library/app", "1.0", b"{}", mediatypes.OCI_MANIFEST)
        assert _get(registry, f"/v2/library/app/blobs/{layer}")[2] == b"layer"
        status, headers, body = _get(registry, "/v2/library/app/manifests/1.0")
        assert (status, headers["docker-content-digest"], body) == (200, str(digest), b"{}")
        assert _get(registry, f"/v2/library/app/manifests/{digest}")[2] == b"{}"
        assert json.loads(_get(registry, "/v2/library/app/manifests/2.0")[2])["errors"][0]["code"] == "MANIFEST_UNKNOWN"
        assert json.loads(_get(registry, "/v2/other/manifests/2.0")[2])["errors"][0]["code"] == "NAME_UNKNOWN"
        assert registry.paths()[0] == f"/v2/library/app/blobs/{layer}"


def test_ranges_are_served_or_refused() -> None:
    with FakeRegistry() as registry:
        layer = registry.add_blob(b"0123456789")
        status, headers, body = _get(registry, f"/v2/a/blobs/{layer}", Range="bytes=4-")
        assert (status, headers["content-range"], body) == (206, "bytes 4-9/10", b"456789")
        assert _get(registry, f"/v2/a/blobs/{layer}", Range="bytes=10-")[0] == 416
        registry.ranges = False
        assert _get(registry, f"/v2/a/blobs/{layer}", Range="bytes=4-")[2] == b"0123456789"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(cut_after=3), http.client.IncompleteRead),
        (Fault(reset_after=3), ConnectionResetError),
        (Fault(reset_after=-1), ConnectionResetError),
    ],
)
def test_connections_break_as_asked(fault: Fault, error: type[Exception]) -> None:
    with FakeRegistry() as registry:
        layer = registry.add_blob(b"0123456789")
        registry.misbehave("/blobs/", fault, times=1)
        with pytest.raises(error):
            _get(registry, f"/v2/a/blobs/{layer}")
        assert _get(registry, f"/v2/a/blobs/{layer}")[2] == b"0123456789"


def test_storage_on_another_host_refuses_authorization() -> None:
    with FakeRegistry(address="127.0.0.2") as storage, FakeRegistry(redirect_to=storage) as registry:
        layer = registry.add_blob(b"layer")
        status, headers, _ = _get(registry, f"/v2/a/blobs/{layer}")
        assert (status, headers["location"]) == (307, f"{storage.url}/storage/{layer}?X-Signature=very-secret")
        assert _get(storage, f"/storage/{layer}")[2] == b"layer"
        assert _get(storage, f"/storage/{layer}", Authorization="Bearer x")[0] == 400


def test_bearer_is_asked_for_and_given() -> None:
    with FakeRegistry(auth="bearer", service="plain", token_member="access_token") as registry:
        registry.add_manifest("library/app", "1.0", b"{}", mediatypes.OCI_MANIFEST)
        status, headers, _ = _get(registry, "/v2/library/app/manifests/1.0")
        scope = "repository:library/app:pull"
        assert status == 401
        assert headers["www-authenticate"] == f'Bearer realm="{registry.url}/token",service="plain",scope="{scope}"'
        token = json.loads(_get(registry, f"/token?service=plain&scope={scope}")[2])["access_token"]
        assert _get(registry, "/v2/library/app/manifests/1.0", Authorization=f"Bearer {token}")[2] == b"{}"


def test_chunked_bodies_have_no_length() -> None:
    with FakeRegistry(chunked=True) as registry:
        layer = registry.add_blob(b"layer" * 100_000)
        _, headers, body = _get(registry, f"/v2/a/blobs/{layer}")
        assert "content-length" not in headers
        assert body == b"layer" * 100_000
