"""The whole content of a layout, an archive or a ``dir:``, as far as it is there: thin ones lack blobs on purpose."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Protocol

from ociexport.errors import InvalidImageError, NotFoundError, UsageError, quoted
from ociexport.images.source import BlobOpener, ImageSource
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream
from ociexport.storage.archive.members import ArchiveMembers
from ociexport.storage.archive.reader import ArchiveBlobs, open_archive_images
from ociexport.storage.bundle import MAX_BUNDLE_BYTES, Bundle, parse_bundle
from ociexport.storage.directory import ImageDirectory
from ociexport.storage.index import ListedSource
from ociexport.storage.layout.blobs import blob_name
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.sources.names import RegistryName, has_transport, parse_source_name


class Contents(Protocol):
    """All images in one place.

    Attributes:
        place: its name in messages.
    """

    place: str

    def sources(self) -> Sequence[ImageSource]:
        """Return the images that it lists, one for each entry.

        Raises:
            NotFoundError, InvalidImageError: it is not a place of images.
        """

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there with its declared size; its bytes are not read."""

    @property
    def opener(self) -> BlobOpener:
        """Opens all its blobs, also those that no manifest names."""

    def read_bundle(self) -> Bundle | None:
        """Return its ``bundle.json``; None if it has none.

        Raises:
            InvalidImageError: it can't be read.
        """

    def open_file(self, name: str) -> ByteStream:
        """Return a file that is no blob, such as a range of one; the caller closes it.

        Raises:
            NotFoundError: it is not there.
        """

    def close(self) -> None:
        """Close files."""


class LayoutContents:
    """A layout in a directory."""

    def __init__(self, path: str) -> None:
        self.place = path
        self._layout = ImageLayout(path)

    def sources(self) -> list[ListedSource]:
        """Return its images; see `Contents`."""
        images = self._layout.read_images()
        return [ListedSource(self.place, self._layout, descriptor, images) for descriptor, _ in images]

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether the blob's file has the declared size."""
        with suppress(OSError, InvalidImageError):
            status = self._layout.directory.status(blob_name(descriptor.digest))
            return stat.S_ISREG(status.st_mode) and status.st_size == descriptor.size
        return False

    @property
    def opener(self) -> BlobOpener:
        """The layout."""
        return self._layout

    def read_bundle(self) -> Bundle | None:
        """Return its ``bundle.json``; see `Contents`."""
        return read_layout_bundle(self._layout)

    def open_file(self, name: str) -> ByteStream:
        """Return a file of the layout; see `Contents`."""
        try:
            return self._layout.directory.open_file(name)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"{self.place}: {quoted(name)}: not in the layout") from error

    def close(self) -> None:
        """Nothing stays open."""


class ArchiveContents:
    """An archive of any kind.

    Args:
        members: of the archive; closed with this.
    """

    def __init__(self, members: ArchiveMembers) -> None:
        self.place = members.place
        self._members = members
        self._sources: Sequence[ImageSource] | None = None

    def sources(self) -> Sequence[ImageSource]:
        """Return its images; see `Contents`."""
        if self._sources is None:
            self._sources = open_archive_images(self._members)
        return self._sources

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether the archive has the blob. An image in docker's own form has no file of that name, but is whole."""
        name = blob_name(descriptor.digest)
        if name in self._members:
            return self._members.size_of(name) == descriptor.size
        others = (source for source in self.sources() if not isinstance(source, ListedSource))
        return any(_opens(source, descriptor) for source in others)

    @property
    def opener(self) -> BlobOpener:
        """The opener of the archive's blobs."""
        return ArchiveBlobs(self._members)

    def read_bundle(self) -> Bundle | None:
        """Return its ``bundle.json``; see `Contents`."""
        if BUNDLE_FILE not in self._members:
            return None
        where = f"{self.place}: {BUNDLE_FILE}"
        return parse_bundle(self._members.read(BUNDLE_FILE, MAX_BUNDLE_BYTES), where=where)

    def open_file(self, name: str) -> ByteStream:
        """Return a file of the archive; see `Contents`."""
        return self._members.open_file(name)

    def close(self) -> None:
        """Close the archive."""
        self._members.close()


class SingleContents:
    """One image of any source, such as a ``dir:``; closed with this."""

    def __init__(self, source: ImageSource) -> None:
        self.place = source.display_name
        self._source = source

    def sources(self) -> list[ImageSource]:
        """Return the image."""
        return [self._source]

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether the source opens the blob."""
        return _opens(self._source, descriptor)

    @property
    def opener(self) -> BlobOpener:
        """The source."""
        return self._source

    def read_bundle(self) -> None:
        """Return None: it is no bundle."""

    def open_file(self, name: str) -> ByteStream:
        """Raise NotFoundError: it has blobs only."""
        raise NotFoundError(f"{self.place}: {quoted(name)}: not there")

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def open_contents(path: str) -> Contents:
    """Return what is at ``path``, told by its content; the caller closes it.

    Args:
        path: of a layout, an archive or a ``dir:``, with or without a transport such as ``oci:``; ``-`` is an archive
            on standard input.

    Raises:
        UsageError: it names an image in a registry, or one of several in a layout.
        NotFoundError: nothing is there.
        InvalidImageError: it is a file, but no tar.
    """
    if has_transport(path):
        name = parse_source_name(path)
        if isinstance(name, RegistryName) or name.image is not None:
            raise UsageError(f"{quoted(path)}: expected a whole layout or archive, got one image")
        path = name.path
    if path != "-" and not os.path.lexists(path):
        raise NotFoundError(f"{quoted(path)}: expected a layout or an archive, there is no such file or directory")
    if not os.path.isdir(path):
        return ArchiveContents(ArchiveMembers.open(path))
    layout = LayoutContents(path)
    if not ImageLayout(path).directory.has("oci-layout") and ImageLayout(path).directory.has("version"):
        return SingleContents(ImageDirectory(path))
    return layout


def read_layout_bundle(layout: ImageLayout) -> Bundle | None:
    """Return the ``bundle.json`` of a layout; None if it has none, or does not exist.

    Raises:
        InvalidImageError: it can't be read.
    """
    try:
        raw = layout.directory.read_file(BUNDLE_FILE, MAX_BUNDLE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_bundle(raw, where=layout.directory.path_of(BUNDLE_FILE))


def _opens(source: ImageSource, descriptor: Descriptor) -> bool:
    with suppress(NotFoundError), closing(source.open_blob(descriptor)):
        return True
    return False
