"""Checks of diff_ids while layers arrive: `pull --deep`.

A layer's digest proves that its bytes are those that were published. It does not prove that they hold the tar which the
config names. So the bytes are inflated and the tar is hashed, in threads beside the one that fetches the layer. A
destination passes the bytes on in order, those of an earlier try included; a blob that it already has is checked while
it is verified.

Spec: image-spec 1.1 config.md, "Layer DiffID".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TypeAlias

from ociexport.errors import DiffIdMismatchError, InvalidImageError, LimitExceededError, describe_content, locating
from ociexport.images.destination import BlobStore, BlobWriter, CheckingStore, ImageDestination
from ociexport.images.prepare import PreparedImage
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec.config import pair_layers
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, Chunk, Digest
from ociexport.spec.mediatypes import is_encrypted
from ociexport.system.compression import is_compressed, read_tar_chunks, verify_ratio
from ociexport.system.memory import MEMORY_OPTION
from ociexport.system.read_ahead import ChunkPipe, HashAhead
from ociexport.system.threads import start_thread

# How many chunks may wait for each layer: of up to 1 MiB to be inflated, of 256 KiB to be hashed. The latter are small,
# so that they are still in the processor's cache; with 1 MiB, inflating took a fifth longer.
_BLOB_DEPTH = 4
_TAR_DEPTH = 8
_TAR_CHUNK_BYTES = 256 * 1024
_HEAD_BYTES = 512
_HINT = "the image itself is broken; --no-deep copies it as it is, and unpacking it fails"
_LIMIT_HINT = "--no-deep copies the layer without inflating it"
# What layers may wait for their checks where these must be hidden by the network: at first, and of each second.
_FIRST_WAIT_SECONDS = 0.02
_WAIT_PER_SECOND = 0.05

# Layers and their diff_ids, which are known to be true of each other.
VerifiedDiffIds: TypeAlias = set[tuple[Digest, Digest]]


class Patience:
    """How long the threads that fetch layers may wait for the checks of one run before these are given up.

    Where the network is the slower part, nothing waits for a check. Several threads may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: float | None = None
        self._waited_seconds = 0.0
        self.is_over = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time that the block takes."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        with self._lock:
            if self._began is None:
                self._began = began
            self._waited_seconds += ended - began
            allowed = _FIRST_WAIT_SECONDS + _WAIT_PER_SECOND * (ended - self._began)
            self.is_over = self.is_over or self._waited_seconds > allowed


class DiffIdCheck:
    """A `BlobCheck`: whether the tar in a layer has the diff_ids that configs declare for it.

    Memory: a fixed number of chunks.

    Args:
        descriptor: of the layer.
        diff_ids: one for each algorithm.
        verified: gets the diff_ids that are right; one that is in it already is not checked again.
        max_memory: bytes of memory for the window of a zstd layer; None for what is available.
        patience: when it is over, the rest of the layer is taken without a check; None for a check to the end.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        diff_ids: Collection[Digest],
        verified: VerifiedDiffIds,
        max_memory: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._patience = patience
        self._max_memory = max_memory
        self._diff_ids = diff_ids
        self._verified = verified
        self._inflation: _Inflation | None = None

    def begin(self) -> None:
        """Discard the bytes taken so far."""
        self.close()
        # Another image of the same run may have brought the layer meanwhile.
        unknown = [one for one in self._diff_ids if (self._descriptor.digest, one) not in self._verified]
        self._inflation = _Inflation(unknown, self._descriptor.size, self._max_memory) if unknown else None

    def update(self, chunk: Chunk, /) -> None:
        """Take the next bytes of the layer as stored.

        Raises:
            LimitExceededError: they are a decompression bomb.
        """
        if self._inflation is None:
            return
        if self._patience is None or self._inflation.has_room():
            self._inflation.put(chunk)
            return
        with self._patience.waiting():
            self._inflation.put(chunk)
        if self._patience.is_over:
            self.close()
            self._inflation = None

    def verify(self) -> None:
        """Return if the tar has the diff_ids.

        Raises:
            DiffIdMismatchError: it has another, or the layer can't be inflated to its end.
        """
        if self._inflation is None:
            return
        got = self._inflation.finish()
        for diff_id in self._inflation.diff_ids:
            if got[diff_id] != diff_id.encoded:
                raise DiffIdMismatchError(
                    f"diff_id mismatch: expected {diff_id}, got {diff_id.algorithm}:{got[diff_id]}"
                    f"{self._inflation.kind}",
                    hint=_HINT,
                )
            self._verified.add((self._descriptor.digest, diff_id))

    def close(self) -> None:
        """End the threads."""
        if self._inflation is not None:
            self._inflation.close()


class _Inflation:
    """One layer that is being inflated and hashed, in threads.

    Attributes:
        diff_ids: those to compare with, one for each algorithm.
    """

    def __init__(self, diff_ids: Sequence[Digest], blob_bytes: int, max_memory: int | None) -> None:
        self.diff_ids = diff_ids
        self._blob_bytes = blob_bytes
        self._max_memory = max_memory
        self._head = b""
        self._failure: BaseException | None = None
        self._got: dict[Digest, str] = {}
        self._is_cut = False
        self._pipe = ChunkPipe(_BLOB_DEPTH)
        self._thread = start_thread(self._inflate, name="inflate")

    def has_room(self) -> bool:
        """Whether `put` would not wait."""
        return self._pipe.has_room()

    def put(self, chunk: Chunk) -> None:
        """Take the next bytes; raises what must not wait for the end of the layer."""
        # Damaged data is passed over here: if the digest is wrong too, that error is the more useful one.
        if self._failure is not None and not self._is_damage:
            raise self._failure
        if len(self._head) < _HEAD_BYTES:
            self._head += bytes(chunk[: _HEAD_BYTES - len(self._head)])
        self._pipe.put(chunk)

    def finish(self) -> dict[Digest, str]:
        """Return the tar's hashes; raises if there is no whole tar."""
        self._pipe.end()
        self._thread.join()
        if self._failure is None:
            return self._got
        if isinstance(self._failure, InvalidImageError) and self._is_damage:
            raise DiffIdMismatchError(
                f"diff_id mismatch: expected {self.diff_ids[0]}, got no whole tar: {self._failure.message}", hint=_HINT
            ) from self._failure
        raise self._failure

    @property
    def kind(self) -> str:
        """What a layer is that is in no compressed format."""
        if is_compressed(self._head):
            return ""
        return f" ({describe_content(self._head)})"

    def close(self) -> None:
        """End the threads, without the rest of the layer."""
        self._is_cut = True
        self._pipe.end()
        self._thread.join()

    @property
    def _is_damage(self) -> bool:
        return isinstance(self._failure, InvalidImageError) and not isinstance(self._failure, LimitExceededError)

    def _inflate(self) -> None:
        hashes: dict[Digest, HashAhead] = {}
        tar_bytes = 0
        try:
            for diff_id in self.diff_ids:
                hashes[diff_id] = HashAhead(diff_id, _TAR_DEPTH)
            # Not `read_layer`: whatever has the diff_id is right, even if it is no tar.
            for chunk in read_tar_chunks(
                self._pipe, _TAR_CHUNK_BYTES, max_window_bytes=self._max_memory, option=MEMORY_OPTION
            ):
                if self._is_cut:
                    return
                tar_bytes += len(chunk)
                verify_ratio(tar_bytes, self._blob_bytes)
                for hasher in hashes.values():
                    hasher.update(chunk)
        except LimitExceededError as error:
            error.hint = error.hint or _LIMIT_HINT
            self._failure = error
        except BaseException as error:  # every kind: the thread that writes the layer raises it
            self._failure = error
        finally:
            self._pipe.close()
            self._got = {diff_id: hasher.finish() for diff_id, hasher in hashes.items()}


class DiffIdChecks:
    """The diff_ids that images declare for their layers, and the checks of these; several threads may use it.

    Args:
        verified: from earlier images of the same run, and for later ones.
        max_memory: bytes of memory for the window of a zstd layer; None for what is available.
        passes_encrypted: whether layers whose type says that they are encrypted are passed over.
        must_be_hidden: whether checks are given up when layers wait for them: they may cost next to nothing.
    """

    def __init__(
        self,
        verified: VerifiedDiffIds | None = None,
        *,
        max_memory: int | None = None,
        passes_encrypted: bool = False,
        must_be_hidden: bool = False,
    ) -> None:
        self._patience = Patience() if must_be_hidden else None
        self._max_memory = max_memory
        self._passes_encrypted = passes_encrypted
        self._verified: VerifiedDiffIds = verified if verified is not None else set()
        # By the layer's digest and the diff_id's algorithm.
        self._declared: dict[Digest, dict[str, Digest]] = {}

    @property
    def are_given_up(self) -> bool:
        """Whether layers had to wait for their checks, so that some have none."""
        return self._patience is not None and self._patience.is_over

    def expect(self, image: PreparedImage, *, besides: Collection[Digest] = ()) -> None:
        """Have the layers of all images in ``image`` checked; artifacts have no diff_ids.

        Args:
            besides: layers that are not checked, since their diff_ids were computed from them.

        Raises:
            DiffIdMismatchError: two diff_ids are declared for the same layer, so one of them is wrong.
        """
        for one in image.manifests:
            for layer in pair_layers(one.manifest, one.config) if one.config is not None else ():
                if layer.descriptor.digest in besides:
                    continue
                if self._passes_encrypted and is_encrypted(layer.descriptor.media_type):
                    continue
                declared = self._declared.setdefault(layer.descriptor.digest, {})
                known = declared.setdefault(layer.diff_id.algorithm, layer.diff_id)
                if known != layer.diff_id:
                    raise DiffIdMismatchError(
                        f"diff_id: expected {known}, as for the same layer before, got {layer.diff_id}",
                        where=f"manifest {one.manifest.digest}: {layer}",
                        hint=_HINT,
                    )

    @contextmanager
    def check_of(self, descriptor: Descriptor) -> Iterator[DiffIdCheck | None]:
        """Give the check of a blob, for a `Verifier`; None for a blob without diff_ids, or with verified ones."""
        declared = self._declared.get(descriptor.digest, {}).values()
        if self.are_given_up or all((descriptor.digest, diff_id) in self._verified for diff_id in declared):
            yield None
            return
        with closing(DiffIdCheck(descriptor, declared, self._verified, self._max_memory, self._patience)) as check:
            yield check

    def verify_embedded(self, blobs: Iterable[BlobToFetch]) -> None:
        """Return if those of ``blobs`` that a document embeds pass their checks.

        Raises:
            DiffIdMismatchError, LimitExceededError: one does not.
        """
        for blob in blobs:
            if blob.content is None:
                continue
            with locating(blob.label), self.check_of(blob.descriptor) as check:
                if check is not None:
                    check.begin()
                    check.update(blob.content)
                    check.verify()

    def around(self, store: CheckingStore | ImageDestination) -> BlobStore:
        """Return ``store`` as a place that accepts only layers which pass their checks."""
        return _CheckedStore(store, self)


class _CheckedStore:
    """A `BlobStore` around another, which checks layers while they are read or written."""

    def __init__(self, store: CheckingStore | ImageDestination, checks: DiffIdChecks) -> None:
        self._store = store
        self._checks = checks

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is stored and valid.

        Raises:
            DiffIdMismatchError, LimitExceededError: it is, and does not pass its check.
        """
        with self._checks.check_of(descriptor) as check:
            if check is None:
                return self._store.has_blob(descriptor)
            if isinstance(self._store, CheckingStore):
                return self._store.has_blob(descriptor, check)
            is_there = self._store.has_blob(descriptor)
            if is_there:
                self._read_back(self._store, descriptor, check)
            return is_there

    @contextmanager
    def new_blob(self, descriptor: Descriptor) -> Iterator[BlobWriter]:
        """Give a writer for a blob, as `BlobStore.new_blob`.

        Raises:
            DiffIdMismatchError, LimitExceededError: its bytes are right, and do not pass their check.
        """
        with self._checks.check_of(descriptor) as check:
            if check is not None and isinstance(self._store, CheckingStore):
                with self._store.new_blob(descriptor, check) as writer:
                    yield writer
                return
            with self._store.new_blob(descriptor) as writer:
                yield writer
            if check is not None and not isinstance(self._store, CheckingStore):
                self._read_back(self._store, descriptor, check)

    @staticmethod
    def _read_back(store: ImageDestination, descriptor: Descriptor, check: DiffIdCheck) -> None:
        """Check a blob of a destination that does not pass its bytes on."""
        check.begin()
        with closing(store.open_blob(descriptor)) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                check.update(chunk)
        check.verify()
