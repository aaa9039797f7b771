"""Unchanged: which images of a lock file a layout has already, found without a request and without reading a layer."""

from __future__ import annotations

import json
from typing import Any

from ociexport.errors import NotFoundError, OciexportError
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES
from ociexport.spec.digest import Digest
from ociexport.storage.layout.blobs import blob_name
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.lists.locked import LockedImage

_MAX_DEPTH = 8


class Unchanged:
    """Compares locked images with what a layout lists and stores.

    A layout has an image if ``index.json`` lists it under its name, with the locked digest, and all documents and blobs
    of the locked platforms are there. Documents are verified; of blobs, only the size is compared, as `ociexport
    verify` reads them.

    Args:
        layout: may be missing; then it has none.
    """

    def __init__(self, layout: ImageLayout) -> None:
        self._layout = layout
        self._listed: set[tuple[str, Digest]] = set()
        self._sizes: dict[str, int | None] = {}
        try:
            images = layout.read_images()
        except NotFoundError:
            images = []
        for descriptor, name in images:
            self._listed |= {(text, descriptor.digest) for text in (name.full, name.tag) if text is not None}

    def has(self, locked: LockedImage) -> bool:
        """Whether the layout has the image as it was locked."""
        if (locked.name, locked.listed) not in self._listed:
            return False
        wanted = {str(one.digest) for one in locked.manifests}
        try:
            return self._has_document(str(locked.listed), None if locked.choice.takes_all else wanted, 0)
        except (OciexportError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False  # a pull says what is wrong with it

    def _has_document(self, digest: str, wanted: set[str] | None, depth: int) -> bool:
        raw = self._layout.directory.read_file(blob_name(Digest.parse(digest)), MAX_MANIFEST_BYTES)
        if str(Digest.of(raw)) != digest or depth > _MAX_DEPTH:
            return False
        document: dict[str, Any] = json.loads(raw)
        if "manifests" not in document:
            blobs = [document["config"], *document.get("layers", [])]
            return all(self._size_of(blob["digest"]) == blob["size"] for blob in blobs)
        entries = [str(entry["digest"]) for entry in document["manifests"]]
        if wanted is None:
            return all(self._has_document(entry, None, depth + 1) for entry in entries)
        chosen = [entry for entry in entries if entry in wanted]
        # The platforms of nested indexes are not told apart here: a pull decides.
        return len(chosen) == len(wanted) and all(self._has_document(entry, wanted, depth + 1) for entry in chosen)

    def _size_of(self, digest: str) -> int | None:
        if digest not in self._sizes:
            try:
                self._sizes[digest] = self._layout.directory.status(blob_name(Digest.parse(digest))).st_size
            except OSError:
                self._sizes[digest] = None
        return self._sizes[digest]
