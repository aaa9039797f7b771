"""Which bytes of a served manifest its digest covers: all, except in Docker's schema 1, which few images have."""

from __future__ import annotations

from ociexport.errors import InvalidImageError
from ociexport.spec import mediatypes
from ociexport.spec.json_fields import parse_json_object


def is_schema1(raw: bytes, media_type: str | None) -> bool:
    """Whether a document is a manifest of schema 1: by its media type, or by its content if that is a general type.

    Registries also serve such manifests as ``application/json`` and ``text/plain``.
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
    """Return the bytes that a served document's digest covers: all, or the signed payload of a manifest of schema 1.

    Raises:
        InvalidImageError: the payload and the document differ in content.
    """
    if not is_schema1(raw, media_type):
        return raw
    from ociexport.spec.docker_schema1 import signed_payload_of  # noqa: PLC0415 - start-up: few images are of schema 1

    return signed_payload_of(raw, parse_json_object(raw, where=""))
