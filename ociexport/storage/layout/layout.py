"""ImageLayout: an OCI image-layout directory, source and destination.

An incomplete file can't be taken for a complete one: blobs are written in ``.ociexport/partial``, and renamed into
``blobs/`` when digest and size are right; ``index.json`` is replaced last, under a lock. `life_cycle` makes the
directory a layout and tidies it up, `documents` reads and writes ``oci-layout`` and ``index.json``.

Spec: image-spec 1.1 image-layout.md.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING

from ociexport.errors import (
    DiffIdMismatchError,
    InvalidImageError,
    LimitExceededError,
    NotFoundError,
    OciexportError,
    UsageError,
)
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, BlobCheck, ByteStream, Digest, Verifier
from ociexport.storage.index import ListedImage, ListedSource, choose_from_layout
from ociexport.storage.layout.blobs import (
    BLOBS_DIRECTORY,
    PARTIAL_DIRECTORY,
    LayoutBlobWriter,
    blob_name,
    partial_blob_name,
    trusted_bytes,
)
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.documents import BUNDLE_FILE, EXPECTED_HINT, LayoutDocuments
from ociexport.storage.layout.life_cycle import LayoutLifeCycle, LayoutUse
from ociexport.storage.layout.stamps import BlobStamps
from ociexport.storage.layout_directory import LayoutDirectory

if TYPE_CHECKING:
    from ociexport.storage.layout.asking_turn import AskingTurn
    from ociexport.storage.layout.layer_indexes import LayerIndexes
    from ociexport.storage.layout.namer import HandedOver, Namer

# Errors of a disk or file system about a file that exists and can't be read: the blob is then treated as missing.
_DAMAGE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ELOOP})


class ImageLayout:
    """An OCI image-layout directory.

    As a destination it is made when the first blob is written, so a pull that finds nothing leaves nothing.

    Args:
        path: of the directory; absent, empty or a layout.
        cache: searched for a blob before the blob is fetched; it keeps fetched blobs for other layouts.
        recheck: whether blobs are read and verified although an earlier run did that and their files did not change.
    """

    takes_checks = True

    def __init__(self, path: str | os.PathLike[str], *, cache: BlobCache | None = None, recheck: bool = False) -> None:
        self.path = os.fspath(path)
        self.directory = LayoutDirectory(self.path)
        self._cache = cache
        if not self.path:
            raise UsageError("layout: expected the path of a directory, got an empty one")
        self._listing: ImageLayout | None = None
        self._documents = LayoutDocuments(self.directory)
        self._stamps = BlobStamps(self.directory, recheck=recheck)
        self._life_cycle = LayoutLifeCycle(self.directory, self._documents, self._stamps, cache)

    def __str__(self) -> str:
        return self.path

    # As a source.

    def read_images(self) -> list[ListedImage]:
        """Return the descriptors that ``index.json`` lists, each with its names.

        Raises:
            NotFoundError: this is no layout.
            InvalidImageError: ``oci-layout`` or ``index.json`` breaks the specification.
        """
        return self._documents.read_images()

    def open_image(self, name: str | None = None) -> ListedSource:
        """Return one image of the layout.

        Args:
            name: a tag, a full reference, ``@sha256:…`` or ``@N`` (position in ``index.json``); None if the layout
                has only one image. If a tag or reference has a digest, only the digest counts.

        Raises:
            NotFoundError: the image or the layout does not exist; the message lists the names in the layout.
            UsageError: several images match.
        """
        images = self.read_images()
        found = choose_from_layout(self.path, self, images, name)
        if isinstance(found, Digest):
            with self.open_file(found) as file:
                found = Descriptor("", found, os.fstat(file.fileno()).st_size)
        return ListedSource(self.path, self, found, images)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's file from ``offset`` on; the caller verifies and closes it.

        Raises:
            NotFoundError: it does not exist.
        """
        file = self.open_file(descriptor.digest)
        file.seek(offset)
        return file

    def open_file(self, digest: Digest) -> FileIO:
        """Return the blob's file, unbuffered; the caller closes it.

        Raises:
            NotFoundError: it does not exist.
            InvalidImageError: it is not a regular file.
        """
        try:
            return self.directory.open_file(blob_name(digest))
        except (FileNotFoundError, NotADirectoryError) as error:
            hint = EXPECTED_HINT if self.directory.has(BUNDLE_FILE) else None
            raise NotFoundError(f"{self.path}: blob {digest}: not in the layout", hint=hint) from error

    @property
    def layer_indexes(self) -> LayerIndexes:
        """What was read of the layers before."""
        from ociexport.storage.layout.layer_indexes import LayerIndexes  # noqa: PLC0415 - start-up: a pull needs none

        return LayerIndexes(self.directory, self._stamps, self.begin)

    def blob_path(self, digest: Digest) -> str:
        """Return the path of a complete blob, which need not exist."""
        return self.directory.path_of(blob_name(digest))

    def partial_path(self, digest: Digest) -> str:
        """Return the path of a blob while it is being written."""
        return self.directory.path_of(partial_blob_name(digest))

    def partial_bytes(self, descriptor: Descriptor) -> int:
        """Return how many bytes of a blob an earlier try left, unverified; 0 if it left none."""
        try:
            with self.directory.open_file(partial_blob_name(descriptor.digest)) as file:
                return trusted_bytes(file.fileno(), descriptor.size)
        except (InvalidImageError, OSError):
            return 0

    def partial_files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the name and status of each blob that is not complete, also while it is being written.

        Raises:
            InvalidImageError: something other than a directory has the name of their directory.
        """
        names: list[str] = []
        with suppress(FileNotFoundError):
            names = sorted(self.directory.list_names(PARTIAL_DIRECTORY))
        for name in names:
            with suppress(FileNotFoundError):  # complete meanwhile
                yield f"{PARTIAL_DIRECTORY}/{name}", self.directory.status(f"{PARTIAL_DIRECTORY}/{name}")

    # As a destination.

    def listed_before(self, full_name: str) -> Descriptor | None:
        """Return the image with this full name in ``index.json``; None if none has it, or several images.

        The file is read once: names that are written later are not seen.
        """
        return (self._listing or self)._listed_before.get(full_name)

    def use_listing_of(self, other: ImageLayout) -> None:
        """Let `listed_before` answer what ``other`` answers, which is the same layout and may have read the file."""
        self._listing = other

    @functools.cached_property
    def _listed_before(self) -> dict[str, Descriptor | None]:
        listed: dict[str, Descriptor | None] = {}
        # Without a layout, or with a damaged one, which is reported when it is written to, nothing is listed.
        with suppress(OciexportError, OSError):
            for descriptor, name in self.read_images():
                if name.full is not None:
                    other = listed.setdefault(name.full, descriptor)
                    if other is not None and other.digest != descriptor.digest:
                        listed[name.full] = None
        return listed

    def take_asking_turn(self) -> AskingTurn | None:
        """Return the turn to request blobs before their files exist; None if another process or thread has it."""
        from ociexport.storage.layout.asking_turn import take_asking_turn  # noqa: PLC0415 - start-up: only a pull asks

        return take_asking_turn(self.path)

    def seems_to_have(self, descriptor: Descriptor) -> bool:
        """Whether the blob, or a part of it, is in the layout or its cache; nothing is read."""
        digest = descriptor.digest
        if self.directory.has(blob_name(digest)) or self.directory.has(partial_blob_name(digest)):
            return True
        return self._cache is not None and self._cache.seems_to_have(digest)

    def has_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> bool:
        """Whether the blob exists and is valid: its bytes are read and verified, since a file may be cut or damaged.

        They are not read again if its file is as it was when they were last verified; see `stamps`. A blob that only
        the cache has is put into the layout.

        Raises:
            DiffIdMismatchError, LimitExceededError: the blob is valid, and does not pass ``check``.
        """
        return self._has_own_blob(descriptor, check) or self._has_cached_blob(descriptor, check)

    def _has_cached_blob(self, descriptor: Descriptor, check: BlobCheck | None) -> bool:
        # Before the layout is made, it has no directory to put a blob in.
        if self._cache is None or not self.directory.has(BLOBS_DIRECTORY):
            return False
        return self._cache.give(descriptor, self.directory, check)

    def _has_own_blob(self, descriptor: Descriptor, check: BlobCheck | None) -> bool:
        return self.size_of_valid_blob(descriptor.digest, descriptor.size, check) is not None

    def size_of_valid_blob(self, digest: Digest, size: int | None = None, check: BlobCheck | None = None) -> int | None:
        """Return the size of a blob whose bytes were read and verified, now or before; None if missing or damaged.

        Args:
            size: the expected one; None if it is not known.
            check: made of the same bytes.

        Raises:
            DiffIdMismatchError, LimitExceededError: the blob is valid, and does not pass ``check``.
        """
        try:
            with self.open_file(digest) as file:
                status = os.fstat(file.fileno())
                if size is not None and status.st_size != size:
                    return None
                if check is None and self._stamps.is_verified(digest, status):
                    return status.st_size
                verifier = Verifier(digest, size, subject="blob", check=check)
                while chunk := file.read(CHUNK_BYTES):
                    verifier.update(chunk)
                verifier.verify()
                self._stamps.add(digest, status)
        except (DiffIdMismatchError, LimitExceededError):
            raise
        except (NotFoundError, InvalidImageError):
            return None
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            return None
        return verifier.seen_bytes

    def keep(self, digest: Digest, fd: int) -> None:
        """Remember a blob that was just verified and named, and share it with other layouts if there is a cache.

        Args:
            fd: of its file.
        """
        if self._cache is not None:
            self._cache.take(digest, self.directory)  # a hard link, which changes a time of the file
        self._stamps.add(digest, os.fstat(fd))

    def new_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> LayoutBlobWriter:
        """Return a writer for a blob; at the end of the ``with`` block it is verified and takes its name.

        The bytes that an earlier try left are kept, verified again, and counted in the writer's ``offset``. A process
        that needs a blob another process is already writing waits for it.

        Raises:
            DigestMismatchError, SizeMismatchError: at the end: the bytes were wrong; they are removed.
            DiffIdMismatchError, LimitExceededError: they do not pass ``check``; they are removed.
        """
        self.make_ready()
        return LayoutBlobWriter(self, descriptor.digest, descriptor.size, check)

    def new_blob_of_any_size(self, digest: Digest) -> LayoutBlobWriter:
        """Return a writer for a blob whose size is not known; otherwise as `new_blob`."""
        self.make_ready()
        return LayoutBlobWriter(self, digest, None)

    def write_manifest(self, manifest: ReceivedManifest) -> None:
        """Store a manifest or index, byte for byte."""
        descriptor = Descriptor(manifest.media_type or "", manifest.digest, len(manifest.raw))
        if self.has_blob(descriptor):
            return
        with self.new_blob(descriptor) as blob:
            blob.restart()
            blob.write(manifest.raw)

    def write_name(self, descriptor: Descriptor, name: ImageName) -> None:
        """List the image in ``index.json``; an entry with the same full name is replaced.

        Other entries and members of ``index.json`` stay as they are, whichever tool wrote them.
        """
        self.make_ready()
        self._documents.list_image(descriptor, name)

    def read_index_bytes(self) -> bytes | None:
        """Return ``index.json`` byte for byte; None if it does not exist."""
        return self._documents.read_index_bytes()

    def unlist(self, removed: Collection[int], before: bytes) -> None:
        """Remove entries from ``index.json``; see `LayoutDocuments.unlist`. The caller holds the layout alone."""
        self._documents.unlist(removed, before)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Copy many images in one use: until the end, their names are written by `commit_names` only.

        One use holds the layout and one change of ``index.json`` writes many names, so the time grows with the number
        of images, not with its square. Names that are not committed are written at the end, after an error too.
        """
        self._documents.collect_names()
        with self._life_cycle.begin_batch():
            try:
                yield
            finally:
                self._documents.commit_names(ends=True)

    def commit_names(self) -> None:
        """Within a `batch`, write the names of all images that are complete; see `write_name`."""
        self._documents.commit_names()

    def name_for_others(self, mark: str) -> Namer:
        """Within a `batch`, let the workers of a run leave their names to this process, until the namer is closed."""
        from ociexport.storage.layout.namer import Namer  # noqa: PLC0415 - start-up: only a list on an executor has one

        with self.begin():  # the batch holds the layout from here on
            return Namer(self.directory, mark)

    def hand_over(self, mark: str) -> HandedOver | None:
        """Within a `batch`, return the names that were not committed, for the namer of this run.

        None if there is no name, or no namer; then the names are written here as ever.
        """
        from ociexport.storage.layout.namer import HandedOver, has_namer  # noqa: PLC0415 - start-up: as above

        discarded = self._life_cycle.discarded_in_batch()
        if not (discarded or self._documents.has_names) or not has_namer(self.directory, mark):
            return None
        return HandedOver(tuple(self._documents.take_names()), discarded)

    def take_over(self, handed: HandedOver) -> None:
        """Within a `batch` that holds the layout, name the images of a worker at the next commit."""
        for descriptor, name in handed.names:
            self._documents.list_image(descriptor, name)
        with self.begin() as use:
            use.discard(handed.discarded)

    def close(self) -> None:
        """Nothing stays open."""

    # The life cycle of the directory.

    def begin(self) -> AbstractContextManager[LayoutUse]:
        """Make the directory a layout while an image is copied into it; see `LayoutLifeCycle.begin`."""
        return self._life_cycle.begin()

    def hold_alone(self) -> AbstractContextManager[None]:
        """Keep all others from copying images into the layout; see `LayoutLifeCycle.hold_alone`."""
        return self._life_cycle.hold_alone()

    def make_ready(self) -> None:
        """Make the directory a layout, unless it is one; see `LayoutLifeCycle.make_ready`."""
        self._life_cycle.make_ready()

    def verify_is_unused(self) -> None:
        """Return if nothing is copying images into the layout now; see `LayoutLifeCycle.verify_is_unused`."""
        self._life_cycle.verify_is_unused()

    def verify_is_usable(self) -> None:
        """Return if the directory is absent, empty or a layout; see `LayoutLifeCycle.verify_is_usable`."""
        self._life_cycle.verify_is_usable()
