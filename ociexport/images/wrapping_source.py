"""WrappingSource: the base of sources around another source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ociexport.images.held_documents import FarSource, ListingStore, Turn, use_held_documents
from ociexport.images.source import ImageName, ImageSource, ReceivedManifest, credentials_of, servers_of
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest


class WrappingSource:
    """An `ImageSource` that passes everything on to another; subclasses change some of it.

    Attributes:
        wrapped: the other source; closed with this one.
    """

    def __init__(self, wrapped: ImageSource) -> None:
        self.wrapped = wrapped

    @property
    def display_name(self) -> str:
        """The image's name in messages."""
        return self.wrapped.display_name

    @property
    def image_name(self) -> ImageName:
        """The name for a copy of the image."""
        return self.wrapped.image_name

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """Which host served each manifest or blob; see `servers_of`."""
        return servers_of(self.wrapped)

    @property
    def credentials(self) -> str | None:
        """The identity used for the image; see `credentials_of`."""
        return credentials_of(self.wrapped)

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return a manifest or index; see `ImageSource`."""
        return self.wrapped.fetch_manifest(descriptor)

    def use_held(self, store: ListingStore) -> None:
        """Pass the store on to a source far away; see `FarSource`."""
        use_held_documents(self.wrapped, store)

    def open_ahead(self, descriptors: Sequence[Descriptor], turn: Turn | None = None) -> None:
        """Pass the blobs on to a source far away; see `FarSource`."""
        if isinstance(self.wrapped, FarSource):
            self.wrapped.open_ahead(descriptors, turn)
        elif turn is not None:
            turn.close()

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes; see `BlobOpener`."""
        return self.wrapped.open_blob(descriptor, offset)

    def close(self) -> None:
        """Close the wrapped source."""
        self.wrapped.close()


class RenamedSource(WrappingSource):
    """A source whose copy gets other names.

    Args:
        wrapped: the source; closed with this one.
        name: of the copy.
    """

    def __init__(self, wrapped: ImageSource, name: ImageName) -> None:
        super().__init__(wrapped)
        self._name = name

    @property
    def image_name(self) -> ImageName:
        """The names of the copy."""
        return self._name
