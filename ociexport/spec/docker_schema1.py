"""Docker's image manifests of schema 1, which registries served from 2014 on and some still keep.

Such a manifest has the digests of layers, newest first, and beside each the JSON that the layer has in Docker's first
format; no sizes and no diff_ids. Mostly it is signed: the signature stands within the document, and the digest by which
the manifest is known is of what was signed, the *payload*, and not of the bytes that are served.

Only that is verified here: that the payload is what the signature's header says, and that the served document says
nothing else. The signature itself proves nothing, since the key that made it stands beside it, and anybody may make
one; the tools that once looked at it do not any more.

Spec: distribution ``docs/spec/manifest-v2-1.md``; libtrust's JSON signatures for ``formatLength`` and ``formatTail``.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import NamedTuple

from ociexport.errors import InvalidDigestError, InvalidImageError, LimitExceededError, locating
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.spec.docker_v1 import MAX_V1_LAYERS, V1Document, parse_v1_document, verify_v1_chain
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.manifest import Document

_SIGNATURES = "signatures"


class Schema1Layer(NamedTuple):
    """One entry of ``fsLayers`` with its entry of ``history``.

    Args:
        digest: of the layer as stored.
        document: the JSON of the layer.
    """

    digest: Digest
    document: V1Document


@dataclass(frozen=True, slots=True)
class Schema1Manifest(Document):
    """A manifest of schema 1.

    Args:
        raw: as it was served; what was signed is a part of it.
        digest: of what was signed, or of all where it is not signed.
        steps: of the image's making, oldest first; those whose document says that it is empty have no layer.
    """

    steps: tuple[Schema1Layer, ...]
    architecture: str | None

    @property
    def documents(self) -> tuple[V1Document, ...]:
        """The JSON of each step, oldest first."""
        return tuple(step.document for step in self.steps)

    @property
    def layers(self) -> tuple[Digest, ...]:
        """The digests of the layers that an image made of it has, lowest first."""
        return tuple(step.digest for step in self.steps if not step.document.is_empty)


def is_schema1(raw: bytes, media_type: str | None) -> bool:
    """Whether a document is a manifest of schema 1: by what was said of it, or by itself where nothing was.

    Registries serve such manifests as ``application/json`` and ``text/plain`` too.
    """
    kind = mediatypes.without_parameters(media_type or "")
    if kind in mediatypes.SCHEMA1_MANIFESTS:
        return True
    if kind in mediatypes.INDEXES | mediatypes.MANIFESTS or b'"schemaVersion"' not in raw:
        return False
    try:
        return parse_json_object(raw, where="").members.get("schemaVersion") == 1
    except InvalidImageError:
        return False


def digested_bytes(raw: bytes, media_type: str | None) -> bytes:
    """Return what the digest of a served document is of: its own bytes, or what was signed of a manifest of schema 1.

    Raises:
        InvalidImageError: what was signed is not what the document says.
    """
    if not is_schema1(raw, media_type):
        return raw
    return _payload_of(raw, parse_json_object(raw, where=""))


def parse_schema1(raw: bytes, media_type: str | None, digest: Digest | None = None) -> Schema1Manifest:
    """Return the manifest of schema 1 that ``raw`` is.

    That it is what ``digest`` names is the caller's business.

    Raises:
        InvalidImageError: it breaks the specification; `where` says at which field.
        LimitExceededError: there are more layers than any image has.
    """
    with locating(f"manifest {digest or Digest.of(raw)}"):
        served = parse_json_object(raw, where="")
        payload = _payload_of(raw, served)
        digest = digest or Digest.of(payload)
        # What was signed, as docker reads it, and nothing beside it.
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
    try:
        digest = Digest.parse(layer.text("blobSum"))
    except InvalidDigestError as error:
        raise layer.error("blobSum", str(error).removeprefix("digest: ")) from error
    document = entry.text("v1Compatibility").encode()
    return Schema1Layer(digest, parse_v1_document(document, f"{entry.where}: v1Compatibility"))


def _without_repeated(steps: list[Schema1Layer]) -> list[Schema1Layer]:
    """Return ``steps`` without those that repeat the ID of the one before.

    docker 1.3 to 1.8 pushed some layers twice in a row, as the specification's own example shows.
    """
    return [
        step
        for number, step in enumerate(steps)
        if not (number and step.document.id and step.document.id == steps[number - 1].document.id)
    ]


def _payload_of(raw: bytes, served: JsonObject) -> bytes:
    """Return what was signed of the document ``raw``, which says ``served``; ``raw`` itself where nothing was.

    Each signature has a header, which is signed too, that says how many bytes of the document were signed, and what
    came after them before the signatures were put there.
    """
    # Compared before anything is cut out: of a thousand signatures each could name some megabytes of its own.
    parts = {_signed_part(raw, signature) for signature in served.objects(_SIGNATURES)}
    if not parts:
        return raw
    if len(parts) > 1:
        raise served.error(_SIGNATURES, "expected signatures of one document, got some of different ones")
    length, tail = parts.pop()
    payload = raw[:length] + tail
    signed = parse_json_object(payload, where=_SIGNATURES)
    if signed.members != {key: value for key, value in served.members.items() if key != _SIGNATURES}:
        raise served.error(_SIGNATURES, "expected what was signed to be what the document says, got something else")
    return payload


def _signed_part(raw: bytes, signature: JsonObject) -> tuple[int, bytes]:
    """Return how many bytes of ``raw`` were signed, and what came after them."""
    place = f"{signature.where}: protected"
    header = parse_json_object(_decoded(signature.text("protected"), place), where=place)
    length = header.integer("formatLength")
    if not 0 <= length <= len(raw):
        raise header.error("formatLength", f"expected 0 to {len(raw)}, the document's length, got {length}")
    return length, _decoded(header.text("formatTail"), f"{place}: formatTail")


def _decoded(text: str, where: str) -> bytes:
    """Return what ``text`` is in base64 for URLs, without padding, as in RFC 7515."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImageError("expected base64", where=where) from error
