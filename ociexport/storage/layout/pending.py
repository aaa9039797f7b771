"""The images of a layout that wait for blobs: merged from bundles, and not named before all of their blobs are there.

They are kept in ``.ociexport/pending.json``, so that a bundle that comes later completes them. Their manifests and the
blobs that came already are in the layout. The document is written by ociexport for itself; its form may change.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ociexport.spec.descriptor import Descriptor, parse_digest_of
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.storage.index import MAX_INDEX_BYTES
from ociexport.storage.layout.blobs import OWN_DIRECTORY
from ociexport.storage.layout.documents import LOCK_FILE, to_json
from ociexport.storage.layout_directory import LayoutDirectory

PENDING_FILE = f"{OWN_DIRECTORY}/pending.json"


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image that waits.

    Args:
        descriptor: its entry for ``index.json``, with its names.
        bundle: name of the bundle that it came in.
        owners: by missing blob, the names of the bundles that should have it.
    """

    descriptor: Descriptor
    bundle: str
    owners: Mapping[Digest, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, item: JsonObject) -> PendingImage:
        """Return ``item`` as an image; raises `InvalidImageError`."""
        return cls(
            descriptor=Descriptor.from_json(item.object("descriptor")),
            bundle=item.text("bundle"),
            owners={
                parse_digest_of(owner, "digest", owner.text("digest")): owner.texts("bundles")
                for owner in item.objects("missing")
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Return the image as JSON."""
        return {
            "descriptor": self.descriptor.to_json(),
            "bundle": self.bundle,
            "missing": [{"digest": str(digest), "bundles": list(names)} for digest, names in self.owners.items()],
        }


def read_pending(directory: LayoutDirectory) -> tuple[PendingImage, ...]:
    """Return the images that wait in a layout.

    Raises:
        InvalidImageError: the document is damaged.
    """
    try:
        raw = directory.read_file(PENDING_FILE, MAX_INDEX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    item = parse_json_object(raw, where=directory.path_of(PENDING_FILE))
    return tuple(map(PendingImage.from_json, item.objects("images")))


def write_pending(directory: LayoutDirectory, done: Sequence[Descriptor], images: Sequence[PendingImage]) -> None:
    """Add ``images`` to those that wait, and remove those with the digests and names of ``done``.

    The layout must be in use, so that it has a directory for the document.
    """
    fd = directory.open_locked(LOCK_FILE)
    try:
        known = read_pending(directory)
        gone = [*done, *(image.descriptor for image in images)]
        left = [*(image for image in known if image.descriptor not in gone), *images]
        if left:
            content = to_json({"pendingVersion": 1, "images": [image.to_json() for image in left]})
            directory.write_file(PENDING_FILE, content, aside=OWN_DIRECTORY)
        elif known:
            directory.remove(PENDING_FILE)
    finally:
        os.close(fd)
