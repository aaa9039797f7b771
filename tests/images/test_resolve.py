"""resolve: from a source and a platform to one image."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ociexport.errors import (
    DigestMismatchError,
    InvalidImageError,
    LimitExceededError,
    NoMatchingPlatformError,
    SizeMismatchError,
    UnsupportedMediaTypeError,
)
from ociexport.images.resolve import MAX_INDEX_DEPTH, read_config, read_layers, read_small_blob, resolve_manifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.manifest import Manifest, parse_document
from ociexport.system.progress.protocol import SILENT
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_artifact, build_image, build_index
from tests.support.memory_source import member

LAYERS = [[member("a", b"1")], [member("b", b"2")]]
IMAGE = build_image(LAYERS)


def manifest_of(image: BuiltImage) -> Manifest:
    manifest = parse_document(image.raw, None)
    assert isinstance(manifest, Manifest)
    return manifest


def test_single_manifest_is_taken_as_it_is() -> None:
    resolved = resolve_manifest(IMAGE.source(), ARM64)
    assert (resolved.manifest.digest, resolved.indexes, resolved.platform) == (IMAGE.digest, (), None)


def test_index_leads_to_the_platforms_manifest() -> None:
    index = build_index([build_image(LAYERS, platform=ARM64), IMAGE])
    resolved = resolve_manifest(index.source(), AMD64)
    assert resolved.manifest.digest == IMAGE.digest
    assert [document.digest for document in resolved.indexes] == [index.digest]
    assert resolved.platform == AMD64


def nested(depth: int) -> BuiltImage:
    image = build_index([IMAGE])
    for _ in range(depth - 1):
        image = build_index([replace(image, descriptor=replace(image.descriptor, platform=AMD64))])
    return image


def test_indexes_may_be_nested() -> None:
    """image-spec image-index.md: an index may list indexes."""
    resolved = resolve_manifest(nested(MAX_INDEX_DEPTH).source(), AMD64)
    assert resolved.manifest.digest == IMAGE.digest
    assert len(resolved.indexes) == MAX_INDEX_DEPTH


def test_nesting_has_a_limit() -> None:
    image = nested(MAX_INDEX_DEPTH + 1)
    with pytest.raises(LimitExceededError) as caught:
        resolve_manifest(image.source(), AMD64)
    assert str(caught.value) == f"manifest {image.digest}: indexes within indexes: expected at most {MAX_INDEX_DEPTH}"


def test_platform_that_is_not_there_is_an_error() -> None:
    with pytest.raises(NoMatchingPlatformError):
        resolve_manifest(build_index([IMAGE]).source(), Platform("plan9", "mips"))


def test_config_and_layers_are_paired() -> None:
    config, layers = read_layers(IMAGE.source(), resolve_manifest(IMAGE.source(), AMD64), AMD64, SILENT)
    assert config.digest == IMAGE.config.digest
    assert tuple(layer.diff_id for layer in layers) == IMAGE.diff_ids


@pytest.mark.parametrize(
    ("content", "kind"), [(b"{}", SizeMismatchError), (b" " * IMAGE.config.size, DigestMismatchError)]
)
def test_wrong_config_is_told_with_its_manifest(content: bytes, kind: type[InvalidImageError]) -> None:
    image = build_image(LAYERS)
    image.blobs[image.config.digest] = content
    with pytest.raises(kind) as caught:
        read_config(image.source(), manifest_of(image))
    assert caught.value.where == f"manifest {image.digest}: config {image.config.digest}"


def test_embedded_config_is_not_fetched() -> None:
    """image-spec descriptor.md, "Embedded Content"."""
    source = IMAGE.source()
    manifest = manifest_of(IMAGE)
    embedded = replace(manifest, config=replace(manifest.config, data=IMAGE.blobs[IMAGE.config.digest]))
    assert read_config(source, embedded).digest == IMAGE.config.digest
    assert source.opened == []


def test_config_of_an_artifact_is_not_taken_for_an_images() -> None:
    artifact = build_artifact(b"chart")
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        read_config(artifact.source(), manifest_of(artifact))
    assert str(caught.value) == (
        f"manifest {artifact.digest}: expected an image, got an artifact of type 'application/vnd.example.chart'"
    )


def test_declared_size_is_held_against_the_limit_before_anything_is_fetched() -> None:
    source = IMAGE.source()
    with pytest.raises(LimitExceededError) as caught:
        read_small_blob(source, IMAGE.config, 10, "config")
    assert str(caught.value) == f"config: expected at most 10 bytes, got {IMAGE.config.size}"
    assert source.opened == []


def test_media_type_of_the_entry_decides_where_the_source_says_nothing() -> None:
    image = build_image(LAYERS, media_types="docker", edit_manifest=lambda manifest: manifest.pop("mediaType"))
    image.documents[image.digest] = (image.raw, "application/json")
    resolved = resolve_manifest(build_index([image]).source(), AMD64)
    assert resolved.manifest.media_type == mediatypes.DOCKER_MANIFEST
    assert resolved.manifest.descriptor == Descriptor(mediatypes.DOCKER_MANIFEST, image.digest, len(image.raw))
