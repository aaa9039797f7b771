"""Pulling when a registry fails: mirrors, foreign layers, and which server may receive which headers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.errors import DigestMismatchError, RegistryError, RegistryNotFoundError
from ociexport.registry.client import RegistryClient
from ociexport.registry.options import Credentials, Mirror, RegistryOptions
from ociexport.registry.source import RegistrySource
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.display import PlainProgress
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.registry_image import open_registry_source

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
BLOB = bytes(range(256)) * 1000
LAYER = Descriptor(mediatypes.OCI_LAYER_GZIP, Digest.of(BLOB), len(BLOB))


def fill(*registries: FakeRegistry) -> None:
    for registry in registries:
        registry.add_manifest("library/app", "1.0", MANIFEST, mediatypes.OCI_MANIFEST)
        registry.add_blob(BLOB)


@contextmanager
def mirrored_source(
    registry: FakeRegistry | str, *mirrors: FakeRegistry, **options: object
) -> Iterator[RegistrySource]:
    host = registry if isinstance(registry, str) else registry.host
    settings = {
        "retry_delay_seconds": 0,
        "read_timeout_seconds": 10,
        "mirrors": tuple(Mirror(mirror.url) for mirror in mirrors),
        **options,
    }
    source = open_registry_source(
        ImageReference.parse(f"{host}/library/app:1.0"),
        options=RegistryOptions(**settings),  # type: ignore[arg-type]
        progress=PlainProgress(),
    )
    try:
        yield source
    finally:
        source.close()


def read_all(source: RegistrySource, descriptor: Descriptor = LAYER) -> bytes:
    stream = source.open_blob(descriptor)
    try:
        return b"".join(iter(lambda: stream.read(50_000), b""))
    finally:
        stream.close()


# Mirrors


def test_mirror_serves_what_it_has() -> None:
    with FakeRegistry() as mirror, FakeRegistry() as registry:
        fill(mirror, registry)
        with mirrored_source(registry, mirror) as source:
            assert source.fetch_manifest().raw == MANIFEST
            assert read_all(source) == BLOB
            assert source.served_by == {Digest.of(MANIFEST): mirror.host, LAYER.digest: mirror.host}
        assert registry.requests == []
        assert {request.query["ns"][0] for request in mirror.requests[1:]} == {registry.host}


def test_receipt_tells_who_served_what(tmp_path: Path) -> None:
    image = build_image([[member("etc/hostname", b"box\n")]])
    with FakeRegistry() as mirror, FakeRegistry() as registry:
        for each in (mirror, registry):
            image.serve(each, "library/app", "1.0")
        mirror.misbehave(f"/blobs/{image.config.digest}", Fault(status=404))
        words = ["unpack", "-q", "--mirror", mirror.url, "--receipt", str(tmp_path / "receipt.json")]
        assert main([*words, "--platform", "linux/amd64", f"{registry.host}/library/app:1.0", str(tmp_path / "r")]) == 0
        assert json.loads((tmp_path / "receipt.json").read_bytes())["servedBy"] == {
            str(image.digest): mirror.host,
            str(image.config.digest): registry.host,
            str(image.layers[0].digest): mirror.host,
        }


def test_mirror_without_the_image_is_passed_over_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry() as mirror, FakeRegistry() as registry:
        fill(registry)
        with mirrored_source(registry, mirror) as source:
            assert source.fetch_manifest().raw == MANIFEST
            assert source.served_by == {Digest.of(MANIFEST): registry.host}
        url = f"{mirror.url}/v2/library/app/manifests/1.0?…"
        assert capsys.readouterr().err.splitlines() == [
            f"ociexport: skipping mirror {mirror.host}: image {registry.host}/library/app:1.0: GET {url}: "
            "404 Not Found: NAME_UNKNOWN: repository name not known to registry"
        ]


def test_mirror_that_is_down_is_asked_once(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeRegistry() as mirror:
        pass
    url = f"http://{mirror.address}:1"
    with FakeRegistry() as registry:
        fill(registry)
        with mirrored_source(registry, mirrors=(Mirror(url),)) as source:
            assert source.fetch_manifest().raw == MANIFEST
            assert read_all(source) == BLOB
        reference = f"{registry.host}/library/app:1.0"
    assert capsys.readouterr().err.splitlines() == [
        f"ociexport: skipping mirror 127.0.0.1:1: image {reference}: "
        f"GET {url}/v2/library/app/manifests/1.0?…: connection refused"
    ]


@pytest.mark.parametrize("fault", [Fault(body=b"{}"), Fault(status=500), Fault(status=401), Fault(reset_after=-1)])
def test_manifest_of_a_bad_mirror_is_passed_over(fault: Fault) -> None:
    with FakeRegistry() as mirror, FakeRegistry() as registry:
        fill(mirror, registry)
        mirror.misbehave("/manifests/", fault)
        with mirrored_source(registry, mirror) as source:
            assert source.fetch_manifest().raw == MANIFEST
            assert source.served_by[Digest.of(MANIFEST)] == registry.host


def test_blob_that_a_mirror_breaks_off_for_good_goes_on_at_the_registry() -> None:
    with FakeRegistry() as mirror, FakeRegistry() as registry:
        fill(mirror, registry)
        mirror.misbehave("/blobs/", Fault(cut_after=100_000), times=1)
        mirror.misbehave("/blobs/", Fault(status=500))
        with mirrored_source(registry, mirror) as source:
            assert read_all(source) == BLOB
            assert source.served_by[LAYER.digest] == registry.host
        assert registry.requests[-1].headers["range"] == "bytes=100000-"


def test_mirror_that_gave_wrong_bytes_is_not_asked_for_them_again() -> None:
    """After a digest mismatch the blob is opened again, now from the registry."""
    with FakeRegistry() as mirror, FakeRegistry() as registry:
        fill(mirror, registry)
        mirror.misbehave("/blobs/", Fault(change=lambda raw: b"x" + raw[1:]))
        with mirrored_source(registry, mirror) as source:
            assert read_all(source) != BLOB
            assert read_all(source) == BLOB


def test_mirror_that_gave_some_of_the_wrong_bytes_is_not_asked_again_either() -> None:
    """The mirror breaks off and the registry serves the rest; the mirror is to blame, not the last server."""
    with FakeRegistry() as mirror, FakeRegistry() as registry:
        fill(mirror, registry)
        mirror.misbehave("/blobs/", Fault(change=lambda raw: b"x" + raw[1:], cut_after=100_000), times=1)
        mirror.misbehave("/blobs/", Fault(status=404), times=1)
        mirror.misbehave("/blobs/", Fault(change=lambda raw: b"x" + raw[1:]))
        with mirrored_source(registry, mirror) as source:
            assert read_all(source) != BLOB
            assert read_all(source) == BLOB


def test_tag_that_has_moved_is_asked_for_where_it_is(tmp_path: Path) -> None:
    """containers-registries.conf(5): a prefix may be a single image, and its location another tag or digest."""
    conf = tmp_path / "registries.conf"
    with FakeRegistry() as registry:
        fill(registry)
        for there in (":1.0", f"@{Digest.of(MANIFEST)}"):
            location = f"{registry.host}/library/app{there}"
            conf.write_text(f'[[registry]]\nprefix = "moved.example/library/app:1.0"\nlocation = "{location}"')
            with mirrored_source("moved.example", registries_conf=conf) as source:
                assert source.fetch_manifest().digest == Digest.of(MANIFEST)
                assert read_all(source) == BLOB
            assert registry.paths()[-2] == f"/v2/library/app/manifests/{there[1:]}"
        registry.misbehave("/manifests/", Fault(body=b"{}"))
        with mirrored_source("moved.example", registries_conf=conf) as source, pytest.raises(DigestMismatchError):
            source.fetch_manifest()


def test_errors_of_the_registry_itself_are_raised() -> None:
    with FakeRegistry() as mirror, FakeRegistry() as registry:
        fill(mirror, registry)
        for each in (mirror, registry):
            each.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": "sha256:" + 64 * "0"}))
        with mirrored_source(registry, mirror) as source, pytest.raises(DigestMismatchError):
            source.fetch_manifest()


def test_given_credentials_are_not_shown_to_a_mirror() -> None:
    with (
        FakeRegistry(auth="basic", users={"user": "pass"}) as mirror,
        FakeRegistry(auth="basic", users={"user": "pass"}) as registry,
    ):
        fill(mirror, registry)
        with mirrored_source(registry, mirror, credentials=Credentials("user", "pass")) as source:
            assert source.fetch_manifest().raw == MANIFEST
        assert all("authorization" not in request.headers for request in mirror.requests)


def test_several_sources_share_connections_and_need_no_ping() -> None:
    with FakeRegistry() as registry:
        fill(registry)
        client = RegistryClient()
        reference = ImageReference.parse(f"{registry.host}/library/app:1.0")
        for _ in range(3):
            source = open_registry_source(reference, client=client)
            source.fetch_manifest()
            source.close()
        client.close()
        assert registry.paths().count("/v2/") == 0
        assert {request.connection for request in registry.requests} == {1}


# URLs that a remote registry may not name: addresses of this machine


@pytest.mark.parametrize(
    "realm", ["http://127.0.0.1:1/token", "http://169.254.169.254/token", "http://localhost/token", "http://[::1]/t"]
)
def test_realm_on_this_machine_is_refused(registry_elsewhere: FakeRegistry, realm: str) -> None:
    registry = registry_elsewhere
    registry.realm = realm
    with mirrored_source("registry.example", plain_http=True) as source, pytest.raises(RegistryError) as caught:
        source.fetch_manifest()
    host = realm.split("/")[2].split(":1/", maxsplit=1)[0].removesuffix(":1") if "[" not in realm else "::1"
    assert str(caught.value) == (
        f"registry registry.example: its token service: {realm}?…: "
        f"a registry on another host may not send its clients to {host}"
    )


def test_realm_elsewhere_is_asked(registry_elsewhere: FakeRegistry) -> None:
    registry = registry_elsewhere
    fill(registry)
    registry.realm = "http://auth.example/token"
    with mirrored_source("registry.example", plain_http=True) as source:
        assert source.fetch_manifest().raw == MANIFEST


def test_redirect_to_this_machine_is_refused(registry_elsewhere: FakeRegistry) -> None:
    registry = registry_elsewhere
    registry.auth = None
    registry.misbehave("/blobs/", Fault(status=307, headers={"Location": "http://127.0.0.1:1/secrets"}))
    with mirrored_source("registry.example", plain_http=True) as source, pytest.raises(RegistryError) as caught:
        read_all(source)
    assert str(caught.value) == (
        f"blob {LAYER.digest}: http://127.0.0.1:1/secrets: "
        "a registry on another host may not send its clients to 127.0.0.1"
    )


# Foreign layers


def _foreign(*urls: str) -> Descriptor:
    return Descriptor(mediatypes.DOCKER_FOREIGN_LAYER_GZIP, LAYER.digest, LAYER.size, urls=urls)


def test_foreign_layer_is_named_where_it_is_not_wanted() -> None:
    with FakeRegistry() as registry, mirrored_source(registry) as source:
        with pytest.raises(RegistryNotFoundError) as caught:
            read_all(source, _foreign("https://cdn.example/layer?sig=secret"))
        assert caught.value.hint == (
            "a foreign layer, which its registry does not store; "
            "--foreign fetches it from 'https://cdn.example/layer?…'"
        )


def test_foreign_layer_is_fetched_from_the_first_url_that_has_it() -> None:
    with FakeRegistry() as registry, FakeRegistry(address="127.0.0.2") as elsewhere:
        elsewhere.add_blob(BLOB)
        elsewhere.misbehave("/storage/", Fault(cut_after=100_000), times=1)
        urls = (
            "ftp://x/",
            "http://[x/",
            "http://a:99999/",
            f"{elsewhere.url}/none",
            f"{elsewhere.url}/storage/{LAYER.digest}",
        )
        with mirrored_source(registry, foreign=True) as source:
            assert read_all(source, _foreign(*urls)) == BLOB
        assert all("authorization" not in request.headers for request in elsewhere.requests)


def test_foreign_layer_that_is_nowhere_is_named() -> None:
    with FakeRegistry() as registry, mirrored_source(registry) as source:
        with pytest.raises(RegistryNotFoundError) as caught:
            read_all(source, _foreign("http://[x?sig=secret"))
        assert caught.value.hint == (
            "a foreign layer, which its registry does not store; --foreign fetches it from 'http://[x'"
        )


def test_foreign_layer_on_this_machine_is_refused(registry_elsewhere: FakeRegistry) -> None:
    registry_elsewhere.auth = None
    with (
        mirrored_source("registry.example", plain_http=True, foreign=True) as source,
        pytest.raises(RegistryError) as caught,
    ):
        read_all(source, _foreign("http://169.254.169.254/latest/meta-data"))
    assert str(caught.value) == (
        f"foreign layer {LAYER.digest}: http://169.254.169.254/latest/meta-data: "
        "a registry on another host may not send its clients to 169.254.169.254"
    )
