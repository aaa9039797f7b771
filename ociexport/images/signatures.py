"""Checking cosign's signatures with the user's public keys before an image gets a name.

Signatures are stored beside the image: under the tag ``sha256-<hex>.sig``, or as its referrers. Each signs a small
document that contains the image's digest. Only signatures by a key pair are checked, not certificates and transparency
logs ("keyless").

Spec: cosign's SIGNATURE_SPEC.md ("Simple Signing"); Sigstore's bundle format 0.3 with a DSSE envelope (DSSE's
protocol.md, "Signature Definition"; in-toto attestation Statement v1).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ociexport.errors import (
    InvalidDigestError,
    InvalidImageError,
    NotFoundError,
    SignatureError,
    quoted,
)
from ociexport.images.budget import DocumentBudget
from ociexport.images.companions import CompanionSource, companion_source, signature_tag
from ociexport.images.keys import VerificationKey
from ociexport.images.resolve import read_small_blob
from ociexport.images.source import (
    ConvertedSource,
    ImageSource,
    ReceivedManifest,
)
from ociexport.images.wrapping_source import WrappingSource
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.digested_bytes import is_schema1
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.manifest import Index, Manifest, parse_document

_SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIMPLE_SIGNING_KIND = "cosign container image signature"
_SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
_CERTIFICATE_ANNOTATION = "dev.sigstore.cosign/certificate"
# Artifact types of referrers that hold signatures. `cosign save` declares no type, only "sigs" in index.json.
_SIGNATURE_TYPES = ("application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.dev.sigstore.bundle")
_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle"
_IN_TOTO_TYPE = "application/vnd.in-toto+json"
_SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
# A payload takes a few hundred bytes, a bundle a few kilobytes.
_MAX_PAYLOAD_BYTES = 1024 * 1024
# Anyone who may push may push signatures without end; no honest image has so many.
_MAX_SIGNATURES = 256


@dataclass(frozen=True, slots=True)
class SignaturePolicy:
    """Which signatures an image must have.

    Args:
        keys: a signature by any of them is enough.
    """

    keys: tuple[VerificationKey, ...]

    def find(self, source: ImageSource, digest: Digest, reasons: list[str]) -> bool:
        """Whether a valid signature of ``digest`` exists; why others are not valid is appended to ``reasons``.

        Raises:
            RegistryError: the registry failed to list the signatures.
        """
        holder = companion_source(source)
        if holder is None:
            reasons.append("this kind of source holds none")
            return False
        for number, statement in enumerate(_statements_of(holder, digest, reasons)):
            if number == _MAX_SIGNATURES:
                reasons.append(f"more than {_MAX_SIGNATURES} signatures, the others were not checked")
                return False
            reason = statement.flaw(digest, self.keys)
            if reason is None:
                return True
            reasons.append(reason)
        return False


class SignedSource(WrappingSource):
    """An `ImageSource` around another that returns the image only if a valid signature covers it.

    1. As in cosign, a signature of an index covers everything that the index names by digest: nested indexes, their
       manifests, and attestations.
    2. An index without a signature is returned too, since it may lead to signed manifests. Every manifest requested
       through it, for whatever platform, must then have its own signature. ``cosign sign --recursive`` makes these.

    Blobs are passed on: a signed manifest contains their digests, which the caller verifies. Coverage is remembered by
    digest: a tag that has moved by the next request is checked again.

    Args:
        source: the image; closed with this one.
        policy: which signatures the image must have.
    """

    def __init__(self, source: ImageSource, policy: SignaturePolicy) -> None:
        super().__init__(source)
        self._policy = policy
        self._covered: set[Digest] = set()
        self._reasons: list[str] = []

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return a manifest that a signature covers, or an index; see `ImageSource`.

        Raises:
            SignatureError: no valid signature covers the manifest.
        """
        received = self.wrapped.fetch_manifest(descriptor)
        index = _index_of(received, descriptor)
        reasons: list[str] = []
        if received.digest in self._covered or self._policy.find(self.wrapped, received.digest, reasons):
            self._covered |= {received.digest, *(entry.digest for entry in (index.manifests if index else ()))}
            return received
        if descriptor is None:
            self._reasons = reasons
        if index is not None:
            return received
        places = ", ".join(quoted(key.place) for key in self._policy.keys)
        found = "; ".join(dict.fromkeys([*self._reasons, *reasons])) or "no signature found"
        raise SignatureError(
            f"{self.display_name}: manifest {received.digest}: expected a signature by the key in {places}: {found}"
        )


def _index_of(received: ReceivedManifest, descriptor: Descriptor | None) -> Index | None:
    """Return the index that was received; None if any reader might take the document for something else."""
    types = (received.media_type, (descriptor.media_type if descriptor is not None else "") or received.media_type)
    if any(is_schema1(received.raw, media_type) for media_type in types):
        return None
    with suppress(InvalidImageError):
        document = parse_document(received.raw, types[1], received.digest)
        return document if isinstance(document, Index) else None
    return None


def require_signature(source: ImageSource, policy: SignaturePolicy | None) -> ImageSource:
    """Return ``source`` without a policy; with one, a source around it that returns only a signed image.

    The signature is of the published image: it is checked before a conversion.
    """
    if policy is None:
        return source
    if isinstance(source, ConvertedSource):
        return source.around(SignedSource(source.published, policy))
    return SignedSource(source, policy)


@dataclass(frozen=True, slots=True)
class _Statement:
    """A signed document.

    Args:
        content: the signed bytes.
        signature: None if missing or not base64.
        named: digests that the content contains; None if it is no statement about an image.
        is_keyless: whether it has a certificate in place of a key.
    """

    content: bytes
    signature: bytes | None
    named: frozenset[str] | None
    is_keyless: bool

    def flaw(self, digest: Digest, keys: Sequence[VerificationKey]) -> str | None:
        """Return why this is no valid signature of ``digest``; None if it is one."""
        if self.signature is None or self.named is None:
            return "a signature that can't be read"
        signature = self.signature
        if not any(key.has_signed(self.content, signature) for key in keys):
            if self.is_keyless:
                return "a signature with a certificate (keyless), which is not checked"
            return "a signature by another key, or of altered content"
        if str(digest) not in self.named:
            return f"a signature of {', '.join(map(quoted, sorted(self.named))) or 'nothing'}"
        return None


def _statements_of(source: CompanionSource, digest: Digest, reasons: list[str]) -> Iterator[_Statement]:
    """Yield the documents stored as signatures of ``digest``; ``reasons`` gets a line for each unreadable one."""
    for manifest in _signature_manifests(source, digest, reasons):
        for layer in manifest.layers:
            try:
                if layer.media_type == _SIMPLE_SIGNING:
                    yield _read_simple_signing(source, layer)
                elif layer.media_type.startswith(_BUNDLE_TYPE):
                    yield _read_bundle(source, layer)
            except (InvalidImageError, NotFoundError) as error:
                reasons.append(f"a signature that can't be read ({error})")


def _signature_manifests(source: CompanionSource, digest: Digest, reasons: list[str]) -> Iterator[Manifest]:
    tag = signature_tag(digest)
    budget = DocumentBudget(f"{source.display_name}: signatures")
    for received in source.fetch_tagged(tag) if tag is not None else ():
        budget.take(received.raw)
        document = parse_document(received.raw, received.media_type, received.digest)
        if isinstance(document, Manifest):
            yield document
    for descriptor in source.fetch_referrers(digest, budget):
        if descriptor.artifact_type and not descriptor.artifact_type.startswith(_SIGNATURE_TYPES):
            continue
        budget.take_size(min(descriptor.size, MAX_MANIFEST_BYTES))
        yield from _read_referrer(source, descriptor, reasons)


def _read_referrer(source: CompanionSource, descriptor: Descriptor, reasons: list[str]) -> Iterator[Manifest]:
    """Yield the manifest of a referrer; nothing for an index or an unreadable manifest."""
    try:
        received = source.fetch_manifest(descriptor)
        document = parse_document(received.raw, descriptor.media_type or received.media_type, received.digest)
    except (InvalidImageError, NotFoundError) as error:
        reasons.append(f"a signature that can't be read ({error})")
        return
    if not isinstance(document, Index):
        yield document


def _read_simple_signing(source: ImageSource, layer: Descriptor) -> _Statement:
    content = read_small_blob(source, layer, _MAX_PAYLOAD_BYTES, f"signature payload {layer.digest}")
    signature = _decoded(layer.annotations.get(_SIGNATURE_ANNOTATION))
    critical = parse_json_object(content, where=f"signature payload {layer.digest}").object("critical")
    named = None
    if critical.text("type") == _SIMPLE_SIGNING_KIND:
        named = frozenset({critical.object("image").text("docker-manifest-digest")})
    return _Statement(content, signature, named, _CERTIFICATE_ANNOTATION in layer.annotations)


def _read_bundle(source: ImageSource, layer: Descriptor) -> _Statement:
    where = f"signature bundle {layer.digest}"
    raw = read_small_blob(source, layer, _MAX_PAYLOAD_BYTES, where)
    bundle = parse_json_object(raw, where=where)
    envelope = bundle.object("dsseEnvelope")
    kind = envelope.text("payloadType")
    payload = _decoded(envelope.text("payload")) or b""
    signatures = [_decoded(item.text("sig")) for item in envelope.objects("signatures")]
    named = _subjects_of(parse_json_object(payload, where=where)) if kind == _IN_TOTO_TYPE else None
    content = b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)
    material = bundle.optional_object("verificationMaterial")
    is_keyless = material is not None and material.optional_object("publicKey") is None
    return _Statement(content, signatures[0] if signatures else None, named, is_keyless)


def _subjects_of(statement: JsonObject) -> frozenset[str] | None:
    """Return the digests of a cosign statement's subjects; None for a statement of another kind."""
    if statement.text("predicateType") != _SIGN_PREDICATE:
        return None
    named = set()
    for subject in statement.objects("subject"):
        digests = subject.text_map("digest")
        for algorithm, encoded in digests.items():
            with suppress(InvalidDigestError):
                named.add(str(Digest.parse(f"{algorithm}:{encoded}")))
    return frozenset(named)


def _decoded(text: str | None) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if text is not None else None
    except (binascii.Error, ValueError):
        return None
