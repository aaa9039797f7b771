"""Layers kept as plain tars, under their diff_ids: they are inflated as they arrive, and both digests are verified.

Spec: image-spec 1.1 config.md, "Layer DiffID".
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ociexport.errors import DiffIdMismatchError, DigestMismatchError, InvalidImageError, LimitExceededError
from ociexport.images.prepare import PreparedImage
from ociexport.images.source import BlobWriter
from ociexport.spec.descriptor import Descriptor, pair_layers
from ociexport.spec.digest import Chunk, Digest, Verifier
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.layout_blob import LayoutBlobWriter
from ociexport.system.compression import read_tar_chunks, verify_ratio
from ociexport.system.read_ahead import ChunkPipe
from ociexport.system.threads import start_thread

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# So many chunks of 1 MiB may wait to be inflated, for each layer that is under way.
_CHUNKS_AHEAD = 4


def diff_ids_of(images: Iterable[PreparedImage]) -> dict[Digest, Digest]:
    """Return the diff_ids of all compressed layers, by their digests.

    A layer is plain where both are the same, whatever its media type says. What is no image has no diff_ids.

    Raises:
        InvalidImageError: one digest has two diff_ids.
    """
    diff_ids: dict[Digest, Digest] = {}
    for image in images:
        for one in image.manifests:
            for layer in pair_layers(one.manifest, one.config) if one.config is not None else ():
                known = diff_ids.setdefault(layer.descriptor.digest, layer.diff_id)
                if known != layer.diff_id:
                    raise InvalidImageError(
                        f"diff_id: expected {known}, as for the same layer before, got {layer.diff_id}",
                        where=f"manifest {one.manifest.digest}: {layer}",
                    )
    return {digest: diff_id for digest, diff_id in diff_ids.items() if digest != diff_id}


class PlainLayerStore:
    """A `BlobStore` that keeps compressed layers as plain tars, and all else as it is.

    Attributes:
        layout: that keeps them.
        diff_ids: of the compressed layers, by their digests.
        sizes: of the plain layers that are there, by their diff_ids.
    """

    def __init__(self, layout: ImageLayout, diff_ids: Mapping[Digest, Digest]) -> None:
        self.layout = layout
        self.diff_ids = diff_ids
        self._lock = threading.Lock()
        self.sizes: dict[Digest, int] = {}

    def is_compressed(self, digest: Digest) -> bool:
        """Whether the blob is a compressed layer."""
        return digest in self.diff_ids

    def stored_digest(self, digest: Digest) -> Digest:
        """Return under which digest a blob is kept."""
        return self.diff_ids.get(digest, digest)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob, or the layer's plain tar, is there and valid: its bytes are read."""
        diff_id = self.diff_ids.get(descriptor.digest)
        if diff_id is None:
            return self.layout.has_blob(descriptor)
        size = self.sizes.get(diff_id)
        if size is None:
            size = self.layout.size_of_valid_blob(diff_id)
        if size is not None:
            self.note(diff_id, size)
        return size is not None

    def new_blob(self, descriptor: Descriptor) -> AbstractContextManager[BlobWriter]:
        """Return a writer for a blob; at the end of the ``with`` block it is verified and takes its name, or is gone.

        Raises:
            DigestMismatchError, SizeMismatchError: what was written is not what ``descriptor`` says.
            DiffIdMismatchError, InvalidImageError: it is, but not the tar that the config names, or none.
        """
        diff_id = self.diff_ids.get(descriptor.digest)
        if diff_id is None:
            return self.layout.new_blob(descriptor)
        return _PlainLayerWriter(self, self.layout.new_blob_of_any_size(diff_id), descriptor, diff_id)

    def note(self, diff_id: Digest, size: int) -> None:
        """Remember that a layer is there."""
        with self._lock:
            self.sizes[diff_id] = size


class _PlainLayerWriter:
    """Takes a layer as it is stored, and writes the tar in it; inflating goes on in a thread of its own."""

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
            # Where an inflater was interrupted, no other can go on.
            self._plain.restart()
            self._begin()
        return self

    @property
    def is_complete(self) -> bool:
        """Whether another process wrote the layer meanwhile."""
        return self._plain.is_complete

    @property
    def offset(self) -> int:
        """How many bytes of the stored layer were taken."""
        return self._verifier.seen_bytes

    def restart(self) -> None:
        """Forget what is written."""
        self._stop(is_cut=True)
        self._plain.restart()
        self._begin()

    def write(self, chunk: Chunk, /) -> None:
        """Take the next bytes of the stored layer.

        Raises:
            SizeMismatchError: there are more than the descriptor says.
            LimitExceededError, OSError: what came out of those before is too large, or could not be written.
        """
        failure = self._failure
        # The rest of damaged data is hashed: if it is not what was announced, that is the news. Of a bomb it is not.
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
            # Hashed once more, which is rare and tells the size.
            self._store.has_blob(self._descriptor)
            return
        self._stop(is_cut=error is not None)
        try:
            if error is None:
                # A damaged stream is no news where the blob is not the right one.
                self._verifier.verify()
                if self._failure is not None:
                    raise self._failure
        except BaseException as found:
            self._plain.__exit__(type(found), found, None)
            raise
        if error is not None:
            # Of a layer that was cut nothing can be used.
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
            for chunk in read_tar_chunks(pipe):
                if self._is_cut:
                    return
                self._plain.write(chunk)
                verify_ratio(self._plain.offset, self._descriptor.size)
        except BaseException as failure:  # all of them: they belong to the one who writes
            self._failure = failure
        finally:
            pipe.close()
