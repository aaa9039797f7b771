"""What must be beside an image before it is copied: a signature, an SBOM, or any referrer (``pull --require``).

Only their presence is required; `ociexport.images.signatures` checks a signature with a key.

Spec: cosign's SIGNATURE_SPEC.md, SBOM_SPEC.md and ATTESTATION_SPEC.md; notaryproject's signature-specification;
BuildKit's attestation-storage.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ociexport.errors import NotFoundError
from ociexport.images.companions import says_signatures
from ociexport.images.prepare import PreparedImage, PreparedManifest
from ociexport.spec.digest import Digest

SIGNATURE, SBOM, REFERRERS = "signature", "sbom", "referrers"
REQUIREMENTS = (SIGNATURE, SBOM, REFERRERS)
_SHOWN = {SIGNATURE: "a signature", SBOM: "an SBOM", REFERRERS: "referrers"}
# Parts of media types, artifact types and predicate types.
_SIGNATURE_WORDS = ("cosign.artifact.sig.", "cosign.simplesigning", "cncf.notary.signature", "sigstore.dev/cosign/sign")
_SBOM_WORDS = ("spdx", "cyclonedx", "syft", "sbom")
_BUNDLE_WORD = "vnd.dev.sigstore.bundle"
_PREDICATES = ("predicateType", "in-toto.io/predicate-type", "dev.sigstore.bundle.predicateType")


def verify_has(image: PreparedImage, companions: Sequence[PreparedImage], required: Collection[str]) -> None:
    """Return if each of ``required`` is beside the image, among the companions that are copied with it.

    Raises:
        NotFoundError: one is not.
    """
    if not required:
        return
    found = set(_kinds_beside(image, companions))
    for kind in REQUIREMENTS:
        if kind in required and kind not in found:
            others = "other referrers only" if companions else "none"
            raise NotFoundError(
                f"{image.source.display_name}: expected {_SHOWN[kind]} of {image.listed.digest}, got {others}",
                hint="the published index may have it: --all or --sparse copies that index"
                if image.published not in image.subjects
                else None,
            )


def _kinds_beside(image: PreparedImage, companions: Sequence[PreparedImage]) -> Iterator[str]:
    subjects = set(image.subjects)
    for companion in companions:
        yield REFERRERS
        if _is_about(companion, subjects):
            yield from _kinds_of(companion)
    # BuildKit's attestations are manifests of the index itself.
    for one in image.manifests:
        if one.config is None and len(image.manifests) > 1 and SBOM in _kinds_in(_words_of(one)):
            yield SBOM


def _is_about(companion: PreparedImage, subjects: Collection[Digest]) -> bool:
    """Whether a companion is about the image itself, and not, for example, a signature of its SBOM."""
    if says_signatures(companion.listed):
        return True  # cosign save does not say of what
    tag = companion.name.tag or ""
    if any(tag.startswith(f"{digest.algorithm}-{digest.encoded}") for digest in subjects):
        return True
    subject = companion.main.manifest.subject if companion.main is not None else None
    return subject is not None and subject.digest in subjects


def _kinds_of(companion: PreparedImage) -> set[str]:
    tag = companion.name.tag or ""
    kinds = {kind for kind, suffix in ((SIGNATURE, ".sig"), (SBOM, ".sbom")) if tag.endswith(suffix)}
    if says_signatures(companion.listed):
        kinds.add(SIGNATURE)
    words = [companion.listed.artifact_type or "", *companion.listed.annotations.values()]
    for one in companion.manifests:
        words += _words_of(one)
    return kinds | _kinds_in(words)


def _words_of(one: PreparedManifest) -> list[str]:
    """Return the types in a manifest that tell what it holds."""
    manifest = one.manifest
    annotations = (manifest.annotations, *(layer.annotations for layer in manifest.layers))
    predicates = [known[key] for known in annotations for key in _PREDICATES if key in known]
    types = [manifest.artifact_type or "", manifest.config.media_type, *(layer.media_type for layer in manifest.layers)]
    return [*types, *predicates]


def _kinds_in(words: Sequence[str]) -> set[str]:
    lower = [word.lower() for word in words]
    kinds = set()
    if any(part in word for word in lower for part in _SBOM_WORDS):
        kinds.add(SBOM)
    # A bundle holds a signature, or a signed statement of another type.
    is_bundle = any(_BUNDLE_WORD in word for word in lower) and not kinds
    if is_bundle or any(part in word for word in lower for part in _SIGNATURE_WORDS):
        kinds.add(SIGNATURE)
    return kinds
