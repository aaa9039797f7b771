"""The manifests of an image, as a report shows them: platforms, times, and what an attestation or a signature is.

Spec: image-spec 1.1 image-index.md, manifest.md, config.md "created", annotations.md; RFC 3339.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum

from ociexport.errors import InvalidDigestError, InvalidImageError, NotFoundError
from ociexport.images.companions import is_companion_tag
from ociexport.images.resolve import MAX_INDEX_DEPTH, artifact_kind, read_config
from ociexport.spec import mediatypes
from ociexport.spec.config import ImageConfig
from ociexport.spec.descriptor import ATTESTED_ANNOTATION, Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.manifest import Index, Manifest, parse_document
from ociexport.verification.listed import ListedEntry
from ociexport.verification.walk import Root

_CREATED_ANNOTATION = "org.opencontainers.image.created"
# Docker writes this year for a time that is not known.
_YEAR_OF_NO_TIME = 1
_PREDICATE_ANNOTATIONS = ("in-toto.io/predicate-type", "predicateType", "dev.sigstore.bundle.predicateType")
_BUNDLE_CONTENT_ANNOTATION = "dev.sigstore.bundle.content"


class AboutKind(Enum):
    """What a document about an image is. The values are stable, since scripts compare them."""

    SIGNATURE = "signature"
    SBOM = "sbom"
    PROVENANCE = "provenance"
    ATTESTATION = "attestation"
    OTHER = "other"


# Parts of media types and predicate types; the first that occurs decides.
_WORDS: tuple[tuple[str, AboutKind], ...] = (
    ("cosign.simplesigning", AboutKind.SIGNATURE),
    ("cosign/sign", AboutKind.SIGNATURE),
    ("cosign.artifact.sig", AboutKind.SIGNATURE),
    ("notary.signature", AboutKind.SIGNATURE),
    ("message-signature", AboutKind.SIGNATURE),
    ("spdx", AboutKind.SBOM),
    ("cyclonedx", AboutKind.SBOM),
    ("vnd.syft", AboutKind.SBOM),
    ("cosign.artifact.sbom", AboutKind.SBOM),
    ("slsa.dev/provenance", AboutKind.PROVENANCE),
)
_ATTESTATION_WORDS = ("in-toto", "dsse", "sigstore.bundle")


@dataclass(frozen=True, slots=True)
class Part:
    """One manifest of an image or of an index.

    Args:
        platform: from the index, or else from the config; None if neither declares one.
        created: from the config, or else from an annotation; None if neither has a time.
        layers: how many; None if the manifest is not stored.
        about: what it is, if it is about another image: a signature, an SBOM.
        subject: the image that it is about, as it declares.
    """

    digest: Digest
    size: int
    platform: str | None = None
    created: datetime | None = None
    config: Digest | None = None
    layers: int | None = None
    artifact_type: str | None = None
    about: tuple[AboutKind, ...] = ()
    subject: Digest | None = None


def read_parts(entry: ListedEntry) -> tuple[Part, ...]:
    """Return the manifests of an image in the order of its index; a manifest that can't be read has no layers."""
    return tuple(_parts_of(entry.root, entry.descriptor, entry.document, entry, MAX_INDEX_DEPTH))


def created_of(entry: ListedEntry) -> datetime | None:
    """Return the time of the newest platform of an image; None if it has no time."""
    return newest(part.created for part in read_parts(entry) if not part.about) or parse_annotated(entry.document)


def newest(times: Iterable[datetime | None]) -> datetime | None:
    """Return the latest of ``times``; None if there is none."""
    return max((time for time in times if time is not None), default=None)


def parse_time(text: str | None) -> datetime | None:
    """Return an RFC 3339 time; None if it is none, or stands for an unknown time."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text.strip())
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return None if time.year == _YEAR_OF_NO_TIME else time


def _parts_of(
    root: Root, descriptor: Descriptor, document: Index | Manifest | None, entry: ListedEntry, depth_left: int
) -> Iterator[Part]:
    if isinstance(document, Index):
        for child in document.manifests if depth_left else ():
            yield from _parts_of(root, child, _read(root, child), entry, depth_left - 1)
        return
    platform = str(descriptor.platform) if descriptor.platform is not None else None
    if document is None:
        yield Part(descriptor.digest, descriptor.size, platform, artifact_type=descriptor.artifact_type)
        return
    config = _config_of(root, document)
    declared = config.declared_platform if config is not None else None
    yield Part(
        digest=document.digest,
        size=len(document.raw),
        platform=platform or (str(declared) if declared is not None else None),
        created=(parse_time(config.created) if config is not None else None) or parse_annotated(document),
        config=document.config.digest,
        layers=len(document.layers),
        artifact_type=document.artifact_type or artifact_kind(document),
        about=_about(document, descriptor, entry),
        subject=_subject_of(document, descriptor),
    )


def _read(root: Root, descriptor: Descriptor) -> Index | Manifest | None:
    if descriptor.media_type and descriptor.media_type not in mediatypes.DOCUMENTS:
        return None
    with suppress(NotFoundError, InvalidImageError, OSError):
        received = root.source.fetch_manifest(descriptor)
        return parse_document(received.raw, descriptor.media_type or received.media_type, received.digest)
    return None


def _config_of(root: Root, manifest: Manifest) -> ImageConfig | None:
    if artifact_kind(manifest) is None:
        with suppress(NotFoundError, InvalidImageError, OSError):
            return read_config(root.source, manifest)
    return None


def parse_annotated(document: Index | Manifest | None) -> datetime | None:
    """Return the time in the annotation of a document; None if it has none."""
    return parse_time(document.annotations.get(_CREATED_ANNOTATION)) if document is not None else None


def _subject_of(manifest: Manifest, descriptor: Descriptor) -> Digest | None:
    if manifest.subject is not None:
        return manifest.subject.digest
    with suppress(InvalidDigestError):
        if descriptor.is_attestation:
            return Digest.parse(descriptor.annotations[ATTESTED_ANNOTATION])
    return None


def _about(manifest: Manifest, descriptor: Descriptor, entry: ListedEntry) -> tuple[AboutKind, ...]:
    """Return what a manifest is, if it is about an image; one manifest may hold an SBOM and provenance."""
    if not (descriptor.is_attestation or manifest.subject is not None or entry.is_companion):
        return ()
    suffix = next((tag.rpartition(".")[2] for tag in entry.tags if is_companion_tag(tag)), "")
    if suffix == "sig":
        return (AboutKind.SIGNATURE,)
    if suffix == "sbom":
        return (AboutKind.SBOM,)
    found = [_kind_of(_words_of(layer.media_type, layer.annotations)) for layer in manifest.layers]
    whole = _kind_of(_words_of(manifest.artifact_type or manifest.config.media_type, manifest.annotations))
    # The layers say it best; a bundle's type does not tell a signature from an attestation.
    kinds = {kind for kind in found if kind is not None}
    if not kinds or (kinds == {AboutKind.ATTESTATION} and whole is not None):
        kinds = {whole} if whole is not None else kinds
    if not kinds:
        kinds = {AboutKind.ATTESTATION if descriptor.is_attestation or suffix == "att" else AboutKind.OTHER}
    return tuple(kind for kind in AboutKind if kind in kinds)


def _words_of(media_type: str, annotations: Mapping[str, str]) -> str:
    stated = [annotations.get(key, "") for key in (*_PREDICATE_ANNOTATIONS, _BUNDLE_CONTENT_ANNOTATION)]
    return " ".join((*stated, media_type)).lower()


def _kind_of(words: str) -> AboutKind | None:
    kind = next((kind for word, kind in _WORDS if word in words), None)
    return kind or (AboutKind.ATTESTATION if any(word in words for word in _ATTESTATION_WORDS) else None)
