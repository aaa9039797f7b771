"""ImageLayout: an OCI image-layout directory, source and destination.

What is not complete is never where it could be taken for complete: blobs are written in ``.ociexport/partial``, and
renamed into ``blobs/`` when digest and size are right; ``index.json`` is replaced last, under a lock. It is one
long file, since what a layout holds, who uses it and what may be tidied away are decided together.

Spec: image-spec 1.1 image-layout.md.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from itertools import compress
from typing import Any

from ociexport.errors import (
    InvalidImageError,
    NotFoundError,
    UnsupportedMediaTypeError,
    UsageError,
    quoted,
)
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest, Verifier
from ociexport.spec.json_fields import parse_json_object
from ociexport.storage.index import (
    MAX_INDEX_BYTES,
    ListedImage,
    ListedSource,
    choose_image,
    list_images,
    name_of,
    named,
)
from ociexport.storage.layout.blobs import (
    BLOBS_DIRECTORY,
    OWN_DIRECTORY,
    PARTIAL_DIRECTORY,
    LayoutBlobWriter,
    blob_name,
    partial_name,
    trusted_bytes,
)
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.hold import LayoutHold
from ociexport.storage.layout_directory import LayoutDirectory

LAYOUT_FILE_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'
_LAYOUT_FILE = "oci-layout"
_INDEX_FILE = "index.json"
_LOCK_FILE = f"{OWN_DIRECTORY}/lock"
USERS_FILE = f"{OWN_DIRECTORY}/users"
_UNFINISHED_FILES = (f"{OWN_DIRECTORY}/{_INDEX_FILE}.", f"{OWN_DIRECTORY}/{_LAYOUT_FILE}.")
_READ_BYTES = 1024 * 1024
# What a disk or file system says of a file that is there and can't be read: it is as good as not there.
_DAMAGE = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ELOOP})


class ImageLayout:
    """An OCI image-layout directory.

    As a destination it is made when the first blob is written, so a pull that finds nothing leaves nothing.

    Args:
        path: of the directory; absent, empty or a layout.
        cache: where blobs are looked for before they are fetched, and kept for other layouts.
    """

    def __init__(self, path: str | os.PathLike[str], *, cache: BlobCache | None = None) -> None:
        self.path = os.fspath(path)
        self.directory = LayoutDirectory(self.path)
        self._cache = cache
        if not self.path:
            raise UsageError("layout: expected the path of a directory, got an empty one")
        self._lock = threading.Lock()
        # The bytes of ``index.json`` as it was written last, and the entries in it, which need not be read again.
        self._last_index: tuple[bytes | None, list[Descriptor]] = None, []
        self._active_uses = 0
        self._own_hold: LayoutHold | None = None

    def __str__(self) -> str:
        return self.path

    # As a source.

    def read_images(self) -> list[ListedImage]:
        """Return what ``index.json`` lists: descriptors, and the names that they have.

        Raises:
            NotFoundError: there is no layout here.
            InvalidImageError: ``oci-layout`` or ``index.json`` breaks the specification.
        """
        self._verify_layout_file()
        raw = self.directory.read_file(_INDEX_FILE, MAX_INDEX_BYTES)
        return list_images(parse_json_object(raw, where=self.directory.path_of(_INDEX_FILE)))

    def open_image(self, name: str | None = None) -> ListedSource:
        """Return one image of the layout.

        Args:
            name: a tag, a full reference, ``@sha256:…`` or ``@N`` (position in ``index.json``); None where there is
                only one image. Of a tag or reference with a digest the digest counts.

        Raises:
            NotFoundError: there is no such image, or no layout; the message lists the names there are.
            UsageError: several images fit.
        """
        images = self.read_images()
        found = choose_image(self.path, images, name)
        if isinstance(found, Digest):
            with self.open_file(found) as file:
                found = Descriptor("", found, os.fstat(file.fileno()).st_size)
        return ListedSource(self.path, self, found, images)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's file from ``offset`` on; the caller verifies and closes it.

        Raises:
            NotFoundError: it is not there.
        """
        file = self.open_file(descriptor.digest)
        file.seek(offset)
        return file

    def open_file(self, digest: Digest) -> FileIO:
        """Return the blob's file, unbuffered; the caller closes it.

        Raises:
            NotFoundError: it is not there.
            InvalidImageError: what is there is no file.
        """
        try:
            return self.directory.open_file(blob_name(digest))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{self.path}: blob {digest}: not in the layout") from error

    def blob_path(self, digest: Digest) -> str:
        """Return where the blob is, if it is there."""
        return self.directory.path_of(blob_name(digest))

    def partial_path(self, digest: Digest) -> str:
        """Return where the blob is while it is written."""
        return self.directory.path_of(partial_name(digest))

    def partial_bytes(self, descriptor: Descriptor) -> int:
        """Return how many bytes an earlier try left of a blob, unverified; 0 where there are none."""
        try:
            with self.directory.open_file(partial_name(descriptor.digest)) as file:
                return trusted_bytes(file.fileno(), descriptor.size)
        except (InvalidImageError, OSError):
            return 0

    def partial_files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the names of blobs that are not complete, whether somebody writes them or not, and their status.

        Raises:
            InvalidImageError: their directory is none.
        """
        names: list[str] = []
        with suppress(FileNotFoundError):
            names = sorted(self.directory.list_names(PARTIAL_DIRECTORY))
        for name in names:
            with suppress(FileNotFoundError):  # complete meanwhile
                yield f"{PARTIAL_DIRECTORY}/{name}", self.directory.status(f"{PARTIAL_DIRECTORY}/{name}")

    def _verify_layout_file(self) -> None:
        path = self.directory.path_of(_LAYOUT_FILE)
        try:
            raw = self.directory.read_file(_LAYOUT_FILE, MAX_INDEX_BYTES)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{self.path}: expected an OCI layout, got no {_LAYOUT_FILE} file in it") from error
        version = parse_json_object(raw, where=path).text("imageLayoutVersion")
        if version.split(".")[0] != "1":
            raise UnsupportedMediaTypeError(f"imageLayoutVersion: expected 1.0.0, got {quoted(version)}", where=path)

    # As a destination.

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there and valid: its bytes are read and verified, for a file may be cut or damaged.

        What the cache has is there as well, from now on.
        """
        return self._has_own_blob(descriptor) or self._has_cached_blob(descriptor)

    def _has_cached_blob(self, descriptor: Descriptor) -> bool:
        # Before the layout is made there is no place to put anything.
        if self._cache is None or not self.directory.has(BLOBS_DIRECTORY):
            return False
        return self._cache.give(descriptor, self.directory)

    def _has_own_blob(self, descriptor: Descriptor) -> bool:
        return self.size_of_valid_blob(descriptor.digest, descriptor.size) is not None

    def size_of_valid_blob(self, digest: Digest, size: int | None = None) -> int | None:
        """Return the size of a blob whose bytes were read and verified; None where it is not there, or damaged.

        Args:
            size: that it must have; None where nobody knows.
        """
        try:
            with self.open_file(digest) as file:
                if size is not None and os.fstat(file.fileno()).st_size != size:
                    return None
                verifier = Verifier(digest, size, subject="blob")
                while chunk := file.read(_READ_BYTES):
                    verifier.update(chunk)
                verifier.verify()
        except (NotFoundError, InvalidImageError):
            return None
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            return None
        return verifier.seen_bytes

    def keep_in_cache(self, digest: Digest) -> None:
        """Share a blob that was just verified with other layouts, where there is a cache."""
        if self._cache is not None:
            self._cache.take(digest, self.directory)

    def new_blob(self, descriptor: Descriptor) -> LayoutBlobWriter:
        """Return a writer for a blob; at the end of the ``with`` block it is verified and takes its name.

        What an earlier try left is kept, verified again, and counted in the writer's ``offset``. Who wants the same
        blob in another process waits for this one.

        Raises:
            DigestMismatchError, SizeMismatchError: at the end: the bytes were others; they are gone.
        """
        self.make_ready()
        return LayoutBlobWriter(self, descriptor.digest, descriptor.size)

    def new_blob_of_any_size(self, digest: Digest) -> LayoutBlobWriter:
        """Return a writer for a blob of which only the digest is known; the same in all else."""
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
        """List the image in ``index.json``; an entry of the same full name is replaced.

        What others wrote into ``index.json`` stays as it is, other entries and members alike.
        """
        self.make_ready()
        entry = named(descriptor, name)
        with self._locked():
            index, known = self._read_raw_index()
            kept = [not _is_replaced(entry_there, descriptor, name) for entry_there in known]
            index["manifests"] = [*compress(index["manifests"], kept), entry.to_json()]
            raw = to_json(index)
            self._replace_file(_INDEX_FILE, raw)
            self._last_index = raw, [*compress(known, kept), entry]

    @contextmanager
    def begin(self) -> Iterator[LayoutUse]:
        """Make the directory a layout for as long as an image is copied into it.

        Whoever ends last tidies up: what was discarded goes, and the layout itself if it was made in vain.

        Raises:
            UsageError: it holds something else; it was not touched.
        """
        use = LayoutUse()
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
    def hold_alone(self) -> Iterator[None]:
        """Keep everybody from copying images into the layout, which is one already.

        Raises:
            UsageError: somebody does; or nobody can know, since the file system has no locks.
        """
        hold, made = self._hold()
        try:
            if not hold.is_alone():
                raise self.in_use_error()
            yield
        finally:
            self._release(hold, (), made)

    def in_use_error(self) -> UsageError:
        """Return what tells that others are copying images into the layout."""
        return UsageError(
            f"{self.path}: expected a layout that nobody writes to, got one in use",
            hint="try again when the other ociexport has ended",
        )

    def make_ready(self) -> None:
        """Make the directory a layout, unless it is one; it stays one.

        Raises:
            UsageError: it holds something else; it was not touched.
        """
        with self._lock:
            if not self._active_uses and self._own_hold is None:
                self._own_hold, _ = self._hold()

    def _hold(self) -> tuple[LayoutHold, _Made]:
        """Make the directory a layout that nobody tidies away; returns what had to be made for it."""
        self.verify_is_usable()
        self.directory.verify_directories(OWN_DIRECTORY, PARTIAL_DIRECTORY, BLOBS_DIRECTORY)
        if self._cache is not None:
            self._cache.verify_is_usable()
        directories = self.directory.missing_directories()
        hold = LayoutHold(self.directory, USERS_FILE)
        is_new = not self.directory.has(_LAYOUT_FILE)
        made = _Made(is_new, directories, None)
        try:
            for name in (f"{BLOBS_DIRECTORY}/sha256", PARTIAL_DIRECTORY):
                self.directory.make_directory(name)
            # A blob is not lost in a power cut if its directories are not.
            self.directory.sync_made(directories)
            self.directory.sync(BLOBS_DIRECTORY)
            # index.json first: what has an oci-layout file is a layout, and a layout has an index.
            with self._locked():
                for name, content in (
                    (_INDEX_FILE, to_json(_new_index())),
                    (_LAYOUT_FILE, LAYOUT_FILE_CONTENT),
                ):
                    if not self.directory.has(name):
                        self._replace_file(name, content)
                made = _Made(is_new, directories, self._read_index_bytes())
        except BaseException:
            self._release(hold, (), made)
            raise
        return hold, made

    def _release(self, hold: LayoutHold, discarded: Iterable[Digest], made: _Made) -> None:
        try:
            if hold.is_alone():
                with suppress(OSError, InvalidImageError):  # what went wrong before matters more
                    self._tidy(discarded, made)
        finally:
            hold.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep all other processes from changing ``index.json``."""
        fd = self.directory.open_locked(_LOCK_FILE)
        try:
            yield
        finally:
            os.close(fd)

    def verify_is_usable(self) -> None:
        """Return if the directory is absent, empty or a layout.

        Raises:
            UsageError: it is something else.
        """
        try:
            names = set(self.directory.list_names(""))
        except FileNotFoundError:
            return
        except NotADirectoryError as error:
            raise UsageError(f"{quoted(self.path)}: expected a directory, got a file") from error
        if _LAYOUT_FILE in names:
            with suppress(NotFoundError):  # gone meanwhile, with whoever had made it in vain
                self._verify_layout_file()
        elif names - {BLOBS_DIRECTORY, _INDEX_FILE, OWN_DIRECTORY}:
            raise UsageError(
                f"{quoted(self.path)}: expected an OCI layout or an empty directory, got a directory of other files",
                hint="choose another directory for the layout",
            )

    def _tidy(self, discarded: Iterable[Digest], made: _Made) -> None:
        """Remove what is wanted no more, and what was made in vain; only for who holds the layout alone."""
        # If anything was named meanwhile, it may need what was to be discarded.
        unchanged = self._read_index_bytes() == made.index
        for digest in discarded if unchanged else ():
            for name in (blob_name(digest), partial_name(digest)):
                with suppress(FileNotFoundError):
                    self.directory.remove(name)
        with suppress(OSError):  # what is not empty holds partial blobs, and the next try goes on there
            self.directory.remove_directory(PARTIAL_DIRECTORY)
            for name in (f"{OWN_DIRECTORY}/{name}" for name in self.directory.list_names(OWN_DIRECTORY)):
                # Nothing but what is ours, whatever else may have come to be there.
                if name in (_LOCK_FILE, USERS_FILE) or name.startswith(_UNFINISHED_FILES):
                    self.directory.remove(name)
            self.directory.remove_directory(OWN_DIRECTORY)
        if not made.layout or self._read_raw_index()[1]:
            return
        with suppress(OSError):
            for name in self.directory.list_names(BLOBS_DIRECTORY):
                self.directory.remove_directory(f"{BLOBS_DIRECTORY}/{name}")
            self.directory.remove_directory(BLOBS_DIRECTORY)
            self.directory.remove(_LAYOUT_FILE)
            self.directory.remove(_INDEX_FILE)
            self.directory.remove_made(made.directories)

    def _replace_file(self, name: str, content: bytes) -> None:
        """Write a file in place of the one that may be there; a reader sees the old or the new, never a part."""
        # Not beside it: who looks whether this is a layout at the same moment should see only what a layout has.
        self.directory.write_file(name, content, aside=OWN_DIRECTORY)

    def _read_index_bytes(self) -> bytes | None:
        try:
            return self.directory.read_file(_INDEX_FILE, MAX_INDEX_BYTES)
        except FileNotFoundError:
            return None

    def _read_raw_index(self) -> tuple[dict[str, Any], list[Descriptor]]:
        """Return ``index.json`` as it is, since what we do not know in it is kept, and the entries in it."""
        raw = self._read_index_bytes()
        if raw is None:
            return _new_index(), []
        last, known = self._last_index
        if raw != last:
            item = parse_json_object(raw, where=self.directory.path_of(_INDEX_FILE))
            known = [Descriptor.from_json(entry) for entry in item.objects("manifests")]
            del item  # which takes as much memory as the one below
        index: dict[str, Any] = json.loads(raw)
        index["manifests"] = index.get("manifests") or []
        return index, known


class LayoutUse:
    """One image's way into a layout."""

    def __init__(self) -> None:
        self.discarded: set[Digest] = set()

    def discard(self, digests: Iterable[Digest]) -> None:
        """Remove these blobs at the end, whole or partial, unless others use the layout and may need them."""
        self.discarded.update(digests)


@dataclass(frozen=True, slots=True)
class _Made:
    """What was made for an image, and what was there.

    Args:
        layout: whether there was none before.
        directories: that were not there, outermost first.
        index: the bytes of ``index.json``.
    """

    layout: bool
    directories: tuple[str, ...]
    index: bytes | None


def _is_replaced(old: Descriptor, descriptor: Descriptor, name: ImageName) -> bool:
    """Whether an entry of ``index.json`` gives way to the new one of ``name``, whichever tool wrote it."""
    known = name_of(old)
    if name.full is not None and known.full is not None:
        return known.full == name.full
    if old.digest != descriptor.digest:
        return name.full is None and known.full is None and name.tag is not None and known.tag == name.tag
    # The same image: an entry that says no more than the new one would only be its double.
    return known.full is None and known.tag in (None, name.tag)


def _new_index() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": []}


def to_json(value: object) -> bytes:
    """Return a document of a layout, as short as it can be."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
