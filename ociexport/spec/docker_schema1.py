"""Docker image manifests of schema 1, which registries have served since 2014 and some still store.

Such a manifest lists the layers' digests, newest first, each with the layer's JSON in Docker's first format. It has no
sizes and no diff_ids. Most are signed. The signature is part of the document, and the manifest's digest is that of the
signed part, the *payload*, not of the bytes served.

Two things are verified here: the payload is the part that the signature's header describes, and the served document
has the same content. The signature itself is not verified. It proves nothing, because the key is beside it and anybody
can make one. Other tools no longer verify it either.

Spec: distribution ``docs/spec/manifest-v2-1.md``; libtrust's JSON signatures for ``formatLength`` and ``formatTail``.
"""

from __future__ import annotations

import base64
import binascii

from ociexport.errors import InvalidImageError, LimitExceededError, locating
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import parse_digest_of
from ociexport.spec.digest import Digest
from ociexport.spec.docker_v1 import MAX_V1_LAYERS, V1Document, parse_v1_document, verify_v1_chain
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.manifest import Document
from ociexport.spec.named_tuple import NamedTuple

_SIGNATURES = "signatures"


class Schema1Layer(NamedTuple):
    """One entry of ``fsLayers`` with its entry of ``history``.

    Args:
        digest: digest of the layer as stored.
        document: the layer's JSON.
    """

    digest: Digest
    document: V1Document


@dataclass(frozen=True, slots=True)
class Schema1Manifest(Document):
    """A manifest of schema 1.

    Args:
        raw: the document as served; the signed payload is a part of it.
        digest: digest of the signed payload, or of ``raw`` if it is not signed.
        steps: the image's build steps, oldest first; a step whose document is marked empty has no layer.
    """

    steps: tuple[Schema1Layer, ...]
    architecture: str | None

    @property
    def documents(self) -> tuple[V1Document, ...]:
        """The JSON of each step, oldest first."""
        return tuple(step.document for step in self.steps)

    @property
    def layers(self) -> tuple[Digest, ...]:
        """The digests of the layers that the converted image has, lowest first."""
        return tuple(step.digest for step in self.steps if not step.document.is_empty)


def parse_schema1(raw: bytes, media_type: str | None, digest: Digest | None = None) -> Schema1Manifest:
    """Return ``raw`` parsed as a manifest of schema 1.

    The caller verifies that it has the digest ``digest``.

    Raises:
        InvalidImageError: it breaks the specification; `where` names the field.
        LimitExceededError: there are more layers than any image has.
    """
    with locating(f"manifest {digest or Digest.of(raw)}"):
        served = parse_json_object(raw, where="")
        payload = signed_payload_of(raw, served)
        digest = digest or Digest.of(payload)
        # Only the payload is read, as in docker.
        item = parse_json_object(payload, where="")
        if item.integer("schemaVersion") != 1:
            raise item.error("schemaVersion", f"expected 1, got {item.integer('schemaVersion')}")
        layers, history = list(item.objects("fsLayers")), list(item.objects("history"))
        if len(layers) != len(history) or not layers:
            raise InvalidImageError(
                f"expected as many entries of history as of fsLayers, and at least one, "
                f"got {len(history)} and {len(layers)}"
            )
        if len(layers) > MAX_V1_LAYERS:
            raise LimitExceededError(f"expected at most {MAX_V1_LAYERS} layers, got {len(layers)}")
        steps = [_step(layer, entry) for layer, entry in zip(layers, history, strict=True)]
        kept = _without_repeated(steps[::-1])
        verify_v1_chain([step.document for step in kept], "history")
        is_signed = payload is not raw
        kind = mediatypes.DOCKER_SCHEMA1_SIGNED if is_signed else mediatypes.DOCKER_SCHEMA1
        return Schema1Manifest(raw, kind, digest, tuple(kept), item.optional_text("architecture"))


def _step(layer: JsonObject, entry: JsonObject) -> Schema1Layer:
    digest = parse_digest_of(layer, "blobSum", layer.text("blobSum"))
    document = entry.text("v1Compatibility").encode()
    return Schema1Layer(digest, parse_v1_document(document, f"{entry.where}: v1Compatibility"))


def _without_repeated(steps: list[Schema1Layer]) -> list[Schema1Layer]:
    """Return ``steps`` without each step that has the same ID as the one before.

    docker 1.3 to 1.8 pushed some layers twice in a row; the specification's own example shows it.
    """
    return [
        step
        for number, step in enumerate(steps)
        if not (number and step.document.id and step.document.id == steps[number - 1].document.id)
    ]


def signed_payload_of(raw: bytes, served: JsonObject) -> bytes:
    """Return the signed payload of ``raw``, whose content is ``served``; ``raw`` itself if it has no signatures.

    Each signature has a header, which is signed too. The header gives how many bytes of the document were signed, and
    the text that followed them before the signatures were inserted.
    """
    # Compared before any payload is built: each of a thousand signatures could name some megabytes of its own.
    parts = {_signed_part(raw, signature) for signature in served.objects(_SIGNATURES)}
    if not parts:
        return raw
    if len(parts) > 1:
        raise served.error(_SIGNATURES, "expected signatures of one document, got signatures of several")
    length, tail = parts.pop()
    payload = raw[:length] + tail
    signed = parse_json_object(payload, where=_SIGNATURES)
    if signed.members != {key: value for key, value in served.members.items() if key != _SIGNATURES}:
        raise served.error(_SIGNATURES, "expected a signed payload that matches the document, got a different one")
    return payload


def _signed_part(raw: bytes, signature: JsonObject) -> tuple[int, bytes]:
    """Return how many bytes of ``raw`` were signed, and the text that followed them."""
    place = f"{signature.where}: protected"
    header = parse_json_object(_decoded(signature.text("protected"), place), where=place)
    length = header.integer("formatLength")
    if not 0 <= length <= len(raw):
        raise header.error("formatLength", f"expected 0 to {len(raw)}, the document's length, got {length}")
    return length, _decoded(header.text("formatTail"), f"{place}: formatTail")


def _decoded(text: str, where: str) -> bytes:
    """Return the bytes that ``text`` encodes in base64 for URLs, without padding, as in RFC 7515."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImageError("expected base64", where=where) from error
