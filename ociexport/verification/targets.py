"""Targets of a verification: a layout, an archive, or one image of any source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from ociexport.errors import InvalidImageError, NotFoundError, UsageError, counted, quoted
from ociexport.images.source import BlobOpener, ImageSource, published, shared_name
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.spec.mediatypes import without_parameters
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.bundle import Bundle
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY, PARTIAL_DIRECTORY, blob_name
from ociexport.storage.layout.documents import INDEX_FILE, LAYOUT_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.storage.layout.ranges import collected_files, gaps_in, read_collected
from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.sources.names import (
    ArchiveName,
    LayoutName,
    RegistryName,
    RemoteLayoutName,
    parse_source_name,
    source_text,
)
from ociexport.transfer.sources.open import open_source
from ociexport.verification.archives import read_archive_roots
from ociexport.verification.bundles import read_bundle
from ociexport.verification.findings import Findings, Kind, kind_of
from ociexport.verification.stores import (
    ArchiveStore,
    LayoutStore,
    read_roots,
    verify_layout_file,
)
from ociexport.verification.volumes import OpenVolume, VolumeSet, open_volumes, volume_path
from ociexport.verification.walk import Root

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions

# Types that a registry gives to documents of unknown type.
_GENERAL_TYPES = frozenset({"application/json", "application/octet-stream", "text/plain"})


class Subject(Protocol):
    """A target of a verification.

    Attributes:
        place: its name in messages.
        is_remote: whether reading all of it would fetch images that the user did not request.
        bundle: its ``bundle.json``, once its images were read; None if it has none.
        volumes: the volumes of a set, once their images were read; None for anything else.
    """

    place: str
    is_remote: bool
    bundle: Bundle | None
    volumes: VolumeSet | None

    def read_roots(self, findings: Findings, progress: Progress) -> list[Root]:
        """Return its images, and report problems in its lists of images.

        Raises:
            NotFoundError, RegistryError: there is no image to verify.
        """

    def list_blobs(self, findings: Findings) -> Iterable[Digest]:
        """Return all stored blobs, and report other files among them; nothing if the target has no list of blobs."""

    def open_blob(self, digest: Digest) -> BlobOpener:
        """Return an opener of the blobs that `list_blobs` returned."""

    def close(self) -> None:
        """Close files and connections."""


def open_subject(
    source: str | os.PathLike[str] | ImageSource | Sequence[str],
    *,
    progress: Progress,
    registry: RegistryOptions | None,
) -> Subject:
    """Return the target that ``source`` names; the caller closes it.

    Raises:
        as `open_source` does, except for an archive that cannot be read, which becomes a finding later.
        UsageError: of several sources, one is no archive.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        return WholeArchive(*map(volume_path, source))
    if not isinstance(source, str | os.PathLike):
        return OneImage(published(source), is_owned=False)
    name = parse_source_name(source_text(source))
    if isinstance(name, LayoutName) and name.image is None:
        return WholeLayout(name.path)
    if isinstance(name, ArchiveName) and name.image is None:
        return WholeArchive(name.path)
    opened = open_source(name, options=registry, progress=progress)
    return OneImage(published(opened), is_owned=True, is_remote=isinstance(name, RegistryName | RemoteLayoutName))


class WholeLayout:
    """A whole layout directory.

    Raises:
        NotFoundError: it is not a layout.
    """

    is_remote = False

    def __init__(self, path: str) -> None:
        self.layout = ImageLayout(path)
        if not any(map(self.layout.directory.has, (LAYOUT_FILE, INDEX_FILE, BLOBS_DIRECTORY))):
            raise NotFoundError(f"{quoted(path)}: expected an OCI layout, found none")
        self.place = path
        self.bundle: Bundle | None = None
        self.volumes: VolumeSet | None = None
        self._store = LayoutStore(self.layout)

    def read_roots(self, findings: Findings, progress: Progress) -> list[Root]:
        """Return its images; see `Subject`."""
        self.bundle = read_bundle(self._store, findings)
        verify_layout_file(self._store, findings)
        return read_roots(self._store, findings)

    def list_blobs(self, findings: Findings) -> Iterator[Digest]:
        """Yield the digests in ``blobs/``; see `Subject`. Unfinished blobs are noted too."""
        try:
            for name, status in self.layout.partial_files():
                message = f"{counted(status.st_size, 'byte')} of a blob that an interrupted pull left"
                findings.add(Kind.UNFINISHED, name, message, is_wrong=False)
            for name, digest, status in collected_files(self.layout.directory):
                if digest is not None and not name.endswith(".json"):
                    gaps = gaps_in(read_collected(self.layout.directory, digest), 0, status.st_size)
                    there = status.st_size - sum(end - begin for begin, end in gaps)
                    message = f"{there} of {counted(status.st_size, 'byte')} of a blob; other volumes have the rest"
                    findings.add(Kind.UNFINISHED, name, message, is_wrong=False)
        except InvalidImageError as error:
            # The images are intact; only a pull into the layout is refused.
            findings.add(Kind.LAYOUT, PARTIAL_DIRECTORY, error.message, is_wrong=False)
        yield from self._store.list_blobs(findings)

    def open_blob(self, digest: Digest) -> BlobOpener:
        """Return the layout."""
        return self.layout

    def close(self) -> None:
        """Do nothing: no file is open."""


class WholeArchive:
    """A whole archive, or several volumes of one set, which are opened when their images are read."""

    is_remote = False

    def __init__(self, *paths: str) -> None:
        self.place = "standard input" if paths[0] == "-" else paths[0]
        self.bundle: Bundle | None = None
        self.volumes: VolumeSet | None = None
        self._paths = paths
        self._members: ArchiveMembers | None = None
        self._progress: Progress = SILENT

    def read_roots(self, findings: Findings, progress: Progress) -> list[Root]:
        """Return its images; see `Subject`."""
        self._progress = progress
        try:
            if len(self._paths) > 1:
                self._take(open_volumes(self._paths, findings))
            else:
                self._members = ArchiveMembers.open(self._paths[0])
                self.bundle = read_bundle(ArchiveStore(self._members), findings)
                if self.bundle is not None and self.bundle.volume is not None:
                    self._take([OpenVolume(self._members, self.bundle, self.bundle.volume)])
            if self._members is None:
                return []
            absent = self.bundle.expected_digests | self.bundle.made_digests if self.bundle is not None else ()
            return read_archive_roots(self._members, findings, progress, frozenset(map(blob_name, absent)))
        except InvalidImageError as error:
            message = f"{error.message}; {error.hint}" if error.hint else error.message
            findings.add(kind_of(error, Kind.UNREADABLE), self.place, message)
            return []

    def _take(self, volumes: Sequence[OpenVolume]) -> None:
        if volumes:
            self.volumes = VolumeSet(volumes)
            self.bundle, self._members = self.volumes.bundle, self.volumes.members

    def list_blobs(self, findings: Findings) -> Iterable[Digest]:
        """Return the digests in ``blobs/``; see `Subject`. Without ``index.json``, docker's own list counts."""
        if self.volumes is not None:
            self.volumes.verify_each(findings, self._progress)
        if self._members is None or INDEX_FILE not in self._members:
            return ()
        return ArchiveStore(self._members).list_blobs(findings)

    def open_blob(self, digest: Digest) -> BlobOpener:
        """Return an opener of the archive's blobs."""
        if self._members is None:
            raise AssertionError("blobs are listed before they are opened")
        return ArchiveStore(self._members).opener

    def close(self) -> None:
        """Close the archive."""
        if self.volumes is not None:
            self.volumes.close()
        if self._members is not None:
            self._members.close()


class OneImage:
    """One image of any source."""

    def __init__(self, source: ImageSource, *, is_owned: bool, is_remote: bool = False) -> None:
        self.bundle: Bundle | None = None
        self.volumes: VolumeSet | None = None
        self._source = source
        self._is_owned = is_owned
        self.is_remote = is_remote
        self.place = source.display_name

    def read_roots(self, findings: Findings, progress: Progress) -> list[Root]:
        """Return the image, or those that share its name; see `Subject`."""
        if (shared := shared_name(self._source)) is not None:
            try:
                shared.verify_is_one()
            except UsageError as error:
                findings.add(Kind.NAME, self.place, str(error))
            return [
                Root(self._source, entry, self.place + (f" ({entry.platform})" if entry.platform else ""))
                for entry in shared.entries
            ]
        try:
            received = self._source.fetch_manifest()
        except InvalidImageError as error:
            message = f"{error.message}; {error.hint}" if error.hint else error.message
            findings.add(kind_of(error, Kind.UNREADABLE), self.place, message)
            return []
        media_type = without_parameters(received.media_type or "")
        known_type = "" if media_type in _GENERAL_TYPES else media_type
        descriptor = Descriptor(known_type, received.digest, len(received.raw))
        return [Root(self._source, descriptor, self.place, received.raw)]

    def list_blobs(self, findings: Findings) -> Iterable[Digest]:
        """Return nothing: other blobs belong to other images."""
        return ()

    def open_blob(self, digest: Digest) -> BlobOpener:
        """Return the source."""
        return self._source

    def close(self) -> None:
        """Close the source, unless the caller does."""
        if self._is_owned:
            self._source.close()
