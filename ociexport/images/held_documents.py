"""Documents and blobs that a destination has, so that a source far away need not send them, or sends them early.

A source that takes part has the methods of `FarSource`; every other source is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Protocol, runtime_checkable

from ociexport.errors import OciexportError
from ociexport.images.source import BlobOpener, ImageSource, ReceivedManifest
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES, Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import Manifest


class Turn(Protocol):
    """What one process or thread has at a time."""

    def close(self) -> None:
        """Let another have it."""


@runtime_checkable
class ListingStore(BlobOpener, Protocol):
    """A store of blobs that lists images by name, such as a layout."""

    def listed_before(self, full_name: str) -> Descriptor | None:
        """Return the image that had this name when the run began; None if none had it, or several."""

    def take_asking_turn(self) -> Turn | None:
        """Return the turn to request blobs that the store lacks, before it is told of them; None if another has it."""

    def seems_to_have(self, descriptor: Descriptor) -> bool:
        """Whether a blob, or a part of it, is there; nothing is read."""


@runtime_checkable
class FarSource(Protocol):
    """A source that each document costs a round trip."""

    def use_held(self, store: ListingStore) -> None:
        """From now on, ask only for documents that ``store`` lacks."""

    def open_ahead(self, descriptors: Sequence[Descriptor], turn: Turn | None = None) -> None:
        """Request these blobs now; `open_blob` returns them later. The turn is closed when it has returned the last."""


def use_held_documents(source: ImageSource, store: object) -> None:
    """From now on, ``source`` sends only those documents that ``store``, a destination, lacks."""
    if isinstance(source, FarSource) and isinstance(store, ListingStore):
        source.use_held(store)


def open_first_ahead(source: object, manifest: Manifest) -> None:
    """Request the first layer, which is read after the config, at the same time as the config."""
    if isinstance(source, FarSource) and manifest.layers and manifest.layers[0].data is None:
        source.open_ahead(manifest.layers[:1])


def read_listed(store: ListingStore, full_name: str) -> ReceivedManifest | None:
    """Return the document that had this name in ``store`` when the run began, verified; None if there is none."""
    listed = store.listed_before(full_name)
    return read_held(store, listed) if listed is not None else None


def read_held(store: BlobOpener, descriptor: Descriptor) -> ReceivedManifest | None:
    """Return the document that ``descriptor`` names, verified; None if ``store`` lacks it or has it damaged.

    Args:
        descriptor: its size may be 0 if it is not known.
    """
    limit = min(descriptor.size or MAX_MANIFEST_BYTES, MAX_MANIFEST_BYTES)
    raw = bytearray()
    try:
        with closing(store.open_blob(descriptor)) as stream:
            while len(raw) <= limit and (part := stream.read(limit + 1 - len(raw))):
                raw += part
    except (OciexportError, OSError):
        return None
    if len(raw) > limit or (descriptor.size and len(raw) != descriptor.size):
        return None
    if Digest.of(raw, descriptor.digest.algorithm) != descriptor.digest:
        return None
    return ReceivedManifest(bytes(raw), descriptor.media_type or None, descriptor.digest)
