"""Indexes and manifests, the documents that refer to an image's parts, as frozen values.

Each document keeps the bytes that it was parsed from (`raw`) and their digest. A parsed document is never serialized
again, since any changed byte would change the digest.

Spec: image-spec 1.1 manifest.md, image-index.md; Docker "Image Manifest Version 2, Schema 2".
"""

from __future__ import annotations

from collections.abc import Mapping

from ociexport.errors import UnsupportedMediaTypeError, locating, quoted
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class Document:
    """The part common to manifests and indexes: the bytes, their media type and their digest."""

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
    """A config and its layers: an OCI manifest or a Docker manifest of schema 2."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(hash=False)
    subject: Descriptor | None
    artifact_type: str | None


def parse_document(raw: bytes, media_type: str | None, digest: Digest | None = None) -> Index | Manifest:
    """Return ``raw`` parsed as an index or a manifest.

    The caller verifies that ``raw`` has the digest ``digest``.

    Args:
        raw: the document as received; the caller has limited it to `MAX_MANIFEST_BYTES`.
        media_type: from the descriptor or the Content-Type; None or a general type if they do not specify one.
        digest: digest of ``raw``, if already known.

    Raises:
        UnsupportedMediaTypeError: a document of another kind, such as a schema 1 manifest.
        InvalidImageError: it breaks the specification; `where` names the field.

    Spec: image-spec 1.1 manifest.md, image-index.md; CVE-2021-41190 for the rule against ambiguous documents.
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
    """Return the document's media type: from its own member, from the outer type, or from its shape, in this order."""
    known = mediatypes.INDEXES | mediatypes.MANIFESTS
    outer = mediatypes.without_parameters(outer or "")
    inner = mediatypes.without_parameters(item.optional_text("mediaType") or "")
    if inner and outer in known and inner != outer:
        raise item.error("mediaType", f"expected {outer}, as announced, got {quoted(inner)}")
    if inner in mediatypes.SCHEMA1_MANIFESTS or outer in mediatypes.SCHEMA1_MANIFESTS or "fsLayers" in item:
        raise UnsupportedMediaTypeError(
            "expected an image manifest or index, got a Docker schema 1 manifest",
            hint="open_source() converts such an image to an OCI image",
        )
    if inner and inner not in known:
        raise UnsupportedMediaTypeError(f"expected an image manifest or index, got {quoted(inner)}")
    by_shape = mediatypes.OCI_INDEX if "manifests" in item else mediatypes.OCI_MANIFEST
    return inner or (outer if outer in known else by_shape)
