"""Stores of images that are verified as a whole: a layout's directory, or an archive.

Spec: image-spec 1.1 image-layout.md.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Protocol

from ociexport.errors import InvalidDigestError, InvalidImageError, NotFoundError, printable, quoted
from ociexport.images.source import BlobOpener
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import JsonObject, parse_json_object
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.archive.reader import ArchiveBlobs
from ociexport.storage.index import MAX_INDEX_BYTES, ListedSource, name_of, shown_name
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY
from ociexport.storage.layout.documents import INDEX_FILE, LAYOUT_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout_directory import LayoutDirectory
from ociexport.verification.findings import Findings, Kind
from ociexport.verification.index_names import verify_names
from ociexport.verification.schemas import index_flaws, layout_file_flaws
from ociexport.verification.walk import Root


class Store(Protocol):
    """Files and blobs in the form of an OCI layout."""

    @property
    def place(self) -> str:
        """Its name in messages."""

    @property
    def opener(self) -> BlobOpener:
        """Opens its blobs."""

    def read_file(self, name: str) -> bytes:
        """Return ``oci-layout`` or ``index.json``.

        Raises:
            NotFoundError: it does not exist.
            InvalidImageError, OSError: it cannot be read.
        """

    def list_blobs(self, findings: Findings) -> Iterable[Digest]:
        """Return the digests that name files in ``blobs/``, and report other files there."""


@dataclass(frozen=True, slots=True)
class LayoutStore:
    """A layout in a directory."""

    layout: ImageLayout

    @property
    def place(self) -> str:
        """The directory's path."""
        return self.layout.path

    @property
    def opener(self) -> BlobOpener:
        """The layout."""
        return self.layout

    def read_file(self, name: str) -> bytes:
        """Return ``oci-layout`` or ``index.json``; see `Store`."""
        try:
            return self.layout.directory.read_file(name, MAX_INDEX_BYTES)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{quoted(self.layout.directory.path_of(name))}: not there") from error

    def list_blobs(self, findings: Findings) -> Iterator[Digest]:
        """Yield the blobs' digests; see `Store`."""
        for entry in layout_blobs(self.layout.directory):
            if entry.digest is not None:
                yield entry.digest
            elif entry.is_link and entry.path.count("/") < 2:
                findings.add(Kind.LAYOUT, entry.path, "expected a directory, got a link")
            else:
                findings.add(Kind.LAYOUT, entry.path, "expected a file named by a digest")


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """An entry in ``blobs/`` of a layout.

    Args:
        path: relative to the layout.
        digest: its name; None if it is not a blob.
    """

    path: str
    digest: Digest | None
    is_link: bool
    status: os.stat_result


def layout_blobs(layout: LayoutDirectory) -> Iterator[BlobEntry]:
    """Yield the entries of the algorithms' directories, in order, and anything that is not such a directory."""
    if layout.has(BLOBS_DIRECTORY) and not layout.has_directory(BLOBS_DIRECTORY):
        status = layout.status(BLOBS_DIRECTORY)
        yield BlobEntry(BLOBS_DIRECTORY, None, stat.S_ISLNK(status.st_mode), status)
        return
    for algorithm, status in _entries_of(layout, BLOBS_DIRECTORY):
        directory = posixpath.join(BLOBS_DIRECTORY, algorithm)
        if not stat.S_ISDIR(status.st_mode):
            yield BlobEntry(directory, None, stat.S_ISLNK(status.st_mode), status)
            continue
        for name, status_there in _entries_of(layout, directory):
            is_link = stat.S_ISLNK(status_there.st_mode)
            is_blob = is_link or stat.S_ISREG(status_there.st_mode)
            digest = _digest_of(algorithm, name) if is_blob else None
            yield BlobEntry(posixpath.join(directory, name), digest, is_link, status_there)


def _entries_of(layout: LayoutDirectory, directory: str) -> Iterator[tuple[str, os.stat_result]]:
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        names = sorted(layout.list_names(directory))
    for name in names:
        with suppress(FileNotFoundError):  # removed in the meantime
            yield name, layout.status(posixpath.join(directory, name))


def _digest_of(algorithm: str, encoded: str) -> Digest | None:
    try:
        return Digest(algorithm, encoded)
    except InvalidDigestError:
        return None


@dataclass(frozen=True, slots=True)
class ArchiveStore:
    """A layout in an archive."""

    members: ArchiveMembers

    @property
    def place(self) -> str:
        """The archive's path."""
        return self.members.place

    @property
    def opener(self) -> BlobOpener:
        """The opener of the archive's blobs."""
        return ArchiveBlobs(self.members)

    def read_file(self, name: str) -> bytes:
        """Return ``oci-layout`` or ``index.json``; see `Store`."""
        return self.members.read(name, MAX_INDEX_BYTES)

    def list_blobs(self, findings: Findings) -> Iterator[Digest]:
        """Yield the blobs' digests; see `Store`."""
        for name in self.members.names:
            if not name.startswith(f"{BLOBS_DIRECTORY}/"):
                continue
            algorithm, _, encoded = name.removeprefix(f"{BLOBS_DIRECTORY}/").partition("/")
            digest = _digest_of(algorithm, encoded)
            if digest is None:
                findings.add(Kind.LAYOUT, printable(name), "expected a file named by a digest")
            else:
                yield digest


def verify_layout_file(store: Store, findings: Findings) -> None:
    """Report problems of the ``oci-layout`` file."""
    item = _read_object(store, LAYOUT_FILE, findings)
    if item is not None:
        for where, message in layout_file_flaws(item.members):
            findings.add(Kind.LAYOUT, f"{LAYOUT_FILE}: {where}", message)


def read_roots(store: Store, findings: Findings) -> list[Root]:
    """Return the images that ``index.json`` lists, as far as it can be read, and report its problems."""
    item = _read_object(store, INDEX_FILE, findings)
    if item is None:
        return []
    for where, message in index_flaws(item.members):
        findings.add(Kind.LAYOUT, f"{INDEX_FILE}: {where}" if where else INDEX_FILE, message)
    entries = list(_entries(item))
    verify_names(entries, store.place, store.opener, findings)
    return [
        Root(
            ListedSource(store.place, store.opener, descriptor),
            descriptor,
            printable(shown_name(descriptor, name_of(descriptor))),
        )
        for _, descriptor in entries
    ]


def _entries(item: JsonObject) -> Iterator[tuple[str, Descriptor]]:
    """Yield the readable entries with their places. The flaws of others are already reported."""
    manifests = item.members.get("manifests")
    for number, entry in enumerate(manifests if isinstance(manifests, list) else ()):
        if isinstance(entry, dict):
            with suppress(InvalidImageError):
                yield f"{INDEX_FILE}: manifests[{number}]", Descriptor.from_json(JsonObject(entry, ""))


def _read_object(store: Store, name: str, findings: Findings) -> JsonObject | None:
    try:
        return parse_json_object(store.read_file(name), where="")
    except (NotFoundError, InvalidImageError, OSError) as error:
        findings.add_error(error, name, otherwise=Kind.LAYOUT)
        return None
