"""The life cycle of a layout's directory: made when an image is first written, tidied up by its last user.

Any number of threads and processes may use a layout at once. The blobs that one of them discards are removed only if
no other uses the layout.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from ociexport.errors import InvalidImageError, NotFoundError, OciexportError, UsageError, quoted
from ociexport.spec.descriptor import MAX_MANIFEST_BYTES
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.manifest import Index, parse_document
from ociexport.storage.layout.blobs import (
    BLOBS_DIRECTORY,
    COLLECTED_DIRECTORY,
    INDEXES_DIRECTORY,
    OWN_DIRECTORY,
    PARTIAL_DIRECTORY,
    blob_name,
    partial_blob_name,
)
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.documents import (
    INDEX_FILE,
    LAYOUT_FILE,
    LOCK_FILE,
    UNFINISHED_DOCUMENTS,
    LayoutDocuments,
)
from ociexport.storage.layout.hold import NAMER_FILE, USERS_FILE, LayoutHold, is_held
from ociexport.storage.layout.stamps import BlobStamps
from ociexport.storage.layout_directory import LayoutDirectory


class LayoutLifeCycle:
    """Makes one directory a layout, keeps it one while it is used, and tidies it up.

    Args:
        directory: absent, empty or a layout.
        documents: of the same directory.
        stamps: of the same directory; saved when a use ends.
        cache: that the layout shares blobs with; it is checked, never removed.
    """

    def __init__(
        self, directory: LayoutDirectory, documents: LayoutDocuments, stamps: BlobStamps, cache: BlobCache | None
    ) -> None:
        self._directory = directory
        self._documents = documents
        self._stamps = stamps
        self._cache = cache
        self._lock = threading.Lock()
        self._active_uses = 0
        self._own_hold: LayoutHold | None = None
        self._batch: _Batch | None = None

    @contextmanager
    def begin(self) -> Iterator[LayoutUse]:
        """Make the directory a layout while an image is copied into it.

        The last user to finish removes discarded blobs, and removes the layout if nothing was ever stored in it.

        Raises:
            UsageError: the directory holds other files; it was not changed.
        """
        use = LayoutUse()
        with self._lock:
            batch = self._batch
            if batch is not None and batch.held is None:
                batch.held = self._hold()
        if batch is not None:
            try:
                yield use
            finally:
                batch.use.discard(use.discarded)
            return
        hold, made = self._hold()
        with self._lock:
            self._active_uses += 1
        try:
            yield use
        finally:
            with self._lock:
                self._active_uses -= 1
            self._release(hold, use.discarded, made)

    @contextmanager
    def begin_batch(self) -> Iterator[None]:
        """Make all uses that begin until the end parts of one, which begins with the first of them."""
        batch = _Batch()
        with self._lock:
            self._batch = batch
        try:
            yield
        finally:
            with self._lock:
                self._batch = None
            if batch.held is not None:
                hold, made = batch.held
                self._release(hold, batch.use.discarded, made)

    def discarded_in_batch(self) -> frozenset[Digest]:
        """Return the blobs that a batch has discarded so far."""
        with self._lock:
            return frozenset(self._batch.use.discarded) if self._batch is not None else frozenset()

    @contextmanager
    def hold_alone(self) -> Iterator[None]:
        """Keep all others from copying images into the layout, which must exist.

        Raises:
            UsageError: another process or thread uses it, or the file system has no locks to find that out with.
        """
        hold, made = self._hold()
        try:
            if not hold.is_alone():
                raise self._in_use_error()
            yield
        finally:
            self._release(hold, (), made)

    def make_ready(self) -> None:
        """Make the directory a layout, unless it is one; it stays one.

        Raises:
            UsageError: the directory holds other files; it was not changed.
        """
        with self._lock:
            is_held = self._batch is not None and self._batch.held is not None
            if not self._active_uses and self._own_hold is None and not is_held:
                self._own_hold, _ = self._hold()

    def verify_is_unused(self) -> None:
        """Return if nothing is copying images into the layout now; nothing is written to find out.

        Raises:
            UsageError: as `hold_alone`.
        """
        if is_held(self._directory):
            raise self._in_use_error()

    def verify_is_usable(self) -> None:
        """Return if the directory is absent, empty or a layout.

        Raises:
            UsageError: it is something else.
        """
        path = self._directory.path
        try:
            names = set(self._directory.list_names(""))
        except FileNotFoundError:
            return
        except NotADirectoryError as error:
            raise UsageError(f"{quoted(path)}: expected a directory, got a file") from error
        if LAYOUT_FILE in names:
            with suppress(NotFoundError):  # another user has just removed it, since it stayed empty
                self._documents.verify_layout_file()
        elif names - {BLOBS_DIRECTORY, INDEX_FILE, OWN_DIRECTORY}:
            raise UsageError(
                f"{quoted(path)}: expected an OCI layout or an empty directory, got a directory of other files",
                hint="choose another directory for the layout",
            )

    def _in_use_error(self) -> UsageError:
        return UsageError(
            f"{self._directory.path}: expected a layout that is not in use, got one in use",
            hint="try again when the other ociexport has ended",
        )

    def _hold(self) -> tuple[LayoutHold, _Made]:
        """Make the directory a layout that no other user removes; returns the parts that had to be made."""
        self.verify_is_usable()
        self._directory.verify_directories(OWN_DIRECTORY, PARTIAL_DIRECTORY, BLOBS_DIRECTORY)
        if self._cache is not None:
            self._cache.verify_is_usable()
        directories = self._directory.missing_directories()
        hold = LayoutHold(self._directory)
        is_new = not self._directory.has(LAYOUT_FILE)
        made = _Made(is_new, directories, None)
        try:
            for name in (f"{BLOBS_DIRECTORY}/sha256", PARTIAL_DIRECTORY):
                self._directory.make_directory(name)
            # A power cut loses a blob if it loses the blob's directories.
            self._directory.sync_made(directories)
            self._directory.sync(BLOBS_DIRECTORY)
            made = _Made(is_new, directories, self._documents.write_missing())
        except BaseException:
            self._release(hold, (), made)
            raise
        return hold, made

    def _release(self, hold: LayoutHold, discarded: Iterable[Digest], made: _Made) -> None:
        try:
            self._stamps.save()
            if hold.is_alone():
                with suppress(OSError, InvalidImageError):  # an earlier error matters more
                    self._tidy(discarded, made)
        finally:
            hold.close()

    def _tidy(self, discarded: Iterable[Digest], made: _Made) -> None:
        """Remove discarded blobs, our own files, and a new layout that stayed empty; only for the single user."""
        discarded = set(discarded)
        if discarded and self._documents.read_index_bytes() != made.index:
            # An image that was listed meanwhile may need a discarded blob.
            discarded -= self._needed_among(discarded)
        for digest in discarded:
            for name in (blob_name(digest), partial_blob_name(digest)):
                with suppress(FileNotFoundError):
                    self._directory.remove(name)
        self._remove_own_files()
        if made.layout and not self._documents.has_images():
            self._remove_layout(made.directories)

    def _needed_among(self, digests: set[Digest]) -> set[Digest]:
        """Return those of ``digests`` that a listed image needs; all of them if a document can't be read."""
        needed: set[Digest] = set()
        seen: set[Digest] = set()
        entries = [descriptor for descriptor, _ in self._documents.read_images()]
        try:
            while entries:
                entry = entries.pop()
                needed |= digests & {entry.digest}
                if entry.digest in seen:
                    continue
                seen.add(entry.digest)
                raw = self._directory.read_file(blob_name(entry.digest), MAX_MANIFEST_BYTES)
                document = parse_document(raw, entry.media_type, entry.digest)
                if isinstance(document, Index):
                    entries += document.manifests
                else:
                    needed |= digests & {document.config.digest, *(layer.digest for layer in document.layers)}
        except (OciexportError, OSError):
            return digests
        return needed

    def _remove_own_files(self) -> None:
        with suppress(OSError):  # a directory that is not empty holds partial blobs, and the next try continues them
            self._directory.remove_directory(PARTIAL_DIRECTORY)
            if self._directory.has(COLLECTED_DIRECTORY):  # and one that holds ranges of cut blobs waits for the others
                self._directory.remove_directory(COLLECTED_DIRECTORY)
            for name in (f"{OWN_DIRECTORY}/{name}" for name in self._directory.list_names(OWN_DIRECTORY)):
                # Only our own files, whatever others have put there.
                if name in (LOCK_FILE, USERS_FILE) or name.startswith((*UNFINISHED_DOCUMENTS, NAMER_FILE)):
                    self._directory.remove(name)
            if self._directory.has(INDEXES_DIRECTORY):
                # Start-up: few layouts have indexes.
                from ociexport.storage.layout.layer_indexes import forget_removed_layers  # noqa: PLC0415 - as said

                forget_removed_layers(self._directory, self._stamps)
            self._stamps.forget_removed()
            self._directory.remove_directory(OWN_DIRECTORY)

    def _remove_layout(self, parents: tuple[str, ...]) -> None:
        with suppress(OSError):
            for name in self._directory.list_names(BLOBS_DIRECTORY):
                self._directory.remove_directory(f"{BLOBS_DIRECTORY}/{name}")
            self._directory.remove_directory(BLOBS_DIRECTORY)
            self._directory.remove(LAYOUT_FILE)
            self._directory.remove(INDEX_FILE)
            self._directory.remove_made(parents)


class LayoutUse:
    """The use of a layout for one image."""

    def __init__(self) -> None:
        self.discarded: set[Digest] = set()

    def discard(self, digests: Iterable[Digest]) -> None:
        """Remove these blobs at the end, whole or partial, unless others use the layout and may need them."""
        self.discarded.update(digests)


class _Batch:
    """Several uses as one: the hold that all of them share, once the first has begun, and what they discard."""

    def __init__(self) -> None:
        self.held: tuple[LayoutHold, _Made] | None = None
        self.use = LayoutUse()


@dataclass(frozen=True, slots=True)
class _Made:
    """The parts of a layout that were made for one use, and the index before that use.

    Args:
        layout: whether the directory was no layout before.
        directories: those that did not exist, outermost first.
        index: the bytes of ``index.json``.
    """

    layout: bool
    directories: tuple[str, ...]
    index: bytes | None
