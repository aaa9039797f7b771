"""Blobs stored in a layout without an image, complete or partial."""

from __future__ import annotations

import contextlib

from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout

CONTENT = b"some blob " * 1000
BLOB = Descriptor("application/x", Digest.of(CONTENT), len(CONTENT))


def store(layout: ImageLayout, content: bytes = CONTENT) -> Descriptor:
    descriptor = Descriptor("application/x", Digest.of(content), len(content))
    with layout.new_blob(descriptor) as blob:
        blob.write(content)
    return descriptor


def store_a_part(layout: ImageLayout, part: bytes) -> None:
    """Write the beginning of the blob, as a broken transfer does."""
    with contextlib.suppress(ConnectionError), layout.new_blob(BLOB) as blob:
        blob.write(part)
        raise ConnectionError
