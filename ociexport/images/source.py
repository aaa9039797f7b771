"""ImageSource: the small interface of everything that images are read from.

A registry, a layout and an archive are the same thing seen from three sides: something that gives a manifest's bytes
and opens a blob. So `pull` copies any source to any destination (`images/destination.py`), and `unpack` takes any
source.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ociexport.errors import OciexportError
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest

_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReceivedManifest:
    """A manifest or index as it came: unparsed bytes, what they were said to be, and their digest."""

    raw: bytes
    media_type: str | None
    digest: Digest


def embedded_document(descriptor: Descriptor | None) -> ReceivedManifest | None:
    """Return the manifest or index that ``descriptor`` holds in its ``data``; None if it holds none.

    Only `ImageSource.fetch_manifest` of a source that wraps no other calls this. A source around another one, such as
    the one that checks signatures, would not see a document that is read from ``data`` anywhere else.

    Spec: image-spec 1.1 descriptor.md, "data"; it was compared with digest and size when the descriptor was parsed.
    """
    if descriptor is None or descriptor.data is None:
        return None
    return ReceivedManifest(descriptor.data, descriptor.media_type or None, descriptor.digest)


@dataclass(frozen=True, slots=True)
class ImageName:
    """What an image is called in a layout or archive.

    Args:
        tag: short name, ``org.opencontainers.image.ref.name``; None for an image known by its digest only.
        full: normalised reference, ``io.containerd.image.name``; None where only a tag is known.
    """

    tag: str | None
    full: str | None


class BlobOpener(Protocol):
    """Opens blobs. Its methods may be called from several threads."""

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes as stored, from ``offset`` on; the caller verifies and closes them.

        Raises:
            NotFoundError, RegistryError: at once or in ``read``.
        """


class ImageSource(BlobOpener, Protocol):
    """One image, somewhere: gives its documents and opens its blobs. Its methods may be called from several threads."""

    @property
    def display_name(self) -> str:
        """How messages call the image."""

    @property
    def image_name(self) -> ImageName:
        """What a copy of the image is to be called."""

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the manifest or index that ``descriptor`` names; without one, what the source itself names.

        The bytes are verified against the descriptor, or the digest in the source's own name, before they are returned.
        All manifests and indexes are read this way, so that a source around another one sees each of them.

        Raises:
            NotFoundError, RegistryError, DigestMismatchError, SizeMismatchError, LimitExceededError.
        """

    def close(self) -> None:
        """Let go of connections and files."""


@runtime_checkable
class _Wrapping(Protocol):
    @property
    def wrapped(self) -> BlobOpener: ...


def innermost(source: BlobOpener) -> BlobOpener:
    """Return what ``source`` stands before, or itself."""
    while isinstance(source, _Wrapping):
        source = source.wrapped
    return source


@runtime_checkable
class _Remote(Protocol):
    def tell_wrong_bytes(self, error: OciexportError) -> None: ...


def is_worth_another_try(source: BlobOpener, error: OciexportError) -> bool:
    """Whether wrong bytes, which ``error`` tells of, may have been altered on their way here; if so, it is told."""
    source = innermost(source)
    if not isinstance(source, _Remote):
        return False
    source.tell_wrong_bytes(error)
    return True


@runtime_checkable
class _Served(Protocol):
    @property
    def served_by(self) -> Mapping[Digest, str]: ...


def servers_of(source: ImageSource) -> Mapping[Digest, str]:
    """Return which host gave which manifest or blob so far; empty for a source on this machine."""
    return source.served_by if isinstance(source, _Served) else {}


@runtime_checkable
class _Asked(Protocol):
    @property
    def credentials(self) -> str | None: ...


def credentials_of(source: ImageSource) -> str | None:
    """Return whom the image was asked for as, and where that was found; None where nobody wanted to know it so far."""
    return source.credentials if isinstance(source, _Asked) else None


@runtime_checkable
class ConvertedSource(ImageSource, Protocol):
    """An `ImageSource` that gives an image out as another one than it is published as."""

    @property
    def published(self) -> ImageSource:
        """The image as it is published; closed with this source."""

    def around(self, source: ImageSource) -> ImageSource:
        """Return the same conversion of another source, in the place of this one."""


def published(source: ImageSource) -> ImageSource:
    """Return the source of what is published where ``source`` converts that; else ``source`` itself."""
    return source.published if isinstance(source, ConvertedSource) else source


@runtime_checkable
class _Sized(Protocol):
    def size_of_blob(self, digest: Digest) -> int: ...


def told_size_of_blob(source: ImageSource, digest: Digest) -> int | None:
    """Return how many bytes a blob has of which only the digest is known; None where only reading it would tell.

    Raises:
        NotFoundError, RegistryError: it is not to be had.
    """
    return source.size_of_blob(digest) if isinstance(source, _Sized) else None


def size_of_blob(source: ImageSource, digest: Digest) -> int:
    """Return how many bytes a blob has of which only the digest is known; it is read where nothing else tells.

    Raises:
        as `told_size_of_blob` does.
    """
    told = told_size_of_blob(source, digest)
    if told is not None:
        return told
    size = 0
    with closing(source.open_blob(Descriptor("", digest, 0))) as stream:
        while chunk := stream.read(_READ_BYTES):
            size += len(chunk)
    return size
