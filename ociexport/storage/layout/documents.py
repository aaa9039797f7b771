"""The two documents of an image layout: ``oci-layout`` and ``index.json``.

A reader sees the old or the new content of each, never a part. Changes to ``index.json`` are made under a lock.

Spec: image-spec 1.1 image-layout.md, "oci-layout file", "index.json file".
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import compress
from typing import Any

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
# The names of unfinished documents begin with one of these.
UNFINISHED_DOCUMENTS = tuple(f"{OWN_DIRECTORY}/{name}." for name in (INDEX_FILE, LAYOUT_FILE, BUNDLE_FILE))


class LayoutDocuments:
    """``oci-layout`` and ``index.json`` in one directory.

    Args:
        directory: of the layout.
    """

    def __init__(self, directory: LayoutDirectory) -> None:
        self._directory = directory
        # The bytes of ``index.json`` as last written, and its entries, which need not be parsed again.
        self._last_index: tuple[bytes | None, list[Descriptor]] = None, []

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
        version = parse_json_object(raw, where=path).text("imageLayoutVersion")
        if version.split(".")[0] != "1":
            raise UnsupportedMediaTypeError(f"imageLayoutVersion: expected 1.0.0, got {quoted(version)}", where=path)

    def read_images(self) -> list[ListedImage]:
        """Return the descriptors that ``index.json`` lists, each with its names. Raises as `verify_layout_file`."""
        self.verify_layout_file()
        raw = self._directory.read_file(INDEX_FILE, MAX_INDEX_BYTES)
        return list_images(parse_json_object(raw, where=self._directory.path_of(INDEX_FILE)))

    def read_index_bytes(self) -> bytes | None:
        """Return ``index.json`` byte for byte; None if it does not exist."""
        try:
            return self._directory.read_file(INDEX_FILE, MAX_INDEX_BYTES)
        except FileNotFoundError:
            return None

    def has_images(self) -> bool:
        """Whether ``index.json`` lists anything."""
        return bool(self._read_raw_index()[1])

    def write_missing(self) -> bytes | None:
        """Write the documents that do not exist yet; returns the bytes of ``index.json``."""
        with self._locked():
            # index.json first: a directory with an oci-layout file is a layout, and a layout has an index.
            for name, content in ((INDEX_FILE, to_json(_new_index())), (LAYOUT_FILE, LAYOUT_FILE_CONTENT)):
                if not self._directory.has(name):
                    self._replace(name, content)
            return self.read_index_bytes()

    def list_image(self, descriptor: Descriptor, name: ImageName) -> None:
        """Add an image to ``index.json``; see `ImageLayout.write_name`."""
        entry = named(descriptor, name)
        with self._locked():
            index, known = self._read_raw_index()
            kept = [not _is_replaced(existing, descriptor, name) for existing in known]
            index["manifests"] = [*compress(index["manifests"], kept), entry.to_json()]
            raw = to_json(index)
            self._replace(INDEX_FILE, raw)
            self._last_index = raw, [*compress(known, kept), entry]

    def unlist(self, removed: Collection[int], before: bytes) -> None:
        """Remove entries from ``index.json``; all else in it stays as it is.

        Args:
            removed: the positions of the entries.
            before: the bytes of ``index.json`` that have these positions.

        Raises:
            UsageError: ``index.json`` has other bytes by now, written by a tool that does not know our locks.
        """
        with self._locked():
            index, known = self._read_raw_index()
            if self.read_index_bytes() != before:
                raise UsageError(
                    f"{self._directory.path_of(INDEX_FILE)}: expected no change while images are removed, got one",
                    hint="try again",
                )
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

    def _read_raw_index(self) -> tuple[dict[str, Any], list[Descriptor]]:
        """Return ``index.json`` with the members that we do not know, since they are kept, and its entries."""
        raw = self.read_index_bytes()
        if raw is None:
            return _new_index(), []
        last, known = self._last_index
        if raw != last:
            item = parse_json_object(raw, where=self._directory.path_of(INDEX_FILE))
            known = [Descriptor.from_json(entry) for entry in item.objects("manifests")]
            del item  # which takes as much memory as the one below
        index: dict[str, Any] = json.loads(raw)
        index["manifests"] = index.get("manifests") or []
        return index, known


def to_json(value: object) -> bytes:
    """Return a document of a layout, as short as possible."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _is_replaced(old: Descriptor, descriptor: Descriptor, name: ImageName) -> bool:
    """Whether the new entry for ``name`` replaces this entry of ``index.json``, whichever tool wrote it."""
    known = name_of(old)
    if name.full is not None and known.full is not None:
        return known.full == name.full
    if old.digest != descriptor.digest:
        return name.full is None and known.full is None and name.tag is not None and known.tag == name.tag
    # The same image: an entry with no more names than the new one would be a duplicate.
    return known.full is None and known.tag in (None, name.tag)


def _new_index() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": []}
