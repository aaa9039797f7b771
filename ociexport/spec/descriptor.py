"""Descriptors, indexes, manifests and configs: frozen values made from received bytes.

Each document keeps the bytes that it was read from (`raw`) and their digest; what was parsed is never written again,
since any change of a byte would change the digest.

Spec: image-spec 1.1 descriptor.md, manifest.md, image-index.md, config.md; Docker "Image Manifest Version 2, Schema 2".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from ociexport.errors import (
    InvalidDigestError,
    InvalidImageError,
    UnsupportedMediaTypeError,
    locating,
    printable,
    quoted,
)
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object

# distribution-spec "Pushing Manifests": registries should take at least 4 MiB; nobody honest goes beyond.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
# The same for configs: c/image draws the line here too.
MAX_CONFIG_BYTES = 4 * 1024 * 1024
# In an index's entry for an attestation: the manifest that it is about (BuildKit's attestation-storage.md).
ATTESTED_ANNOTATION = "vnd.docker.reference.digest"
# A size is added up and compared; past the signed 64 bits of the specification it can only be an attack.
_MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system and processor that an image is for, in Go's words (``linux``, ``amd64``).

    Spec: image-spec 1.1 image-index.md, "platform".
    """

    os: str
    architecture: str
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, item: JsonObject) -> Platform:
        """Return the platform in a descriptor or a config; a missing name reads as ``unknown``, as docker has it."""
        return cls(
            os=item.optional_text("os") or "unknown",
            architecture=item.optional_text("architecture") or "unknown",
            variant=item.optional_text("variant"),
            os_version=item.optional_text("os.version"),
            os_features=item.texts("os.features"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the platform as a descriptor in an index has it."""
        members: dict[str, object] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            members["os.version"] = self.os_version
        if self.os_features:
            members["os.features"] = list(self.os_features)
        if self.variant:
            members["variant"] = self.variant
        return members

    def __str__(self) -> str:
        """Return the platform as `ociexport.spec.platforms.parse_platform` reads it."""
        demands = "+".join([self.os_version or "", *self.os_features])
        system = f"{self.os}({demands})" if demands else self.os
        # A platform comes from an image, and this goes to a terminal.
        return printable("/".join(part for part in (system, self.architecture, self.variant) if part is not None))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob or a document: its type, digest and size, and what is said about it.

    Spec: image-spec 1.1 descriptor.md.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    data: bytes | None = None
    artifact_type: str | None = None

    @classmethod
    def from_json(cls, item: JsonObject) -> Descriptor:
        """Return the descriptor that ``item`` is.

        Raises:
            InvalidImageError: a required member is missing, or one is of the wrong type or out of range.
        """
        size = item.integer("size")
        if not 0 <= size <= _MAX_INT64:
            raise item.error("size", f"expected 0 to {_MAX_INT64}, got {quoted(size)}")
        digest = _parse_digest(item, "digest", item.text("digest"))
        platform = item.optional_object("platform")
        return cls(
            media_type=mediatypes.without_parameters(item.optional_text("mediaType") or ""),
            digest=digest,
            size=size,
            annotations=item.text_map("annotations"),
            platform=Platform.from_json(platform) if platform is not None else None,
            urls=item.texts("urls"),
            data=_embedded_data(item, digest, size),
            artifact_type=item.optional_text("artifactType"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the descriptor as a document has it; embedded data is left out, since the blob itself is kept."""
        members: dict[str, object] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.artifact_type:
            members["artifactType"] = self.artifact_type
        if self.platform is not None:
            members["platform"] = self.platform.to_json()
        if self.urls:
            members["urls"] = list(self.urls)
        if self.annotations:
            members["annotations"] = dict(self.annotations)
        return members

    @property
    def is_attestation(self) -> bool:
        """Whether this entry of an index is BuildKit's provenance or SBOM, which runs nowhere."""
        return ATTESTED_ANNOTATION in self.annotations


def _parse_digest(item: JsonObject, key: str, text: str) -> Digest:
    """Return the digest that ``text``, the member ``key`` of ``item``, names."""
    try:
        return Digest.parse(text)
    except InvalidDigestError as error:
        raise item.error(key, str(error).removeprefix("digest: ")) from error


def _embedded_data(item: JsonObject, digest: Digest, size: int) -> bytes | None:
    """Return the decoded ``data`` member, which the specification has verified before it is used."""
    encoded = item.optional_text("data")
    if encoded is None:
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise item.error("data", f"expected base64, got {quoted(encoded)}") from error
    if len(data) != size or Digest.of(data, digest.algorithm) != digest:
        raise item.error("data", f"expected the {size} bytes of {digest}, got {len(data)} other bytes")
    return data


@dataclass(frozen=True, slots=True)
class Document:
    """What every manifest and index has: the bytes, what they are, and their digest."""

    raw: bytes = field(repr=False)
    media_type: str
    digest: Digest

    @property
    def descriptor(self) -> Descriptor:
        """A descriptor of this document, without annotations."""
        return Descriptor(self.media_type, self.digest, len(self.raw))


@dataclass(frozen=True, slots=True)
class Index(Document):
    """A list of manifests, one for each platform: an OCI index or a Docker manifest list."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(hash=False)
    subject: Descriptor | None
    artifact_type: str | None


@dataclass(frozen=True, slots=True)
class Manifest(Document):
    """A config and the layers that belong to it: an OCI manifest or a Docker one of schema 2."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(hash=False)
    subject: Descriptor | None
    artifact_type: str | None


def parse_document(raw: bytes, media_type: str | None, digest: Digest | None = None) -> Index | Manifest:
    """Return the index or manifest that ``raw`` is.

    That ``raw`` is what ``digest`` names is the caller's business.

    Args:
        raw: the document as received; at most `MAX_MANIFEST_BYTES`, which the caller saw to.
        media_type: what the descriptor or the Content-Type said; None or a general type where it said nothing.
        digest: of ``raw``, where already known.

    Raises:
        UnsupportedMediaTypeError: a document of another kind, such as a schema 1 manifest.
        InvalidImageError: it breaks the specification; `where` says at which field.

    Spec: image-spec 1.1 manifest.md, image-index.md; the rule against ambiguous documents is CVE-2021-41190's.
    """
    digest = digest or Digest.of(raw)
    with locating(f"manifest {digest}"):
        item = parse_json_object(raw, where="")
        kind = _document_media_type(item, media_type)
        version = item.integer("schemaVersion")
        if version != 2:
            raise item.error("schemaVersion", f"expected 2, got {version}")
        subject = item.optional_object("subject")
        shared_members = {
            "annotations": item.text_map("annotations"),
            "subject": Descriptor.from_json(subject) if subject is not None else None,
            "artifact_type": item.optional_text("artifactType"),
        }
        if kind in mediatypes.INDEXES:
            if "layers" in item or "config" in item:
                raise item.error("manifests", "expected an index, got a document that has layers or a config as well")
            entries = tuple(Descriptor.from_json(entry) for entry in item.objects("manifests"))
            return Index(raw, kind, digest, entries, **shared_members)  # type: ignore[arg-type]
        if "manifests" in item:
            raise item.error("layers", "expected a manifest, got a document that has manifests as well")
        layers = tuple(Descriptor.from_json(layer) for layer in item.objects("layers"))
        return Manifest(raw, kind, digest, Descriptor.from_json(item.object("config")), layers, **shared_members)  # type: ignore[arg-type]


def _document_media_type(item: JsonObject, outer: str | None) -> str:
    """Return what the document is, by its own member, by what was said of it, and by its shape, in this order."""
    known = mediatypes.INDEXES | mediatypes.MANIFESTS
    outer = mediatypes.without_parameters(outer or "")
    inner = mediatypes.without_parameters(item.optional_text("mediaType") or "")
    if inner and outer in known and inner != outer:
        raise item.error("mediaType", f"expected {outer}, as announced, got {quoted(inner)}")
    if inner in mediatypes.SCHEMA1_MANIFESTS or outer in mediatypes.SCHEMA1_MANIFESTS or "fsLayers" in item:
        raise UnsupportedMediaTypeError(
            "expected an image manifest or index, got a Docker schema 1 manifest",
            hint="open_source() gives such an image out as an OCI image",
        )
    if inner and inner not in known:
        raise UnsupportedMediaTypeError(f"expected an image manifest or index, got {quoted(inner)}")
    by_shape = mediatypes.OCI_INDEX if "manifests" in item else mediatypes.OCI_MANIFEST
    return inner or (outer if outer in known else by_shape)


class HistoryEntry(NamedTuple):
    """One line of an image's history; those with ``empty_layer`` have no layer.

    Spec: image-spec 1.1 config.md, "history".
    """

    created_by: str | None
    created: str | None
    comment: str | None
    author: str | None
    empty_layer: bool


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """How a container of the image is to be started.

    Spec: image-spec 1.1 config.md, "config".
    """

    user: str | None
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    working_dir: str | None
    labels: Mapping[str, str] = field(hash=False)
    exposed_ports: tuple[str, ...]
    volumes: tuple[str, ...]
    stop_signal: str | None

    @classmethod
    def from_json(cls, item: JsonObject) -> ContainerConfig:
        """Return the ``config`` member of an image config."""
        return cls(
            user=item.optional_text("User"),
            env=item.texts("Env"),
            entrypoint=item.texts("Entrypoint"),
            cmd=item.texts("Cmd"),
            working_dir=item.optional_text("WorkingDir"),
            labels=item.text_map("Labels"),
            exposed_ports=item.keys_of("ExposedPorts"),
            volumes=item.keys_of("Volumes"),
            stop_signal=item.optional_text("StopSignal"),
        )


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image's configuration; its digest is what docker calls the image ID.

    Spec: image-spec 1.1 config.md.
    """

    raw: bytes = field(repr=False)
    digest: Digest
    platform: Platform
    diff_ids: tuple[Digest, ...]
    history: tuple[HistoryEntry, ...]
    container: ContainerConfig
    created: str | None
    author: str | None


def parse_config(raw: bytes, digest: Digest | None = None) -> ImageConfig:
    """Return the image config that ``raw`` is.

    Raises:
        InvalidImageError: it breaks the specification; `where` says at which field.
    """
    digest = digest or Digest.of(raw)
    with locating(f"config {digest}"):
        item = parse_json_object(raw, where="")
        rootfs = item.object("rootfs")
        if rootfs.text("type") != "layers":
            raise rootfs.error("type", f"expected 'layers', got {quoted(rootfs.text('type'))}")
        container = item.optional_object("config")
        return ImageConfig(
            raw=raw,
            digest=digest,
            platform=Platform.from_json(item),
            diff_ids=tuple(
                _parse_digest(rootfs, f"diff_ids[{number}]", text)
                for number, text in enumerate(rootfs.texts("diff_ids"))
            ),
            history=tuple(
                HistoryEntry(
                    created_by=entry.optional_text("created_by"),
                    created=entry.optional_text("created"),
                    comment=entry.optional_text("comment"),
                    author=entry.optional_text("author"),
                    empty_layer=entry.boolean("empty_layer"),
                )
                for entry in item.objects("history")
            ),
            container=ContainerConfig.from_json(container if container is not None else JsonObject({}, "config")),
            created=item.optional_text("created"),
            author=item.optional_text("author"),
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as stored, and the digest of its uncompressed tar.

    Args:
        number: from 1, lowest first.
        count: of all layers of the image.
        descriptor: of the blob.
        diff_id: of the uncompressed tar.
    """

    number: int
    count: int
    descriptor: Descriptor
    diff_id: Digest

    def __str__(self) -> str:
        return f"layer {self.number} of {self.count} ({self.descriptor.digest})"


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[Layer, ...]:
    """Return the manifest's layers, each with its diff_id, lowest first.

    Raises:
        InvalidImageError: there are not as many diff_ids as layers.

    Spec: image-spec 1.1 config.md, "rootfs".
    """
    count = len(manifest.layers)
    if count != len(config.diff_ids):
        raise InvalidImageError(
            f"expected as many diff_ids as layers, got {count} layers but {len(config.diff_ids)} diff_ids",
            where=f"manifest {manifest.digest}: config {config.digest}",
        )
    return tuple(
        Layer(number, count, descriptor, diff_id)
        for number, (descriptor, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True), start=1)
    )


AnyDocument: TypeAlias = Index | Manifest
