"""What is verified: a layout, an archive, or one image, wherever it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from ociexport.errors import InvalidImageError, NotFoundError, quoted
from ociexport.images.source import BlobOpener, ImageSource, published
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.mediatypes import without_parameters
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY, PARTIAL_DIRECTORY
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.sources.names import ArchiveName, LayoutName, RegistryName, parse_source_name, source_text
from ociexport.transfer.sources.open import open_source
from ociexport.verification.archives import read_archive_roots
from ociexport.verification.findings import Findings, Kind
from ociexport.verification.stores import (
    INDEX_FILE,
    LAYOUT_FILE,
    ArchiveStore,
    LayoutStore,
    read_roots,
    verify_layout_file,
)
from ociexport.verification.walk import Root

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions

# What a registry says of a document whose type it does not know.
_GENERAL_TYPES = frozenset({"application/json", "application/octet-stream", "text/plain"})


class Subject(Protocol):
    """What is verified.

    Attributes:
        place: how messages call it.
        is_remote: whether to look at all of it would fetch what nobody asked for.
    """

    place: str
    is_remote: bool

    def read_roots(self, findings: Findings, progress: Progress) -> list[Root]:
        """Return its images, and tell what is wrong with the lists of them.

        Raises:
            NotFoundError, RegistryError: there is nothing to look at.
        """

    def list_blobs(self, findings: Findings) -> Iterable[Digest]:
        """Return all blobs that are there, and tell what is among them that is none; nothing where there is no list."""

    def open_blob(self, digest: Digest) -> BlobOpener:
        """Return what opens a blob that `list_blobs` returned."""

    def close(self) -> None:
        """Let go of files and connections."""


def open_subject(
    source: str | os.PathLike[str] | ImageSource, *, progress: Progress, registry: RegistryOptions | None
) -> Subject:
    """Return what ``source`` means; the caller closes it.

    Raises:
        as `open_source` does; that an archive can't be read is a finding, and comes later.
    """
    if not isinstance(source, str | os.PathLike):
        return OneImage(published(source), is_owned=False)
    name = parse_source_name(source_text(source))
    if isinstance(name, LayoutName) and name.image is None:
        return WholeLayout(name.path)
    if isinstance(name, ArchiveName) and name.image is None:
        return WholeArchive(name.path)
    opened = open_source(name, options=registry, progress=progress)
    return OneImage(published(opened), is_owned=True, is_remote=isinstance(name, RegistryName))


class WholeLayout:
    """All that is in a layout's directory.

    Raises:
        NotFoundError: it is no layout.
    """

    is_remote = False

    def __init__(self, path: str) -> None:
        self.layout = ImageLayout(path)
        if not any(map(self.layout.directory.has, (LAYOUT_FILE, INDEX_FILE, BLOBS_DIRECTORY))):
            raise NotFoundError(f"{quoted(path)}: expected an OCI layout, there is none")
        self.place = path
        self._store = LayoutStore(self.layout)

    def read_roots(self, findings: Findings, progress: Progress) -> list[Root]:
        """Return its images; see `Subject`."""
        verify_layout_file(self._store, findings)
        return read_roots(self._store, findings)

    def list_blobs(self, findings: Findings) -> Iterator[Digest]:
        """Yield what is in ``blobs/``; see `Subject`. What is unfinished is told too."""
        try:
            for name, status in self.layout.partial_files():
                message = f"{status.st_size} bytes of a blob that a pull did not finish"
                findings.add(Kind.UNFINISHED, name, message, is_wrong=False)
        except InvalidImageError as error:
            # The images are as they are; only a pull into the layout is refused.
            findings.add(Kind.LAYOUT, PARTIAL_DIRECTORY, error.message, is_wrong=False)
        yield from self._store.list_blobs(findings)

    def open_blob(self, digest: Digest) -> BlobOpener:
        """Return the layout."""
        return self.layout

    def close(self) -> None:
        """Nothing is open."""


class WholeArchive:
    """All that is in an archive, which is opened when its images are asked for."""

    is_remote = False

    def __init__(self, path: str) -> None:
        self.place = "standard input" if path == "-" else path
        self._path = path
        self._members: ArchiveMembers | None = None

    def read_roots(self, findings: Findings, progress: Progress) -> list[Root]:
        """Return its images; see `Subject`."""
        try:
            self._members = ArchiveMembers.open(self._path)
            return read_archive_roots(self._members, findings, progress)
        except InvalidImageError as error:
            findings.add_error(error, self.place)
            return []

    def list_blobs(self, findings: Findings) -> Iterable[Digest]:
        """Return what is in ``blobs/``; see `Subject`. Without ``index.json`` these are docker's own affair."""
        if self._members is None or INDEX_FILE not in self._members:
            return ()
        return ArchiveStore(self._members).list_blobs(findings)

    def open_blob(self, digest: Digest) -> BlobOpener:
        """Return what opens the archive's blobs."""
        if self._members is None:
            raise AssertionError("blobs are listed before they are opened")
        return ArchiveStore(self._members).opener

    def close(self) -> None:
        """Close the archive."""
        if self._members is not None:
            self._members.close()


class OneImage:
    """One image of any source."""

    def __init__(self, source: ImageSource, *, is_owned: bool, is_remote: bool = False) -> None:
        self._source = source
        self._is_owned = is_owned
        self.is_remote = is_remote
        self.place = source.display_name

    def read_roots(self, findings: Findings, progress: Progress) -> list[Root]:
        """Return the image; see `Subject`."""
        try:
            received = self._source.fetch_manifest()
        except InvalidImageError as error:
            findings.add_error(error, self.place)
            return []
        media_type = without_parameters(received.media_type or "")
        known_type = "" if media_type in _GENERAL_TYPES else media_type
        descriptor = Descriptor(known_type, received.digest, len(received.raw))
        return [Root(self._source, descriptor, self.place, received.raw)]

    def list_blobs(self, findings: Findings) -> Iterable[Digest]:
        """Return nothing: what else there is belongs to others."""
        return ()

    def open_blob(self, digest: Digest) -> BlobOpener:
        """Return the source."""
        return self._source

    def close(self) -> None:
        """Close the source, if nobody else does."""
        if self._is_owned:
            self._source.close()
