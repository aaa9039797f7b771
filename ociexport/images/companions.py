"""What lies beside an image in the same repository or layout: signatures, SBOMs, provenance.

They are found by tags that are made of the image's digest, and by the referrers that name the image as their subject.

Spec: distribution-spec 1.1, "Listing Referrers", "Referrers Tag Schema"; cosign's SIGNATURE_SPEC.md, "Discovery".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from ociexport.images.budget import DocumentBudget
from ociexport.images.source import ImageSource, ReceivedManifest, innermost
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest

# distribution-spec 1.1, "Pulling manifests": a tag has no more characters, and the referrers tag cuts the digest so.
_MAX_TAG_CHARACTERS = 128
_MAX_ENCODED_CHARACTERS = 64
_SIGNATURE_SUFFIX = ".sig"
_TAG_SUFFIXES = (_SIGNATURE_SUFFIX, ".att", ".sbom")
_COMPANION_TAG_PATTERN = re.compile(r"sha(?:256|384|512)-[0-9a-f]{64,128}(?:\.(?:sig|att|sbom))?")


@runtime_checkable
class CompanionSource(ImageSource, Protocol):
    """An `ImageSource` that knows what lies beside its image; a docker archive, for one, does not."""

    def fetch_tagged(self, tag: str) -> Iterator[ReceivedManifest]:
        """Yield what the image's repository has under ``tag``; nothing where there is no such tag.

        A layout may hold several repositories, and so several manifests of one tag.

        Raises:
            RegistryError: the registry does not tell.
        """

    def fetch_referrers(self, digest: Digest, budget: DocumentBudget) -> Iterator[Descriptor]:
        """Yield descriptors of what names ``digest`` as its subject, or is listed so; that it does is not verified.

        Args:
            budget: counts the documents that the list is in.

        Raises:
            RegistryError, InvalidImageError: the registry does not tell, or what it tells is no list.
        """


def companion_source(source: ImageSource) -> CompanionSource | None:
    """Return what knows the companions of ``source``'s image: itself, or what it stands before; None if nothing."""
    inner = innermost(source)
    return inner if isinstance(inner, CompanionSource) else None


def companion_tags(digest: Digest) -> tuple[str, ...]:
    """Return the tags that cosign puts what is about ``digest`` under: signatures, attestations, SBOMs."""
    signatures = signature_tag(digest)
    if signatures is None:
        return ()
    stem = signatures.removesuffix(_SIGNATURE_SUFFIX)
    return tuple(stem + suffix for suffix in _TAG_SUFFIXES if len(stem + suffix) <= _MAX_TAG_CHARACTERS)


def is_companion_tag(tag: str) -> bool:
    """Whether ``tag`` is made of a digest, and so names no image but what is about one."""
    return _COMPANION_TAG_PATTERN.fullmatch(tag) is not None


def signature_tag(digest: Digest) -> str | None:
    """Return the tag that cosign puts signatures of ``digest`` under; None for one that is too long for a tag."""
    tag = f"{digest.algorithm}-{digest.encoded}{_SIGNATURE_SUFFIX}"
    return tag if len(tag) <= _MAX_TAG_CHARACTERS else None


def referrers_tag(digest: Digest) -> str:
    """Return the tag of the list of referrers, where a registry has no such API."""
    return f"{digest.algorithm}-{digest.encoded[:_MAX_ENCODED_CHARACTERS]}"
