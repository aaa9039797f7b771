"""The plan of an archive for engines before Docker 1.10: a directory for each layer, and names in ``repositories``.

Until version 24, ``docker save`` wrote these files and also ``manifest.json`` for engines since 1.10. For old engines,
each layer has a JSON document and an ID made from the layer and those below it; the image has those of its top layer.

Spec: moby ``image/spec/v1.md``; ``image/spec/v1.2.md``, "Combined Image JSON + Filesystem Changeset Format";
image-spec 1.1 config.md, "Layer ChainID".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ociexport.errors import UnsupportedMediaTypeError, UsageError
from ociexport.images.prepare import PreparedImage
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec.config import ImageConfig
from ociexport.spec.digest import Digest
from ociexport.storage.archive.plan import ArchiveContent, ArchivePlan, lay_out, tagged_images
from ociexport.storage.layout.documents import to_json

# The version of the format of a layer's JSON (image/spec/v1.md, "Image JSON Description").
_VERSION = b"1.0"
# The creation time of a layer below the top, which is not known; docker writes the same.
_NO_TIME = "1970-01-01T00:00:00Z"
# Members of a config about all layers; old engines have one document for each layer.
_NOT_V1 = ("rootfs", "history")
# A tar without entries: in this format an image must have at least one layer.
_EMPTY_TAR = bytes(1024)


def plan_legacy_archive(images: Sequence[PreparedImage], *, seconds: int = 0) -> ArchivePlan:
    """Return the plan of an archive of ``images``, whose layers are plain tars.

    Args:
        seconds: time of all entries, since 1970.
    """
    files: dict[str, ArchiveContent] = {}
    blobs = {blob.descriptor.digest: blob for image in images for blob in image.blobs}
    places: dict[Digest, str] = {}
    listed = []
    repositories: dict[str, dict[str, str]] = {}
    for main, tags in tagged_images(images):
        config = main.config
        assert config is not None  # noqa: S101 - only images with a config are listed
        layers = list(_v1_layers(config))
        for (layer_id, document), diff_id in zip(layers, config.diff_ids or (None,), strict=True):
            files[f"{layer_id}/VERSION"] = ArchiveContent.of(_VERSION)
            files[f"{layer_id}/json"] = ArchiveContent.of(document)
            files.setdefault(f"{layer_id}/layer.tar", _layer(layer_id, diff_id, blobs, places))
        files[f"{config.digest.encoded}.json"] = ArchiveContent.of(config.raw)
        listed.append(
            {
                "Config": f"{config.digest.encoded}.json",
                "RepoTags": tags or None,
                "Layers": [f"{layer_id}/layer.tar" for layer_id, _ in layers if config.diff_ids],
            }
        )
        for tag in tags:
            repository, _, name = tag.rpartition(":")
            repositories.setdefault(repository, {})[name] = layers[-1][0]
    files["manifest.json"] = ArchiveContent.of(to_json(listed))
    files["repositories"] = ArchiveContent.of(to_json(repositories))
    return lay_out(files, (), seconds)


def verify_fits_legacy(image: PreparedImage) -> None:
    """Return if old engines can load ``image``.

    Raises:
        UsageError: it is for several platforms, which they don't support.
        UnsupportedMediaTypeError: it is an artifact.
    """
    if image.main is None or image.main.config is None:
        raise UnsupportedMediaTypeError(
            "expected an image, got an artifact, which docker does not load", where=f"manifest {image.listed.digest}"
        )
    if len(image.manifests) > 1:
        raise UsageError(
            f"{image.source.display_name}: expected one platform for a legacy archive, got {len(image.manifests)}",
            hint="--platform takes one of them",
        )


def _layer(
    layer_id: str, diff_id: Digest | None, blobs: dict[Digest, BlobToFetch], places: dict[Digest, str]
) -> ArchiveContent:
    """Return a layer's tar, or a link to it if the archive already has it, as docker wrote it."""
    if diff_id is None:
        return ArchiveContent.of(_EMPTY_TAR)
    place = places.setdefault(diff_id, layer_id)
    if place == layer_id:
        return ArchiveContent.of_blob(blobs[diff_id])
    return ArchiveContent(0, b"", link=f"../{place}/layer.tar")


def _v1_layers(config: ImageConfig) -> Iterator[tuple[str, bytes]]:
    """Yield the ID and the JSON of each layer, lowest first; an image without layers gets one empty layer.

    An ID is a digest of the JSON without the ID, and of the layer's chain ID. So IDs are reproducible, and images that
    share their lowest layers share these layers' directories.
    """
    parent = chain_id = ""
    count = max(len(config.diff_ids), 1)
    for number in range(count):
        if config.diff_ids:
            diff_id = str(config.diff_ids[number])
            chain_id = str(Digest.of(f"{chain_id} {diff_id}".encode())) if chain_id else diff_id
        document: dict[str, Any] = {"created": _NO_TIME, "os": config.platform.os}
        if number == count - 1:
            top = json.loads(config.raw)
            document |= {key: value for key, value in top.items() if key not in _NOT_V1 and value is not None}
        if parent:
            document["parent"] = parent
        layer_id = Digest.of(to_json(dict(sorted({**document, "layer_id": chain_id}.items())))).encoded
        yield layer_id, to_json({"id": layer_id, **document})
        parent = layer_id
