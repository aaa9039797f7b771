"""Storing layers as plain tars, under their diff_ids, and the manifests that name these.

Layers are inflated as they arrive, and both digests are verified. New manifests and indexes replace the published
ones; the config is unchanged.

Spec: image-spec 1.1 config.md, "Layer DiffID"; manifest.md, image-index.md, media-types.md.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from ociexport.errors import DiffIdMismatchError, DigestMismatchError, InvalidImageError, LimitExceededError
from ociexport.images.destination import BlobWriter
from ociexport.images.prepare import PreparedImage, PreparedManifest, name_of_copy
from ociexport.images.source import BlobOpener, ReceivedManifest
from ociexport.images.wanted_blobs import BlobToFetch, unite_blobs
from ociexport.spec import mediatypes
from ociexport.spec.config import pair_layers
from ociexport.spec.descriptor import ATTESTED_ANNOTATION, Descriptor
from ociexport.spec.digest import BlobCheck, Chunk, Digest, Verifier
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.manifest import Manifest, parse_document
from ociexport.storage.layout.blobs import LayoutBlobWriter
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.compression import read_layer, verify_ratio
from ociexport.system.memory import MEMORY_OPTION
from ociexport.system.progress.protocol import Progress
from ociexport.system.read_ahead import ChunkPipe
from ociexport.system.threads import start_thread

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# How many chunks of 1 MiB may wait to be inflated, for each layer.
_CHUNKS_AHEAD = 4
# Annotations that only fit the compressed layer: they hold the offsets of files in it.
_COMPRESSED_ONLY = ("containerd.io/snapshot/stargz/", "io.github.containers.zstd-chunked.", "io.containers.estargz.")


def diff_ids_of(images: Iterable[PreparedImage]) -> dict[Digest, Digest]:
    """Return the diff_ids of all compressed layers, by their digests.

    A layer is plain if both are equal, whatever its media type. An artifact has no diff_ids.

    Raises:
        DiffIdMismatchError: one digest has two diff_ids, so one of them is wrong.
    """
    diff_ids: dict[Digest, Digest] = {}
    for image in images:
        for one in image.manifests:
            for layer in pair_layers(one.manifest, one.config) if one.config is not None else ():
                known = diff_ids.setdefault(layer.descriptor.digest, layer.diff_id)
                if known != layer.diff_id:
                    raise DiffIdMismatchError(
                        f"diff_id: expected {known}, as for the same layer before, got {layer.diff_id}",
                        where=f"manifest {one.manifest.digest}: {layer}",
                    )
    return {digest: diff_id for digest, diff_id in diff_ids.items() if digest != diff_id}


class PlainLayers(Protocol):
    """Which compressed layers are stored as plain tars: by their digests the diff_ids, and by these the sizes."""

    @property
    def layout(self) -> BlobOpener: ...
    @property
    def diff_ids(self) -> Mapping[Digest, Digest]: ...
    @property
    def sizes(self) -> Mapping[Digest, int]: ...
    def is_compressed(self, digest: Digest) -> bool: ...


class PlainLayerStore:
    """A `BlobStore` that stores compressed layers as plain tars, and other blobs unchanged.

    Args:
        max_window_bytes: see `read_layer`.

    Attributes:
        layout: where they are stored.
        diff_ids: of the compressed layers, by their digests.
        sizes: of the stored plain layers in bytes, by their diff_ids.
    """

    # A compressed layer's diff_id is the digest it is stored under, so only the other blobs need a further check.
    takes_checks = True

    def __init__(
        self, layout: ImageLayout, diff_ids: Mapping[Digest, Digest], max_window_bytes: int | None = None
    ) -> None:
        self.layout = layout
        self.diff_ids = diff_ids
        self.max_window_bytes = max_window_bytes
        self._lock = threading.Lock()
        self.sizes: dict[Digest, int] = {}

    def is_compressed(self, digest: Digest) -> bool:
        """Whether the blob is a compressed layer."""
        return digest in self.diff_ids

    def stored_digest(self, digest: Digest) -> Digest:
        """Return the digest under which a blob is stored."""
        return self.diff_ids.get(digest, digest)

    def has_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> bool:
        """Whether the blob, or the layer's plain tar, is stored and valid: its bytes are read."""
        diff_id = self.diff_ids.get(descriptor.digest)
        if diff_id is None:
            return self.layout.has_blob(descriptor, check)
        size = self.sizes.get(diff_id)
        if size is None:
            size = self.layout.size_of_valid_blob(diff_id)
        if size is not None:
            self.note(diff_id, size)
        return size is not None

    def new_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> AbstractContextManager[BlobWriter]:
        """Return a writer for a blob; at the end of the ``with`` block it is verified and gets its name, or is removed.

        Raises:
            DigestMismatchError, SizeMismatchError: the written bytes do not match ``descriptor``.
            DiffIdMismatchError, InvalidImageError: they do, but do not hold the tar that the config names, or no tar.
        """
        diff_id = self.diff_ids.get(descriptor.digest)
        if diff_id is None:
            return self.layout.new_blob(descriptor, check)
        return _PlainLayerWriter(self, self.layout.new_blob_of_any_size(diff_id), descriptor, diff_id)

    def note(self, diff_id: Digest, size: int) -> None:
        """Remember the size of a stored plain layer."""
        with self._lock:
            self.sizes[diff_id] = size


class _PlainLayerWriter:
    """Takes a compressed layer, and writes the tar in it; a separate thread inflates it."""

    def __init__(
        self, store: PlainLayerStore, plain: LayoutBlobWriter, descriptor: Descriptor, diff_id: Digest
    ) -> None:
        self._store = store
        self._plain = plain
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._plain.__enter__()
        if not self.is_complete:
            # Inflating can't resume in the middle of a stream.
            self._plain.restart()
            self._begin()
        return self

    @property
    def is_complete(self) -> bool:
        """Whether another process has written the layer meanwhile."""
        return self._plain.is_complete

    @property
    def offset(self) -> int:
        """How many bytes of the compressed layer were taken."""
        return self._verifier.seen_bytes

    def restart(self) -> None:
        """Discard all bytes written so far."""
        self._stop(is_cut=True)
        self._plain.restart()
        self._begin()

    def write(self, chunk: Chunk, /) -> None:
        """Take the next bytes of the compressed layer.

        Raises:
            SizeMismatchError: there are more than the descriptor says.
            LimitExceededError, OSError: the tar is too large so far, or could not be written.
        """
        failure = self._failure
        # Damaged data is hashed to its end: a wrong digest is the more useful error. A bomb is not read on.
        is_damage = isinstance(failure, InvalidImageError) and not isinstance(failure, LimitExceededError)
        if failure is not None and not is_damage:
            raise failure
        self._verifier.update(chunk)
        self._pipe.put(chunk)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_complete:
            self._plain.__exit__(kind, error, traceback)
            # Hashed again to learn the size; this is rare.
            self._store.has_blob(self._descriptor)
            return
        self._stop(is_cut=error is not None)
        try:
            if error is None:
                # A wrong digest explains a damaged stream, so it is raised first.
                self._verifier.verify()
                if self._failure is not None:
                    raise self._failure
        except BaseException as found:
            self._plain.__exit__(type(found), found, None)
            raise
        if error is not None:
            # A part of a plain layer can't be used: see `__enter__`.
            self._plain.restart()
        size = self._plain.offset
        try:
            self._plain.__exit__(kind, error, traceback)
        except DigestMismatchError as mismatch:
            raise DiffIdMismatchError(mismatch.message.replace("digest", "diff_id", 1)) from mismatch
        if error is None:
            self._store.note(self._diff_id, size)

    def _begin(self) -> None:
        self._verifier = Verifier(self._descriptor.digest, self._descriptor.size, subject="")
        self._pipe = ChunkPipe(_CHUNKS_AHEAD)
        self._failure = None
        self._is_cut = False
        self._thread = start_thread(self._inflate, self._pipe, name="inflate")

    def _stop(self, *, is_cut: bool) -> None:
        self._is_cut = is_cut
        self._pipe.end()
        self._thread.join()

    def _inflate(self, pipe: ChunkPipe) -> None:
        try:
            chunks = read_layer(
                pipe,
                media_type=self._descriptor.media_type,
                max_window_bytes=self._store.max_window_bytes,
                option=MEMORY_OPTION,
            )
            for chunk in chunks:
                if self._is_cut:
                    return
                self._plain.write(chunk)
                verify_ratio(self._plain.offset, self._descriptor.size)
        except BaseException as failure:  # every kind: the writer's thread raises it
            self._failure = failure
        finally:
            pipe.close()


def with_plain_layers(image: PreparedImage, store: PlainLayers, progress: Progress) -> PreparedImage:
    """Return ``image`` with the plain layers of ``store`` in place of its compressed ones; unchanged if it has none.

    Attestations are unchanged; in the new index they refer to the new manifests.
    """
    documents: dict[Digest, ReceivedManifest] = {}
    manifests = tuple(_plain_manifest(one, store, documents) for one in image.manifests)
    if not documents:
        return image
    others = tuple(_plain_index(other, documents) for other in image.others)
    made = documents.get(image.listed.digest)
    listed = image.listed if made is None else replace(image.listed, digest=made.digest, size=len(made.raw))
    progress.say(
        f"{image.source.display_name}: {'index' if image.others else 'manifest'} {listed.digest} was made for "
        f"decompressed layers, the published one is {image.listed.digest}"
    )
    return image._replace(
        listed=listed,
        manifests=manifests,
        others=others,
        name=name_of_copy(image.name, listed.digest),
        blobs=_blobs_of(image, manifests, store),
    )


def _plain_manifest(
    one: PreparedManifest, store: PlainLayers, documents: dict[Digest, ReceivedManifest]
) -> PreparedManifest:
    """Return a manifest that names the plain layers; a new one is added to ``documents``."""
    if one.config is None or not any(store.is_compressed(layer.digest) for layer in one.manifest.layers):
        return one
    item = json.loads(one.manifest.raw)
    for layer, member in zip(one.manifest.layers, item["layers"], strict=True):
        if store.is_compressed(layer.digest):
            diff_id = store.diff_ids[layer.digest]
            _rewrite_layer(member, layer, diff_id, store.sizes[diff_id])
    made = _written(item, one.manifest.media_type)
    documents[one.manifest.digest] = made
    manifest = parse_document(made.raw, made.media_type, made.digest)
    assert isinstance(manifest, Manifest)  # noqa: S101 - made from a manifest
    return one._replace(manifest=manifest)


def _rewrite_layer(member: dict[str, Any], layer: Descriptor, diff_id: Digest, size: int) -> None:
    member.update(mediaType=plain_media_type(layer.media_type), digest=str(diff_id), size=size)
    # Both lead to the compressed layer.
    member.pop("urls", None)
    member.pop("data", None)
    kept = {key: value for key, value in layer.annotations.items() if not key.startswith(_COMPRESSED_ONLY)}
    if kept != layer.annotations:
        member["annotations"] = kept


def plain_media_type(media_type: str) -> str:
    """Return the type of the uncompressed layer. A foreign layer becomes an ordinary one, since it is stored here."""
    return mediatypes.DOCKER_LAYER if media_type.startswith(mediatypes.DOCKER_PREFIX) else mediatypes.OCI_LAYER


def _plain_index(other: ReceivedManifest, documents: dict[Digest, ReceivedManifest]) -> ReceivedManifest:
    """Return an index that names the new ``documents``; if it differs from ``other``, it is added to them."""
    if other.media_type not in mediatypes.INDEXES:
        return other
    item = json.loads(other.raw)
    for entry in item["manifests"]:
        made = documents.get(Digest.parse(entry["digest"]))
        if made is not None:
            entry.update(digest=str(made.digest), size=len(made.raw))
        annotations = entry.get("annotations") or {}
        for key in (ATTESTED_ANNOTATION,) if ATTESTED_ANNOTATION in annotations else ():
            attested = {str(old): str(new.digest) for old, new in documents.items()}
            annotations[key] = attested.get(annotations[key], annotations[key])
    if item == json.loads(other.raw):
        return other
    made = _written(item, other.media_type)
    documents[other.digest] = made
    return made


def _written(item: object, media_type: str | None) -> ReceivedManifest:
    raw = json.dumps(item, separators=(",", ":")).encode()
    return ReceivedManifest(raw, media_type, Digest.of(raw))


def _blobs_of(
    image: PreparedImage, manifests: Sequence[PreparedManifest], store: PlainLayers
) -> tuple[BlobToFetch, ...]:
    """Return the blobs of the new manifests: the unchanged ones and the plain layers."""
    named = {descriptor.digest for one in manifests for descriptor in (one.manifest.config, *one.manifest.layers)}
    listed_only = {blob.descriptor.digest for blob in image.blobs} - {
        descriptor.digest for one in image.manifests for descriptor in (one.manifest.config, *one.manifest.layers)
    }
    kept = [blob for blob in image.blobs if blob.descriptor.digest in named | listed_only]
    plain = []
    for blob in image.blobs:
        diff_id = store.diff_ids.get(blob.descriptor.digest)
        if diff_id is not None and diff_id in named:
            descriptor = Descriptor(plain_media_type(blob.descriptor.media_type), diff_id, store.sizes[diff_id])
            plain.append(blob._replace(source=store.layout, descriptor=descriptor, content=None))
    return tuple(unite_blobs([kept, plain]))
