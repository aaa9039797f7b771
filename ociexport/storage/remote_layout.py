"""RemoteLayout: an OCI image layout whose files are elsewhere, on a web server or in an object store.

A subclass fetches the files. What they mean is the same as in a directory, and blobs are verified by their reader.

Spec: image-spec 1.1 image-layout.md.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from ociexport.errors import NotFoundError, OciexportError
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.json_fields import parse_json_object
from ociexport.storage.alternatives import Alternatives
from ociexport.storage.index import MAX_INDEX_BYTES, ListedImage, ListedSource, choose_from_layout, list_images
from ociexport.storage.layout.blobs import blob_name
from ociexport.storage.layout.documents import (
    BUNDLE_FILE,
    EXPECTED_HINT,
    INDEX_FILE,
    LAYOUT_FILE,
    verify_layout_version,
)
from ociexport.system.progress.protocol import Progress

# The content of oci-layout is 30 bytes.
_MAX_LAYOUT_FILE_BYTES = 64 * 1024


class RemoteLayout(ABC):
    """A layout elsewhere. Several threads may call its methods.

    Args:
        url: of the directory, as users type it, without a slash at the end.
        progress: gets warnings.
    """

    def __init__(self, url: str, progress: Progress) -> None:
        self.url = url
        self._progress = progress
        self._servers: dict[Digest, str] = {}
        self._lock = threading.Lock()
        self._images: list[ListedImage] | None = None

    def __str__(self) -> str:
        return self.url

    @property
    @abstractmethod
    def host(self) -> str:
        """What serves the files, for messages and results."""

    @property
    def credentials(self) -> str | None:
        """The identity used, without secrets; None if none was asked for."""
        return None

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """The host of each manifest or blob that was opened."""
        with self._lock:
            return dict(self._servers)

    @abstractmethod
    def read_document(self, name: str, max_bytes: int) -> bytes:
        """Return a file of the layout, ``index.json`` for example.

        Raises:
            NotFoundError: it does not exist.
            RegistryError, InvalidImageError: it can't be fetched, or is larger.
        """

    @abstractmethod
    def open_file(self, descriptor: Descriptor, name: str, offset: int) -> ByteStream:
        """Return the bytes of a blob's file from ``offset`` on. Raises NotFoundError and RegistryError."""

    @abstractmethod
    def size_of_file(self, name: str, subject: str) -> int:
        """Return the size of a file. Raises NotFoundError and RegistryError."""

    @abstractmethod
    def close(self) -> None:
        """Close connections."""

    @abstractmethod
    def explain(self, error: OciexportError, name: str | None) -> None:
        """Add to the hint of ``error`` what else the user may have meant by the URL and ``name``."""

    def read_images(self, name: str | None = None) -> list[ListedImage]:
        """Return the descriptors that ``index.json`` lists, each with its names; it is fetched once.

        Args:
            name: of the image that is wanted, for hints.

        Raises:
            NotFoundError: this is no layout.
            RegistryError: the files can't be fetched.
            InvalidImageError: ``oci-layout`` or ``index.json`` breaks the specification.
        """
        with self._lock:
            if self._images is None:
                try:
                    self._images = self._read_images()
                except OciexportError as error:
                    self.explain(error, name)
                    raise
            return self._images

    def _read_images(self) -> list[ListedImage]:
        raw = self.read_document(INDEX_FILE, MAX_INDEX_BYTES)
        images = list_images(parse_json_object(raw, where=f"{self.url}/{INDEX_FILE}"))
        raw = self.read_document(LAYOUT_FILE, _MAX_LAYOUT_FILE_BYTES)
        verify_layout_version(raw, f"{self.url}/{LAYOUT_FILE}")
        return images

    def open_image(self, name: str | None = None, *, owns_layout: bool = False) -> RemoteImage:
        """Return one image of the layout; see `ImageLayout.open_image`.

        Args:
            owns_layout: whether the layout is closed with the image.
        """
        images = self.read_images(name)
        found = choose_from_layout(self.url, self, images, name, typed=self.url)
        if isinstance(found, Digest):
            found = Descriptor("", found, self.size_of_blob(found))
        return RemoteImage(self, found, images, owns_layout=owns_layout)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes from ``offset`` on; the caller verifies and closes them."""
        digest = descriptor.digest
        try:
            stream = self.open_file(descriptor, blob_name(digest), offset)
        except NotFoundError as error:
            if descriptor.urls:
                raise
            hint = EXPECTED_HINT if self._is_bundle() else "the layout is not complete: copy all its blobs there again"
            raise NotFoundError(f"{self.url}: blob {digest}: not in the layout", hint=hint) from error
        with self._lock:
            self._servers[digest] = self.host
        return stream

    def size_of_blob(self, digest: Digest) -> int:
        """Return the size in bytes of a blob of which only the digest is known."""
        return self.size_of_file(blob_name(digest), f"blob {digest}")

    def tell_wrong_bytes(self, error: OciexportError) -> None:
        """Warn that the bytes were wrong and are fetched again; a proxy may have altered them."""
        self._progress.warn(f"{error}; fetching it once more, from the beginning")

    def _is_bundle(self) -> bool:
        try:
            return self.size_of_file(BUNDLE_FILE, BUNDLE_FILE) > 0
        except OciexportError:
            return False


class RemoteImage(ListedSource):
    """One image of a layout elsewhere; an `ImageSource`."""

    def __init__(
        self,
        layout: RemoteLayout,
        image: Descriptor | Alternatives,
        images: Sequence[ListedImage],
        *,
        owns_layout: bool = False,
    ) -> None:
        super().__init__(layout.url, layout, image, images)
        self._layout = layout
        self._owns_layout = owns_layout

    @property
    def served_by(self) -> Mapping[Digest, str]:
        """The host of each manifest or blob that was opened."""
        return self._layout.served_by

    @property
    def credentials(self) -> str | None:
        """The identity used, without secrets; None if none was asked for."""
        return self._layout.credentials

    def size_of_blob(self, digest: Digest) -> int:
        """Return the size in bytes of a blob of which only the digest is known."""
        return self._layout.size_of_blob(digest)

    def tell_wrong_bytes(self, error: OciexportError) -> None:
        """Warn that the bytes were wrong and are fetched again."""
        self._layout.tell_wrong_bytes(error)

    def close(self) -> None:
        """Close the layout's connections, unless it has other images."""
        if self._owns_layout:
            self._layout.close()
