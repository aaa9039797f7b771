"""Images from literals: layers, config, manifest and index, all valid unless a test changes something.

    image = build_image([[member("etc/hostname", b"box\\n")], [member("etc/.wh.hostname")]])
    image = build_image(layers, compression="zstd", media_types="docker", platform=Platform("linux", "arm64"))
    image = build_image(layers, edit_manifest=lambda manifest: manifest["layers"][1].update(size=7))
    image = build_image(layers, edit_config=lambda config: config["rootfs"]["diff_ids"].pop())
    index = build_index([build_image(layers, platform=ARM64), build_image(layers, platform=AMD64)])

`tests.support.memory_source` makes members of layers: files, links, devices, xattrs, owners, modes, times. A layer may
also be given as bytes: a tar, or anything else.

A test serves the image by `image.serve(registry, "library/app", "1.0")`, uses it in memory by `image.source()`, or
writes it by `write_layout(path, {"1.0": image})`. That function does not use the package, so it can't hide a bug in
`ociexport.storage.layout.layout`.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, Literal, TypeAlias

from ociexport.errors import InvalidDigestError, NotFoundError
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import ByteStream, Digest
from tests.support.fake_registry import FakeRegistry
from tests.support.memory_source import Member, tar_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")

Compression: TypeAlias = Literal["gzip", "zstd", "plain"]
MediaTypes: TypeAlias = Literal["oci", "docker", "legacy"]
Json: TypeAlias = dict[str, Any]

_LAYER_TYPES: Mapping[tuple[str, str], str] = {
    ("oci", "plain"): mediatypes.OCI_LAYER,
    ("oci", "gzip"): mediatypes.OCI_LAYER_GZIP,
    ("oci", "zstd"): mediatypes.OCI_LAYER_ZSTD,
    ("docker", "plain"): mediatypes.DOCKER_LAYER,
    ("docker", "gzip"): mediatypes.DOCKER_LAYER_GZIP,
    ("docker", "zstd"): mediatypes.DOCKER_LAYER_ZSTD,
}


@dataclass(frozen=True)
class BuiltImage:
    """An image or an index with its documents and blobs; tests may alter `blobs` and `documents`.

    Args:
        descriptor: of the outermost document.
        documents: manifests and indexes by digest, with their media types.
        blobs: configs and layers by the digest in their descriptors.
        config: of the image; of an index's last image.
        layers: of the image, lowest first; of an index's last image.
        diff_ids: the true ones.
    """

    descriptor: Descriptor
    documents: dict[Digest, tuple[bytes, str]] = field(repr=False)
    blobs: dict[Digest, bytes] = field(repr=False)
    config: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[Digest, ...]

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest

    @property
    def raw(self) -> bytes:
        return self.documents[self.digest][0]

    @property
    def all_digests(self) -> set[Digest]:
        return {*self.documents, *self.blobs}

    def serve(self, registry: FakeRegistry, repository: str, tag: str | None = "latest") -> str:
        """Put the image into ``registry``; return its reference."""
        for digest, raw in self.blobs.items():
            registry.add_blob(raw, digest)
        for digest, (raw, media_type) in self.documents.items():
            registry.add_manifest(repository, tag if digest == self.digest else None, raw, media_type)
        return f"{registry.host}/{repository}" + (f":{tag}" if tag is not None else f"@{self.digest}")

    def source(self, tag: str | None = "latest", full: str | None = None) -> BuiltSource:
        """Return the image as a source in memory."""
        return BuiltSource(self, ImageName(tag, full))


class BuiltSource:
    """A built image as an `ImageSource`; it counts reads."""

    def __init__(self, image: BuiltImage, name: ImageName) -> None:
        self.image = image
        self.image_name = name
        self.display_name = "memory"
        self.opened: list[Digest] = []

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        digest = (descriptor or self.image.descriptor).digest
        raw, media_type = self.image.documents[digest]
        return ReceivedManifest(raw, media_type, digest)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        self.opened.append(descriptor.digest)
        if descriptor.digest not in self.image.blobs:
            raise NotFoundError(f"blob {descriptor.digest}: not there")
        return BytesIO(self.image.blobs[descriptor.digest][offset:])

    def close(self) -> None:
        """Do nothing: nothing is open."""


def build_image(
    layers: Sequence[bytes | Iterable[Member]],
    *,
    compression: Compression | Sequence[Compression] = "gzip",
    media_types: MediaTypes = "oci",
    platform: Platform = AMD64,
    edit_config: Callable[[Json], object] = lambda config: None,
    edit_manifest: Callable[[Json], object] = lambda manifest: None,
    compress: Callable[[bytes, Compression], bytes] | None = None,
) -> BuiltImage:
    """Return an image.

    Args:
        layers: tars, or the members of tars, lowest first.
        compression: of all layers, or of each.
        media_types: ``legacy`` is Docker's with the config under ``application/octet-stream``.
        platform: written to the config.
        edit_config: changes the config before it is written, validly or not.
        edit_manifest: the same for the manifest; blobs are stored under the digests that it then has.
        compress: another compressor of that kind.
    """
    tars = [layer if isinstance(layer, bytes) else tar_of(layer) for layer in layers]
    kinds = [compression] * len(tars) if isinstance(compression, str) else list(compression)
    family = "oci" if media_types == "oci" else "docker"
    stored = [(compress or _compress)(tar, kind) for tar, kind in zip(tars, kinds, strict=True)]
    diff_ids = tuple(map(Digest.of, tars))
    config: Json = {
        "created": "2024-11-05T22:03:34Z",
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]},
        "history": [{"created_by": f"layer {number}"} for number, _ in enumerate(tars, start=1)],
    }
    if platform.variant:
        config["variant"] = platform.variant
    edit_config(config)
    raw_config = to_json(config)
    config_type = {"oci": mediatypes.OCI_CONFIG, "docker": mediatypes.DOCKER_CONFIG, "legacy": mediatypes.LEGACY_CONFIG}
    manifest: Json = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST if family == "oci" else mediatypes.DOCKER_MANIFEST,
        "config": descriptor_of(raw_config, config_type[media_types]).to_json(),
        "layers": [
            descriptor_of(blob, _LAYER_TYPES[family, kind]).to_json() for blob, kind in zip(stored, kinds, strict=True)
        ],
    }
    media_type = str(manifest["mediaType"])
    said = [Digest.parse(item["digest"]) for item in [manifest["config"], *manifest["layers"]]]
    edit_manifest(manifest)
    blobs = dict(zip(said, [raw_config, *stored], strict=True))
    for item, raw in zip(
        [manifest.get("config", {}), *manifest.get("layers", ())], [raw_config, *stored], strict=False
    ):
        # A changed digest in a descriptor names the true bytes, so only hashing reveals the mismatch.
        if _is_digest(item.get("digest")):
            blobs.setdefault(Digest.parse(item["digest"]), raw)
    document = to_json(manifest)
    descriptor = descriptor_of(document, media_type)
    return BuiltImage(
        descriptor=replace(descriptor, platform=platform),
        documents={descriptor.digest: (document, media_type)},
        blobs=blobs,
        config=descriptor_of(raw_config, config_type[media_types]),
        layers=tuple(descriptor_of(blob, _LAYER_TYPES[family, kind]) for blob, kind in zip(stored, kinds, strict=True)),
        diff_ids=diff_ids,
    )


def build_index(
    images: Sequence[BuiltImage],
    *,
    media_types: Literal["oci", "docker"] = "oci",
    edit_index: Callable[[Json], object] = lambda index: None,
) -> BuiltImage:
    """Return an index of ``images``, each with the platform it was built for."""
    media_type = mediatypes.OCI_INDEX if media_types == "oci" else mediatypes.DOCKER_MANIFEST_LIST
    index: Json = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [image.descriptor.to_json() for image in images],
    }
    edit_index(index)
    raw = to_json(index)
    descriptor = descriptor_of(raw, media_type)
    documents = {digest: document for image in images for digest, document in image.documents.items()}
    return BuiltImage(
        descriptor=descriptor,
        documents={**documents, descriptor.digest: (raw, media_type)},
        blobs={digest: blob for image in images for digest, blob in image.blobs.items()},
        config=images[-1].config,
        layers=images[-1].layers,
        diff_ids=images[-1].diff_ids,
    )


def build_artifact(content: bytes, *, artifact_type: str = "application/vnd.example.chart") -> BuiltImage:
    """Return an artifact, not an image: one blob of a special type, with the empty config.

    Spec: image-spec 1.1 manifest.md, "Guidelines for Artifact Usage".
    """
    config, layer = descriptor_of(b"{}", mediatypes.OCI_EMPTY), descriptor_of(content, f"{artifact_type}.content")
    manifest = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": config.to_json(),
        "layers": [layer.to_json()],
    }
    raw = to_json(manifest)
    descriptor = descriptor_of(raw, mediatypes.OCI_MANIFEST)
    return BuiltImage(
        descriptor=descriptor,
        documents={descriptor.digest: (raw, mediatypes.OCI_MANIFEST)},
        blobs={config.digest: b"{}", layer.digest: content},
        config=config,
        layers=(layer,),
        diff_ids=(),
    )


def build_attestation(image: BuiltImage) -> BuiltImage:
    """Return BuildKit's attestation for ``image``: a manifest of an in-toto statement, for the same index.

    Spec: moby/buildkit docs/attestations/attestation-storage.md.
    """
    statement = to_json(
        {"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2"}
    )
    layer = descriptor_of(statement, "application/vnd.in-toto+json")
    raw_config = to_json(
        {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [str(layer.digest)]},
        }
    )
    config = descriptor_of(raw_config, mediatypes.OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [
            {**layer.to_json(), "annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}}
        ],
    }
    raw = to_json(manifest)
    annotations = {
        "vnd.docker.reference.digest": str(image.digest),
        "vnd.docker.reference.type": "attestation-manifest",
    }
    descriptor = replace(
        descriptor_of(raw, mediatypes.OCI_MANIFEST), platform=Platform("unknown", "unknown"), annotations=annotations
    )
    return BuiltImage(
        descriptor=descriptor,
        documents={descriptor.digest: (raw, mediatypes.OCI_MANIFEST)},
        blobs={config.digest: raw_config, layer.digest: statement},
        config=config,
        layers=(layer,),
        diff_ids=(),
    )


def write_layout(path: str | os.PathLike[str], images: Mapping[str, BuiltImage]) -> None:
    """Write an OCI layout by the specification; the keys of ``images`` are tags, or full names with a slash.

    Spec: image-spec 1.1 image-layout.md.
    """
    entries = []
    os.makedirs(os.path.join(path, "blobs", "sha256"), exist_ok=True)
    for name, image in images.items():
        contents = {digest: raw for digest, (raw, _) in image.documents.items()} | image.blobs
        for digest, raw in contents.items():
            with open(os.path.join(path, "blobs", digest.algorithm, digest.encoded), "wb") as file:
                file.write(raw)
        key = "io.containerd.image.name" if "/" in name else "org.opencontainers.image.ref.name"
        entries.append({**image.descriptor.to_json(), "annotations": {key: name}})
    for file_name, value in (
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ("index.json", {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": entries}),
    ):
        with open(os.path.join(path, file_name), "wb") as file:
            file.write(to_json(value))


def descriptor_of(content: bytes, media_type: str) -> Descriptor:
    """Return a correct descriptor of ``content``."""
    return Descriptor(media_type, Digest.of(content), len(content))


def to_json(value: object) -> bytes:
    """Return a document's bytes, indented as docker writes them."""
    return json.dumps(value, indent=3).encode()


def _compress(tar: bytes, compression: Compression) -> bytes:
    if compression == "plain":
        return tar
    return gzip.compress(tar, 1, mtime=0) if compression == "gzip" else bytes(zstd.compress(tar))


def _is_digest(value: object) -> bool:
    try:
        Digest.parse(str(value))
    except InvalidDigestError:
        return False
    return True
