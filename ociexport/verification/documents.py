"""References in documents that are flawed or of an unknown type, as far as they can be read."""

from __future__ import annotations

from collections.abc import Iterator

from ociexport.errors import InvalidDigestError, InvalidImageError
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject


def readable_descriptors(item: JsonObject, key: str) -> list[Descriptor]:
    """Return the valid descriptors under ``key``, one or a list. The flaws of others are reported elsewhere."""
    value = item.members.get(key)
    found = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            try:
                found.append(Descriptor.from_json(JsonObject(one, "")))
            except InvalidImageError:
                continue
    return found


def is_foreign(layer: Descriptor) -> bool:
    """Whether a layer is fetched from its URLs, so that registries and layouts need not have it."""
    return bool(layer.urls) or layer.media_type in mediatypes.FOREIGN_LAYERS


def digests_in(value: object) -> Iterator[tuple[Digest, int | None]]:
    """Yield the digests in a document that may reference blobs, with the sizes beside them."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key in ("digest", "blobSum"):
                digest = _digest_or_none(value.get(key))
                if digest is not None:
                    size = value.get("size")
                    yield digest, size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _digest_or_none(value: object) -> Digest | None:
    try:
        return Digest.parse(value) if isinstance(value, str) else None
    except InvalidDigestError:
        return None
