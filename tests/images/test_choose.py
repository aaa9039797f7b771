"""choose: several platforms of an image, or everything that its index lists; the copied index has no dangling entry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import InvalidImageError, LimitExceededError, NoMatchingPlatformError, NotFoundError
from ociexport.images.choose import PlatformChoice
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from ociexport.transfer.result import PullResult
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_artifact, build_image, build_index
from tests.support.memory_source import member

ARMV7 = Platform("linux", "arm", "v7")
BASE = [member("base", b"same in all")]
ON_AMD64, ON_ARM64, ON_ARMV7 = (
    build_image([BASE, [member("arch", str(platform).encode())]], platform=platform)
    for platform in (AMD64, ARM64, ARMV7)
)
INDEX = build_index([ON_ARM64, ON_AMD64, ON_ARMV7])


def attestation_of(image: BuiltImage) -> BuiltImage:
    """Return provenance as BuildKit stores it: an image config without a platform, and a layer that is no tar."""
    statement = json.dumps({"subject": [{"digest": {"sha256": image.digest.encoded}}]}).encode()
    built = build_image(
        [statement],
        compression="plain",
        platform=Platform("unknown", "unknown"),
        edit_manifest=lambda manifest: manifest["layers"][0].update(mediaType="application/vnd.in-toto+json"),
    )
    notes = {"vnd.docker.reference.digest": str(image.digest), "vnd.docker.reference.type": "attestation-manifest"}
    return replace(built, descriptor=replace(built.descriptor, annotations=notes))


def pull_into(path: Path, image: BuiltImage, choice: PlatformChoice) -> PullResult:
    return pull(image.source(full="registry.example/team/app:latest"), path, platform=choice)


def blobs_in(path: Path) -> set[str]:
    return {blob.name for blob in (path / "blobs" / "sha256").iterdir()}


def listed_in(path: Path) -> list[dict[str, Any]]:
    return list(json.loads((path / "index.json").read_bytes())["manifests"])


def encoded(*images: BuiltImage) -> set[str]:
    return {digest.encoded for image in images for digest in image.all_digests}


def test_all_is_the_published_index_with_all_that_it_leads_to(tmp_path: Path) -> None:
    result = pull_into(tmp_path, INDEX, PlatformChoice())
    assert result.digest == INDEX.digest
    assert result.reference == f"registry.example/team/app:latest@{INDEX.digest}"
    assert blobs_in(tmp_path) == encoded(INDEX)
    assert (tmp_path / "blobs" / "sha256" / INDEX.digest.encoded).read_bytes() == INDEX.raw
    ((entry),) = listed_in(tmp_path)
    assert (entry["digest"], entry["mediaType"], entry["size"]) == (
        str(INDEX.digest),
        mediatypes.OCI_INDEX,
        len(INDEX.raw),
    )
    assert "platform" not in entry


def test_layer_of_several_platforms_comes_once(tmp_path: Path) -> None:
    source = INDEX.source()
    result = pull(source, tmp_path, platform=PlatformChoice())
    assert len(source.opened) == len(set(source.opened))
    assert (len(result.manifests), result.fetched_blobs) == (3, 7)


def test_attestations_come_with_all(tmp_path: Path) -> None:
    """BuildKit's attestation-storage.md: unknown/unknown is no platform, and such an entry is no image."""
    attestation = attestation_of(ON_AMD64)
    index = build_index([ON_AMD64, attestation])
    result = pull_into(tmp_path, index, PlatformChoice())
    assert blobs_in(tmp_path) == encoded(index)
    assert [(one.platform, one.is_image) for one in result.manifests] == [(AMD64, True), (None, False)]


def test_attestations_do_not_come_with_a_platform(tmp_path: Path) -> None:
    index = build_index([ON_AMD64, ON_ARM64, attestation_of(ON_AMD64)])
    pull_into(tmp_path, index, PlatformChoice((AMD64, ARM64)))
    assert blobs_in(tmp_path) >= encoded(ON_AMD64, ON_ARM64)
    assert not (encoded(attestation_of(ON_AMD64)) - encoded(ON_AMD64, ON_ARM64)) & blobs_in(tmp_path)


def test_subset_gets_an_index_that_names_only_what_is_there(tmp_path: Path) -> None:
    def edit(index: dict[str, Any]) -> None:
        index.update(annotations={"org.example": "kept"}, subject=ON_ARMV7.descriptor.to_json(), unknown=[1])
        index["manifests"][1]["x-unknown"] = "kept too"

    published = build_index([ON_ARM64, ON_AMD64, ON_ARMV7], edit_index=edit)
    result = pull_into(tmp_path, published, PlatformChoice((AMD64, ARM64)))
    assert result.digest not in (published.digest, ON_AMD64.digest)
    made = json.loads((tmp_path / "blobs" / "sha256" / result.digest.encoded).read_bytes())
    assert made == {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_INDEX,
        "manifests": [
            {**ON_AMD64.descriptor.to_json(), "x-unknown": "kept too"},
            ON_ARM64.descriptor.to_json(),
        ],
        "annotations": {"org.example": "kept"},
        "unknown": [1],
    }
    assert blobs_in(tmp_path) == encoded(ON_AMD64, ON_ARM64) | {result.digest.encoded}
    assert listed_in(tmp_path)[0]["digest"] == str(result.digest)


def test_subset_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    choice = PlatformChoice((AMD64, ARMV7))
    first, second = (pull_into(tmp_path / name, INDEX, choice) for name in "ab")
    assert first.digest == second.digest


def test_whoever_chooses_every_platform_gets_the_published_index(tmp_path: Path) -> None:
    result = pull_into(tmp_path, INDEX, PlatformChoice((ARMV7, AMD64, ARM64)))
    assert result.digest == INDEX.digest


def test_sparse_keeps_the_published_index(tmp_path: Path) -> None:
    """image-spec 1.1 image-layout.md: blobs that are referred to may be absent."""
    result = pull_into(tmp_path, INDEX, PlatformChoice((ARM64,), keeps_index=True))
    assert result.digest == INDEX.digest
    assert blobs_in(tmp_path) == encoded(ON_ARM64) | {INDEX.digest.encoded}


def test_nested_indexes_come_whole(tmp_path: Path) -> None:
    index = build_index([build_index([ON_ARM64, ON_ARMV7]), ON_AMD64])
    assert pull_into(tmp_path, index, PlatformChoice()).digest == index.digest
    assert blobs_in(tmp_path) == encoded(index)


def test_sparse_keeps_the_indexes_that_lead_to_the_platform(tmp_path: Path) -> None:
    inner = build_index([ON_ARM64, ON_ARMV7])
    # A nested index is found by the platform of its entry.
    inner = replace(inner, descriptor=replace(inner.descriptor, platform=ARM64))
    outer = build_index([inner, ON_AMD64])
    pull_into(tmp_path, outer, PlatformChoice((ARM64,), keeps_index=True))
    assert blobs_in(tmp_path) == encoded(ON_ARM64) | {inner.digest.encoded, outer.digest.encoded}


def test_docker_list_and_oci_manifests_mix(tmp_path: Path) -> None:
    docker = build_image([BASE], platform=ARM64, media_types="docker")
    index = build_index([docker, ON_AMD64], media_types="docker")
    assert pull_into(tmp_path, index, PlatformChoice()).digest == index.digest
    assert listed_in(tmp_path)[0]["mediaType"] == mediatypes.DOCKER_MANIFEST_LIST
    assert blobs_in(tmp_path) == encoded(index)


def test_entry_of_unknown_type_comes_as_it_is(tmp_path: Path) -> None:
    """image-index.md: implementations must not fail on a media type that they do not know."""
    thing = build_artifact(b"x")
    opaque = replace(
        thing,
        documents={thing.digest: (thing.raw, "application/vnd.example.thing")},
        blobs={},
        descriptor=replace(thing.descriptor, media_type="application/vnd.example.thing"),
    )
    index = build_index([ON_AMD64, opaque])
    pull_into(tmp_path, index, PlatformChoice())
    assert blobs_in(tmp_path) == encoded(ON_AMD64) | {index.digest.encoded, thing.digest.encoded}


def test_one_platform_that_is_not_there_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(NoMatchingPlatformError, match="no image for platform linux/s390x"):
        pull_into(tmp_path / "layout", INDEX, PlatformChoice((AMD64, Platform("linux", "s390x"))))
    assert list(tmp_path.iterdir()) == []


def test_image_of_one_platform_is_not_several(tmp_path: Path) -> None:
    with pytest.raises(NoMatchingPlatformError) as caught:
        pull_into(tmp_path / "layout", ON_AMD64, PlatformChoice((AMD64, ARM64)))
    assert str(caught.value) == (
        f"manifest {ON_AMD64.digest}: no image for platform linux/arm64, there is only: linux/amd64"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("choice", [PlatformChoice(), PlatformChoice((AMD64,), keeps_index=True)])
def test_image_without_an_index_is_taken_as_it_is(tmp_path: Path, choice: PlatformChoice) -> None:
    assert pull_into(tmp_path, ON_AMD64, choice).digest == ON_AMD64.digest
    assert listed_in(tmp_path)[0]["platform"] == AMD64.to_json()


def test_missing_manifest_of_the_index_is_an_error(tmp_path: Path) -> None:
    documents = {digest: raw for digest, raw in INDEX.documents.items() if digest != ON_ARMV7.digest}
    source = MissingDocumentSource(replace(INDEX, documents=documents))
    with pytest.raises(NotFoundError) as caught:
        pull(source, tmp_path / "layout", platform=PlatformChoice())
    assert str(caught.value) == f"manifest {ON_ARMV7.digest}: not there"
    assert caught.value.hint == "the index lists a manifest that the source lacks; --platform takes one that it has"
    assert list(tmp_path.iterdir()) == []


def test_index_of_too_many_manifests_is_refused(tmp_path: Path) -> None:
    def edit(index: dict[str, Any]) -> None:
        index["manifests"] = [
            {**ON_AMD64.descriptor.to_json(), "digest": str(Digest.of(b"%d" % number)), "mediaType": "x/y"}
            for number in range(3000)
        ]

    index = build_index([ON_AMD64], edit_index=edit)
    source = AnyDocumentSource(index)
    with pytest.raises(LimitExceededError, match=rf"^manifest {index.digest}: expected at most 2048 manifests$"):
        pull(source, tmp_path / "layout", platform=PlatformChoice())
    assert list(tmp_path.iterdir()) == []


def test_documents_of_an_image_are_limited_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may have 4 MiB, but all are in memory until the image is written."""
    monkeypatch.setattr("ociexport.images.budget.MAX_BYTES", len(INDEX.raw) + 1000)
    with pytest.raises(LimitExceededError) as caught:
        pull(INDEX.source(), tmp_path / "layout", platform=PlatformChoice())
    assert str(caught.value) == (
        f"memory: documents: expected at most {len(INDEX.raw) + 1000} bytes in total, got more"
    )
    assert list(tmp_path.iterdir()) == []


def test_layer_with_two_sizes_in_two_platforms_is_refused(tmp_path: Path) -> None:
    lying = build_image([BASE], platform=ARM64, edit_manifest=lambda manifest: manifest["layers"][0].update(size=7))
    with pytest.raises(InvalidImageError, match="as for the same digest before, got 7"):
        pull_into(tmp_path / "layout", build_index([ON_AMD64, lying]), PlatformChoice())
    assert list(tmp_path.iterdir()) == []


def test_image_in_layout_is_unpacked_by_platform(tmp_path: Path) -> None:
    pull_into(tmp_path, INDEX, PlatformChoice((AMD64, ARM64)))
    with_arm = pull(ImageLayout(tmp_path).open_image("latest"), tmp_path / "copy", platform=ARM64)
    assert with_arm.manifest_digest == ON_ARM64.digest


class MissingDocumentSource:
    """A source that lacks documents, like a registry where someone deleted them."""

    def __init__(self, image: BuiltImage) -> None:
        self._source = image.source()
        self._image = image
        self.image_name = self._source.image_name
        self.display_name = self._source.display_name
        self.open_blob = self._source.open_blob
        self.close = self._source.close

    def fetch_manifest(self, descriptor: Any = None) -> Any:
        if descriptor is not None and descriptor.digest not in self._image.documents:
            raise NotFoundError(f"manifest {descriptor.digest}: not there")
        return self._source.fetch_manifest(descriptor)


class AnyDocumentSource(MissingDocumentSource):
    """A source that returns a document for every digest; the code under test must stop requesting them."""

    def fetch_manifest(self, descriptor: Any = None) -> Any:
        received = self._source.fetch_manifest()
        return received if descriptor is None else replace(received, raw=b"", digest=descriptor.digest)
