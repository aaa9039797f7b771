"""Companions of an image in the same repository or layout: signatures, SBOMs, provenance.

They are found by tags derived from the image's digest, and as the referrers that name the image as their subject.

Spec: distribution-spec 1.1, "Listing Referrers", "Referrers Tag Schema"; cosign's SIGNATURE_SPEC.md, "Discovery".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from ociexport.images.budget import DocumentBudget
from ociexport.images.resolve import artifact_kind
from ociexport.images.source import ImageSource, ReceivedManifest, innermost
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Index, Manifest

# distribution-spec 1.1, "Pulling manifests": the longest tag; and the part of a digest that the referrers tag keeps.
_MAX_TAG_CHARACTERS = 128
_MAX_ENCODED_CHARACTERS = 64
_SIGNATURE_SUFFIX = ".sig"
_TAG_SUFFIXES = (_SIGNATURE_SUFFIX, ".att", ".sbom")
_COMPANION_TAG_PATTERN = re.compile(r"sha(?:256|384|512)-[0-9a-f]{64,128}(?:\.(?:sig|att|sbom))?")

# How entries of index.json say that they are about an image: the last part of ``kind``, as cosign and hauler write it.
KIND_ANNOTATION = "kind"
_SIGNATURES_KIND = "sigs"
_COMPANION_KINDS = frozenset({_SIGNATURES_KIND, "atts", "sboms", "referrers"})
# How the types of their layers begin; cosign gives them an image's config.
_COMPANION_LAYERS = (
    "application/vnd.dev.cosign",
    "application/vnd.dev.sigstore",
    "application/vnd.dsse",
    "application/vnd.in-toto",
    "application/vnd.cyclonedx",
    "application/vnd.syft",
    "application/spdx",
    "text/spdx",
)


@runtime_checkable
class CompanionSource(ImageSource, Protocol):
    """An `ImageSource` that can list its image's companions; a docker archive, for example, can't."""

    def fetch_tagged(self, tag: str) -> Iterator[ReceivedManifest]:
        """Yield the manifests that the image's repository has under ``tag``; nothing if the tag is missing.

        A layout may hold several repositories, and so several manifests with the same tag.

        Raises:
            RegistryError: the registry refused the request or failed.
        """

    def fetch_referrers(self, digest: Digest, budget: DocumentBudget) -> Iterator[Descriptor]:
        """Yield descriptors of the documents listed as referrers of ``digest``; their subjects are not verified.

        Args:
            budget: counts the documents that hold the list.

        Raises:
            RegistryError, InvalidImageError: the registry failed, or its answer is not a list of referrers.
        """


def companion_source(source: ImageSource) -> CompanionSource | None:
    """Return the source that lists the companions: ``source`` itself or the one it wraps; None if neither can."""
    inner = innermost(source)
    return inner if isinstance(inner, CompanionSource) else None


def companion_tags(digest: Digest) -> tuple[str, ...]:
    """Return the tags under which cosign stores signatures, attestations and SBOMs of ``digest``."""
    signatures = signature_tag(digest)
    if signatures is None:
        return ()
    stem = signatures.removesuffix(_SIGNATURE_SUFFIX)
    return tuple(stem + suffix for suffix in _TAG_SUFFIXES if len(stem + suffix) <= _MAX_TAG_CHARACTERS)


def is_companion_tag(tag: str) -> bool:
    """Whether ``tag`` is derived from a digest, and so names a companion, not an image."""
    return _COMPANION_TAG_PATTERN.fullmatch(tag) is not None


def says_companion(descriptor: Descriptor) -> bool:
    """Whether an entry of ``index.json`` says that it is about an image: a signature, an attestation, an SBOM."""
    return descriptor.annotations.get(KIND_ANNOTATION, "").rpartition("/")[2] in _COMPANION_KINDS


def says_signatures(descriptor: Descriptor) -> bool:
    """Whether an entry of ``index.json`` says that it holds the signatures of an image, whose digest it may lack."""
    return descriptor.annotations.get(KIND_ANNOTATION, "").rpartition("/")[2] == _SIGNATURES_KIND


def says_artifact(descriptor: Descriptor) -> bool:
    """Whether an entry says that it is an artifact; crane lists an image with its config's type as artifact type."""
    return descriptor.artifact_type is not None and descriptor.artifact_type not in mediatypes.IMAGE_CONFIGS


def is_runnable(descriptor: Descriptor, document: Index | Manifest) -> bool:
    """Whether ``document``, listed by ``descriptor``, may be an image: it is about no other, and no artifact."""
    if says_companion(descriptor) or says_artifact(descriptor) or document.subject is not None:
        return False
    if document.artifact_type is not None and document.artifact_type not in mediatypes.IMAGE_CONFIGS:
        return False
    if isinstance(document, Index):
        return True
    says = any(layer.media_type.startswith(_COMPANION_LAYERS) for layer in document.layers)
    return not says and artifact_kind(document) is None


def signature_tag(digest: Digest) -> str | None:
    """Return the tag under which cosign stores signatures of ``digest``; None if it would be too long for a tag."""
    tag = f"{digest.algorithm}-{digest.encoded}{_SIGNATURE_SUFFIX}"
    return tag if len(tag) <= _MAX_TAG_CHARACTERS else None


def referrers_tag(digest: Digest) -> str:
    """Return the tag of the list of referrers, for a registry without the referrers API."""
    return f"{digest.algorithm}-{digest.encoded[:_MAX_ENCODED_CHARACTERS]}"
