"""The two documents of an image layout: ``oci-layout`` and ``index.json``.

A reader sees the old or the new content of each, never a part. Changes to ``index.json`` are made under a lock.

Spec: image-spec 1.1 image-layout.md, "oci-layout file", "index.json file".
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, compress
from typing import Any, TypeAlias

from ociexport.errors import NotFoundError, UnsupportedMediaTypeError, UsageError, quoted
from ociexport.images.source import ImageName
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.json_fields import parse_json_object
from ociexport.storage.index import MAX_INDEX_BYTES, ListedImage, list_images, name_of, named
from ociexport.storage.layout.blobs import OWN_DIRECTORY
from ociexport.storage.layout_directory import LayoutDirectory

LAYOUT_FILE = "oci-layout"
LAYOUT_FILE_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_FILE = "index.json"
LOCK_FILE = f"{OWN_DIRECTORY}/lock"
# Beside these two in a thin layout; see `ociexport.storage.bundle`.
BUNDLE_FILE = "bundle.json"
EXPECTED_HINT = "an update lacks what the far side has: ociexport merge FAR BUNDLE puts both together"
# What two entries have in common if one replaces the other.
_Key: TypeAlias = "tuple[str, str] | tuple[str, str, str | None]"
# The names of unfinished documents begin with one of these.
UNFINISHED_DOCUMENTS = tuple(f"{OWN_DIRECTORY}/{name}." for name in (INDEX_FILE, LAYOUT_FILE, BUNDLE_FILE, "verified"))


class LayoutDocuments:
    """``oci-layout`` and ``index.json`` in one directory.

    Args:
        directory: of the layout.
    """

    def __init__(self, directory: LayoutDirectory) -> None:
        self._directory = directory
        # The bytes of ``index.json`` as last written or read, and its entries, which need not be parsed again.
        self._last_index: tuple[bytes | None, list[Descriptor]] = None, []
        # The names that are to be written together; None where each is written at once.
        self._pending: list[ListedImage] | None = None
        self._lock = threading.Lock()

    def verify_layout_file(self) -> None:
        """Return if ``oci-layout`` exists and declares a version that we read.

        Raises:
            NotFoundError: the file does not exist, so this is no layout.
            InvalidImageError: it breaks the specification.
            UnsupportedMediaTypeError: it declares another major version.
        """
        path = self._directory.path_of(LAYOUT_FILE)
        try:
            raw = self._directory.read_file(LAYOUT_FILE, MAX_INDEX_BYTES)
        except (FileNotFoundError, NotADirectoryError) as error:
            message = f"{self._directory.path}: expected an OCI layout, got no {LAYOUT_FILE} file in it"
            raise NotFoundError(message) from error
        verify_layout_version(raw, path)

    def read_images(self) -> list[ListedImage]:
        """Return the descriptors that ``index.json`` lists, each with its names. Raises as `verify_layout_file`."""
        self.verify_layout_file()
        raw = self._directory.read_file(INDEX_FILE, MAX_INDEX_BYTES)
        images = list_images(parse_json_object(raw, where=self._directory.path_of(INDEX_FILE)))
        self._last_index = raw, [descriptor for descriptor, _ in images]
        return images

    def read_index_bytes(self) -> bytes | None:
        """Return ``index.json`` byte for byte; None if it does not exist."""
        try:
            return self._directory.read_file(INDEX_FILE, MAX_INDEX_BYTES)
        except FileNotFoundError:
            return None

    def has_images(self) -> bool:
        """Whether ``index.json`` lists anything."""
        return bool(self._parse(self.read_index_bytes())[1])

    def write_missing(self) -> bytes | None:
        """Write the documents that do not exist yet; returns the bytes of ``index.json``."""
        with self._locked():
            # index.json first: a directory with an oci-layout file is a layout, and a layout has an index.
            for name, content in ((INDEX_FILE, to_json(_new_index())), (LAYOUT_FILE, LAYOUT_FILE_CONTENT)):
                if not self._directory.has(name):
                    self._replace(name, content)
            return self.read_index_bytes()

    def list_image(self, descriptor: Descriptor, name: ImageName) -> None:
        """Add an image to ``index.json``; see `ImageLayout.write_name`. Between images, see `collect_names`."""
        with self._lock:
            if self._pending is not None:
                self._pending.append((descriptor, name))
                return
        self._list_images([(descriptor, name)])

    def collect_names(self) -> None:
        """From now on `list_image` keeps names in memory until `commit_names`.

        Each change of ``index.json`` reads and writes all of it, so many names one by one take quadratic time.
        """
        with self._lock:
            self._pending = self._pending or []

    def commit_names(self, *, ends: bool = False) -> None:
        """Write the collected names, in their order, with one change of ``index.json``; without any, do nothing.

        Args:
            ends: whether names are written at once from now on.
        """
        with self._lock:
            pending, self._pending = self._pending, None if ends else []
        if pending:
            self._list_images(pending)

    @property
    def has_names(self) -> bool:
        """Whether collected names wait."""
        return bool(self._pending)

    def take_names(self) -> list[ListedImage]:
        """Return the collected names, which are then written by the caller, or not at all."""
        with self._lock:
            taken, self._pending = self._pending or [], []
        return taken

    def _list_images(self, images: Sequence[ListedImage]) -> None:
        with self._locked():
            before = self.read_index_bytes()
            raw, entries = with_images(*self._parse(before), images)
            if raw != before:  # or the images are listed already, as after most pulls of the same
                self._replace(INDEX_FILE, raw)
            self._last_index = raw, entries

    def unlist(self, removed: Collection[int], before: bytes) -> None:
        """Remove entries from ``index.json``; all else in it stays as it is.

        Args:
            removed: the positions of the entries.
            before: the bytes of ``index.json`` that have these positions.

        Raises:
            UsageError: ``index.json`` has other bytes by now, written by a tool that does not know our locks.
        """
        with self._locked():
            if self.read_index_bytes() != before:
                raise UsageError(
                    f"{self._directory.path_of(INDEX_FILE)}: expected no change while images are removed, got one",
                    hint="try again",
                )
            index, known = self._parse(before)
            kept = [position not in removed for position in range(len(known))]
            index["manifests"] = [*compress(index["manifests"], kept)]
            raw = to_json(index)
            self._replace(INDEX_FILE, raw)
            self._last_index = raw, [*compress(known, kept)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep all other processes from changing ``index.json``."""
        fd = self._directory.open_locked(LOCK_FILE)
        try:
            yield
        finally:
            os.close(fd)

    def _replace(self, name: str, content: bytes) -> None:
        # The unfinished file is not written beside the document: a process that checks at this moment whether the
        # directory is a layout should see only the files of a layout.
        self._directory.write_file(name, content, aside=OWN_DIRECTORY)

    def _parse(self, raw: bytes | None) -> tuple[dict[str, Any], list[Descriptor]]:
        """Return ``index.json`` with the members that we do not know, since they are kept, and its entries."""
        last, known = self._last_index
        return parse_raw_index(raw, self._directory.path_of(INDEX_FILE), known if raw == last else None)


def verify_layout_version(raw: bytes, where: str) -> None:
    """Return if the content of ``oci-layout`` declares a version that we read. Raises as `verify_layout_file`."""
    version = parse_json_object(raw, where=where).text("imageLayoutVersion")
    if version.split(".")[0] != "1":
        raise UnsupportedMediaTypeError(f"imageLayoutVersion: expected 1.0.0, got {quoted(version)}", where=where)


def parse_raw_index(
    raw: bytes | None, where: str, known: list[Descriptor] | None = None
) -> tuple[dict[str, Any], list[Descriptor]]:
    """Return an ``index.json`` with the members that we do not know, since they are kept, and its entries.

    Args:
        raw: None for a new one.
        known: the entries, if ``raw`` was parsed before.
    """
    if raw is None:
        return _new_index(), []
    if known is None:
        item = parse_json_object(raw, where=where)
        known = [Descriptor.from_json(entry) for entry in item.objects("manifests")]
        del item  # which takes as much memory as the one below
    index: dict[str, Any] = json.loads(raw)
    index["manifests"] = index.get("manifests") or []
    return index, known


def with_images(
    index: dict[str, Any], known: Sequence[Descriptor], images: Sequence[ListedImage]
) -> tuple[bytes, list[Descriptor]]:
    """Return an ``index.json`` to which ``images`` were added one by one, and its entries.

    Args:
        index: is changed.
        known: its entries.
    """
    new = [named(*image) for image in images]
    kept = _kept_entries(known, new, [name for _, name in images])
    added = list(compress(new, kept[len(known) :]))
    index["manifests"] = [*compress(index["manifests"], kept), *(entry.to_json() for entry in added)]
    return to_json(index), [*compress(known, kept), *added]


def to_json(value: object) -> bytes:
    """Return a document of a layout, as short as possible."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _kept_entries(known: Sequence[Descriptor], new: Sequence[Descriptor], names: Sequence[ImageName]) -> list[bool]:
    """Return which entries stay when ``new`` ones are added one by one: first of ``known``, then of ``new``.

    A new entry replaces, whichever tool wrote it, an entry with its full name; or without a full name, one of the same
    image with no more names, which would be a duplicate; or, if it has no full name itself, one with its tag.
    """
    kept = [True] * (len(known) + len(new))
    places: dict[_Key, list[int]] = {}
    for place, entry in enumerate(chain(known, new)):
        if place >= len(known):
            for key in _replaced_keys(entry, names[place - len(known)]):
                for old in places.pop(key, ()):
                    kept[old] = False
        for key in _keys(entry, name_of(entry)):
            places.setdefault(key, []).append(place)
    return kept


def _keys(descriptor: Descriptor, name: ImageName) -> Iterator[_Key]:
    """Yield what an entry may be replaced by."""
    if name.full is not None:
        yield ("full", name.full)
        return
    yield ("image", str(descriptor.digest), name.tag)
    if name.tag is not None:
        yield ("tag", name.tag)


def _replaced_keys(descriptor: Descriptor, name: ImageName) -> Iterator[_Key]:
    """Yield the keys of the entries that a new entry replaces."""
    yield ("image", str(descriptor.digest), None)
    yield ("image", str(descriptor.digest), name.tag)
    if name.full is not None:
        yield ("full", name.full)
    elif name.tag is not None:
        yield ("tag", name.tag)


def _new_index() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": []}
