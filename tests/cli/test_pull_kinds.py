"""Images of all shapes, by the real command: each blob once, in the right place, byte for byte (issue: answers of all
kinds)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ociexport.spec.digest import Digest
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_image, build_index, descriptor_of
from tests.support.memory_source import member
from tests.support.puller import Puller

LAYERS = [[member("a", b"1" * 3000)], [member("b", b"2" * 5000)]]


def fetched(registry: FakeRegistry) -> list[str]:
    return [path.rpartition("/")[2] for path in registry.paths() if "/blobs/" in path]


def assert_is_there(puller: Puller, image: BuiltImage) -> None:
    for digest, raw in image.blobs.items():
        assert (puller.layout / "blobs" / digest.algorithm / digest.encoded).read_bytes() == raw


def test_blobs_may_go_by_sha512(puller: Puller) -> None:
    """image-spec 1.1 descriptor.md, "Registered algorithms"."""
    plain = build_image(LAYERS)

    def rename(manifest: dict[str, Any]) -> None:
        for item in [manifest["config"], *manifest["layers"]]:
            item["digest"] = str(Digest.of(plain.blobs[Digest.parse(item["digest"])], "sha512"))

    image = build_image(LAYERS, edit_manifest=rename)
    assert puller(image.serve(puller.registry, "app", "1")).code == 0
    names = {digest for digest in image.blobs if digest.algorithm == "sha512"}
    assert {path.name for path in (puller.layout / "blobs" / "sha512").iterdir()} == {name.encoded for name in names}
    for name in names:
        raw = (puller.layout / "blobs" / "sha512" / name.encoded).read_bytes()
        assert Digest.of(raw, "sha512") == name
    wrong = next(iter(names - {name for name in names if image.blobs[name] == image.blobs[image.config.digest]}))
    puller.registry.misbehave(str(wrong), Fault(change=lambda raw: raw[::-1]))
    failed = puller(image.serve(puller.registry, "app", "1"), out=puller.home / "other")
    assert (failed.code, f"digest mismatch: expected {wrong}, got sha512:" in failed.errors[0]) == (7, True)


def test_as_many_layers_as_docker_allows_with_doubles_and_empty_ones_are_fetched_once_each(puller: Puller) -> None:
    """127 layers (moby, layer.maxLayerDepth is 125 and more elsewhere); BuildKit writes empty layers."""
    image = build_image([[member(f"f{number % 60}", b"x")] if number % 3 else [] for number in range(127)])
    assert puller(image.serve(puller.registry, "app", "1")).code == 0
    assert len(image.layers) == 127
    assert sorted(fetched(puller.registry)) == sorted(map(str, image.blobs))
    assert_is_there(puller, image)


def test_layer_of_no_bytes_is_a_blob_too(puller: Puller) -> None:
    image = build_image([b"", LAYERS[0]], compression="plain")
    assert image.layers[0].size == 0
    assert puller(image.serve(puller.registry, "app", "1")).code == 0
    assert_is_there(puller, image)


def test_embedded_data_is_not_fetched(puller: Puller) -> None:
    """image-spec 1.1 descriptor.md, "Embedded Content": of a config, a layer, and a manifest in an index."""
    plain = build_image(LAYERS)

    def embed(manifest: dict[str, Any]) -> None:
        for item in (manifest["config"], manifest["layers"][0]):
            item["data"] = base64.b64encode(plain.blobs[Digest.parse(item["digest"])]).decode()

    image = build_image(LAYERS, edit_manifest=embed)

    def embed_manifests(index: dict[str, Any]) -> None:
        index["manifests"][0]["data"] = base64.b64encode(image.raw).decode()

    index = build_index([image, build_image(LAYERS, platform=ARM64)], edit_index=embed_manifests)
    assert puller(index.serve(puller.registry, "app", "1"), "--platform", str(AMD64)).code == 0
    assert fetched(puller.registry) == [str(image.layers[1].digest)]
    assert [path for path in puller.registry.paths() if "/manifests/" in path] == ["/v2/app/manifests/1"]
    assert_is_there(puller, image)
    assert (puller.layout / "blobs" / "sha256" / image.digest.encoded).read_bytes() == image.raw


def test_foreign_layer_is_fetched_for_who_wants_it(puller: Puller) -> None:
    """layer.md, "Non-Distributable Layers"; its bytes are verified like all others."""
    plain = build_image(LAYERS)
    foreign = plain.layers[1]
    with FakeRegistry(address="127.0.0.2") as elsewhere:
        elsewhere.add_blob(plain.blobs[foreign.digest])
        url = f"{elsewhere.url}/storage/{foreign.digest}"
        image = build_image(LAYERS, edit_manifest=lambda manifest: manifest["layers"][1].update(urls=[url]))
        reference = image.serve(puller.registry, "app", "1")
        del puller.registry.blobs[str(foreign.digest)]
        assert puller(reference).code == 3
        assert elsewhere.requests == []
        assert puller(reference, "--foreign").code == 0
        assert_is_there(puller, image)
        elsewhere.misbehave("/storage/", Fault(change=lambda raw: raw[::-1]))
        assert puller(reference, "--foreign", out=puller.home / "other").code == 7


def test_nothing_is_asked_with_head(puller: Puller) -> None:
    """PAINS 16: ECR Public answers HEAD with 401 where GET works."""
    puller.registry.misbehave("", Fault(status=401), method="HEAD")
    assert puller(build_image(LAYERS).serve(puller.registry, "app", "1")).code == 0
    assert puller.registry.paths("HEAD") == []


@pytest.mark.parametrize(("size", "code"), [(4 * 1024 * 1024, 0), (4 * 1024 * 1024 + 1, 8)])
def test_manifest_may_have_four_mebibytes(puller: Puller, size: int, code: int) -> None:
    """distribution-spec 1.1, "Pushing Manifests": at least this size must be accepted."""
    image = build_image(LAYERS)
    raw = image.raw + b" " * (size - len(image.raw))
    descriptor = descriptor_of(raw, image.descriptor.media_type)
    reference = image.serve(puller.registry, "app", None).partition("@")[0]
    puller.registry.add_manifest("app", "1", raw, descriptor.media_type)
    pulled = puller(f"{reference}:1")
    assert pulled.code == code
    if code == 0:
        assert (puller.layout / "blobs" / "sha256" / descriptor.digest.encoded).read_bytes() == raw


def test_chunked_answers_without_any_length_are_read(puller: Puller) -> None:
    puller.registry.chunked = True
    puller.registry.misbehave("/manifests/", Fault(headers={"Content-Length": None, "Connection": "close"}))
    image = build_image(LAYERS)
    assert puller(image.serve(puller.registry, "app", "1")).code == 0
    assert_is_there(puller, image)
