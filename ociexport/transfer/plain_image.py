"""An image whose layers are plain tars: its manifests, and the indexes of these, say so; its config stays as it is.

Spec: image-spec 1.1 manifest.md, image-index.md, media-types.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ociexport.images.fetch import BlobToFetch, unite_blobs
from ociexport.images.prepare import PreparedImage, PreparedManifest, name_of_copy
from ociexport.images.source import ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import ATTESTED_ANNOTATION, Descriptor, Manifest, parse_document
from ociexport.spec.digest import Digest
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.decompress import PlainLayerStore

# What tools say of a compressed layer alone: where in it which file is.
_COMPRESSED_ONLY = ("containerd.io/snapshot/stargz/", "io.github.containers.zstd-chunked.", "io.containers.estargz.")


def with_plain_layers(image: PreparedImage, store: PlainLayerStore, progress: Progress) -> PreparedImage:
    """Return ``image`` with the plain layers of ``store`` in place of its compressed ones; the same where it has none.

    Attestations stay as they are; the index tells whose they are now.
    """
    documents: dict[Digest, ReceivedManifest] = {}
    manifests = tuple(_plain_manifest(one, store, documents) for one in image.manifests)
    if not documents:
        return image
    others = tuple(_plain_index(other, documents) for other in image.others)
    made = documents.get(image.listed.digest)
    listed = image.listed if made is None else replace(image.listed, digest=made.digest, size=len(made.raw))
    progress.say(
        f"{image.source.display_name}: {'index' if image.others else 'manifest'} {listed.digest} was made for "
        f"decompressed layers, the published one is {image.listed.digest}"
    )
    return image._replace(
        listed=listed,
        manifests=manifests,
        others=others,
        name=name_of_copy(image.name, listed.digest),
        blobs=_blobs_of(image, manifests, store),
    )


def _plain_manifest(
    one: PreparedManifest, store: PlainLayerStore, documents: dict[Digest, ReceivedManifest]
) -> PreparedManifest:
    """Return a manifest that names the plain layers; where it is another, ``documents`` has it afterwards."""
    if one.config is None or not any(store.is_compressed(layer.digest) for layer in one.manifest.layers):
        return one
    item = json.loads(one.manifest.raw)
    for layer, member in zip(one.manifest.layers, item["layers"], strict=True):
        if store.is_compressed(layer.digest):
            diff_id = store.diff_ids[layer.digest]
            _rewrite_layer(member, layer, diff_id, store.sizes[diff_id])
    made = _written(item, one.manifest.media_type)
    documents[one.manifest.digest] = made
    manifest = parse_document(made.raw, made.media_type, made.digest)
    assert isinstance(manifest, Manifest)  # noqa: S101 - as it was before
    return one._replace(manifest=manifest)


def _rewrite_layer(member: dict[str, Any], layer: Descriptor, diff_id: Digest, size: int) -> None:
    member.update(mediaType=_plain_type(layer.media_type), digest=str(diff_id), size=size)
    # Both give the compressed layer.
    member.pop("urls", None)
    member.pop("data", None)
    kept = {key: value for key, value in layer.annotations.items() if not key.startswith(_COMPRESSED_ONLY)}
    if kept != layer.annotations:
        member["annotations"] = kept


def _plain_type(media_type: str) -> str:
    """Return the type of the same layer uncompressed; it may be distributed from now on, since it is in our hands."""
    return mediatypes.DOCKER_LAYER if media_type.startswith(mediatypes.DOCKER_PREFIX) else mediatypes.OCI_LAYER


def _plain_index(other: ReceivedManifest, documents: dict[Digest, ReceivedManifest]) -> ReceivedManifest:
    """Return an index that names what ``documents`` has in place of what it named; it is there itself afterwards."""
    if other.media_type not in mediatypes.INDEXES:
        return other
    item = json.loads(other.raw)
    for entry in item["manifests"]:
        made = documents.get(Digest.parse(entry["digest"]))
        if made is not None:
            entry.update(digest=str(made.digest), size=len(made.raw))
        annotations = entry.get("annotations") or {}
        for key in (ATTESTED_ANNOTATION,) if ATTESTED_ANNOTATION in annotations else ():
            attested = {str(old): str(new.digest) for old, new in documents.items()}
            annotations[key] = attested.get(annotations[key], annotations[key])
    if item == json.loads(other.raw):
        return other
    made = _written(item, other.media_type)
    documents[other.digest] = made
    return made


def _written(item: object, media_type: str | None) -> ReceivedManifest:
    raw = json.dumps(item, separators=(",", ":")).encode()
    return ReceivedManifest(raw, media_type, Digest.of(raw))


def _blobs_of(
    image: PreparedImage, manifests: Sequence[PreparedManifest], store: PlainLayerStore
) -> tuple[BlobToFetch, ...]:
    """Return the blobs of the new manifests: those that stay, and the plain layers."""
    named = {descriptor.digest for one in manifests for descriptor in (one.manifest.config, *one.manifest.layers)}
    kept = [blob for blob in image.blobs if blob.descriptor.digest in named]
    plain = []
    for blob in image.blobs:
        diff_id = store.diff_ids.get(blob.descriptor.digest)
        if diff_id is not None and diff_id in named:
            descriptor = Descriptor(_plain_type(blob.descriptor.media_type), diff_id, store.sizes[diff_id])
            plain.append(blob._replace(source=store.layout, descriptor=descriptor, content=None))
    return tuple(unite_blobs([kept, plain]))
