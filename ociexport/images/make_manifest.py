"""Making a manifest from a config and stored layers, for an image whose own manifest is missing or lacks fields.

Spec: image-spec 1.1 manifest.md; config.md, "Layer DiffID".
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ociexport.images.source import ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.system.compression import read_layer, verify_ratio
from ociexport.system.read_ahead import HashAhead

_LAYER_TYPES = {b"\x1f\x8b": mediatypes.OCI_LAYER_GZIP, b"\x28\xb5": mediatypes.OCI_LAYER_ZSTD}
# How many chunks of 1 MiB may wait to be hashed.
_CHUNKS_AHEAD = 4


def make_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> ReceivedManifest:
    """Return an OCI manifest of ``config`` and ``layers``; the same bytes each time."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    raw = json.dumps(manifest, separators=(",", ":")).encode()
    return ReceivedManifest(raw, mediatypes.OCI_MANIFEST, Digest.of(raw))


def layer_type_of(head: bytes) -> str:
    """Return the media type of a layer that begins with ``head``, at least its first two bytes."""
    return _LAYER_TYPES.get(head[:2], mediatypes.OCI_LAYER)


def compute_diff_id(blob: ByteStream, size: int) -> Digest:
    """Return the digest of the uncompressed tar in ``blob``, which is read to its end; the caller closes it.

    Args:
        size: of the blob in bytes; a tar that is far larger counts as a decompression bomb.

    Raises:
        InvalidImageError: it is no tar, or the compressed data is damaged.
        LimitExceededError: it is a decompression bomb, or takes too much memory.
    """
    algorithm = Digest.of(b"")
    hasher = HashAhead(algorithm, _CHUNKS_AHEAD)
    seen_bytes = 0
    try:
        for chunk in read_layer(blob):
            seen_bytes += len(chunk)
            verify_ratio(seen_bytes, size)
            hasher.update(chunk)
    finally:
        encoded = hasher.finish()
    return Digest(algorithm.algorithm, encoded)
