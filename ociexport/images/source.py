"""ImageSource: the interface of everything that images are read from.

A registry, a layout and an archive all return a manifest's bytes and open a blob, and need no other method. So `pull`
copies any source to any destination (`images/destination.py`), and `unpack` takes any source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Protocol, runtime_checkable

from ociexport.errors import OciexportError
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import CHUNK_BYTES, ByteStream, Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.named_tuple import NamedTuple


class FirstRequest(NamedTuple):
    """What is known of the first request for an image before it is sent.

    Args:
        asks: whether it is for the manifest that the image's reference names.
        held: the digest in its condition: the manifest is sent only if it is another one; None for no condition.
        fetches: whether config and layers are requested next, or sent.
        pings: whether it asks where the registry's API is, before anything is sent there.
    """

    asks: bool = True
    held: Digest | None = None
    fetches: bool = False
    pings: bool = False


ASKS = FirstRequest()
ASKS_AND_FETCHES = FirstRequest(fetches=True)
UNKNOWN = FirstRequest(asks=False)
PINGS_AND_SENDS = FirstRequest(asks=False, fetches=True, pings=True)


@dataclass(frozen=True, slots=True)
class ReceivedManifest:
    """A manifest or index as received: unparsed bytes, their declared media type, and their digest."""

    raw: bytes
    media_type: str | None
    digest: Digest


def embedded_document(descriptor: Descriptor | None) -> ReceivedManifest | None:
    """Return the manifest or index that ``descriptor`` holds in its ``data``; None if it holds none.

    Only `ImageSource.fetch_manifest` of a source that wraps no other calls this. A wrapping source, such as the
    one that checks signatures, would not see a document that is read from ``data`` elsewhere.

    Does not verify: parsing the descriptor compared ``data`` with its digest and size.

    Spec: image-spec 1.1 descriptor.md, "data".
    """
    if descriptor is None or descriptor.data is None:
        return None
    return ReceivedManifest(descriptor.data, descriptor.media_type or None, descriptor.digest)


@dataclass(frozen=True, slots=True)
class ImageName:
    """The name of an image in a layout or archive.

    Args:
        tag: short name, ``org.opencontainers.image.ref.name``; None if only the digest is known.
        full: normalised reference, ``io.containerd.image.name``; None if only a tag is known.
    """

    tag: str | None
    full: str | None


class BlobOpener(Protocol):
    """Opens blobs. Several threads may call its methods."""

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes as stored, from ``offset`` on; the caller verifies and closes them.

        Raises:
            NotFoundError, RegistryError: from this call or from ``read``.
        """


class ImageSource(BlobOpener, Protocol):
    """One image: returns its documents and opens its blobs. Several threads may call its methods."""

    @property
    def display_name(self) -> str:
        """The image's name in messages."""

    @property
    def image_name(self) -> ImageName:
        """The name for a copy of the image."""

    def fetch_manifest(self, descriptor: Descriptor | None = None) -> ReceivedManifest:
        """Return the manifest or index that ``descriptor`` names; without one, the source's own.

        The bytes are verified against the descriptor, or the digest in the source's own name, before they are returned.
        All manifests and indexes are read this way, so a wrapping source sees each of them.

        Raises:
            NotFoundError, RegistryError, DigestMismatchError, SizeMismatchError, LimitExceededError.
        """

    def close(self) -> None:
        """Close connections and files."""


@runtime_checkable
class _Wrapping(Protocol):
    @property
    def wrapped(self) -> BlobOpener: ...


def innermost(source: BlobOpener) -> BlobOpener:
    """Return the source that ``source`` wraps, through all layers; itself if it wraps none."""
    while isinstance(source, _Wrapping):
        source = source.wrapped
    return source


@runtime_checkable
class _Remote(Protocol):
    def tell_wrong_bytes(self, error: OciexportError) -> None: ...


def is_worth_another_try(source: BlobOpener, error: OciexportError) -> bool:
    """Whether wrong bytes may come out right on another try, because they came over a network.

    If so, the source warns of ``error`` and of the second try.
    """
    source = innermost(source)
    if not isinstance(source, _Remote):
        return False
    source.tell_wrong_bytes(error)
    return True


@runtime_checkable
class _Served(Protocol):
    @property
    def served_by(self) -> Mapping[Digest, str]: ...


def is_remote(source: BlobOpener) -> bool:
    """Whether the blobs come over a network, or came: from a registry."""
    return isinstance(innermost(source), _Served)


def servers_of(source: BlobOpener) -> Mapping[Digest, str]:
    """Return which host served each manifest or blob so far; empty for a source on this machine."""
    return source.served_by if isinstance(source, _Served) else {}


@runtime_checkable
class _Asked(Protocol):
    @property
    def credentials(self) -> str | None: ...


def credentials_of(source: ImageSource) -> str | None:
    """Return the identity used for the image and where it was found; None if no server has requested one so far."""
    return source.credentials if isinstance(source, _Asked) else None


@runtime_checkable
class ConvertedSource(ImageSource, Protocol):
    """An `ImageSource` that converts the published image to another one."""

    @property
    def published(self) -> ImageSource:
        """The image as it is published; closed with this source."""

    def around(self, source: ImageSource) -> ImageSource:
        """Return the same conversion around another source, to be used in place of this one."""


def published(source: ImageSource) -> ImageSource:
    """Return the source of the published image if ``source`` converts it; else ``source`` itself."""
    return source.published if isinstance(source, ConvertedSource) else source


class SharedName(Protocol):
    """Several images under one name, of which a platform selects one."""

    @property
    def entries(self) -> Sequence[Descriptor]:
        """The images, as the layout lists them."""

    @property
    def descriptor(self) -> Descriptor:
        """The index of them, which was made for the choice and which nobody published."""

    def verify_is_one(self, wanted: Platform | None = None) -> None:
        """Return if one image is the best for ``wanted``; without it, for each of their platforms.

        Raises:
            UsageError: several are, or none of them declares a platform.
        """


@runtime_checkable
class _Shared(Protocol):
    @property
    def alternatives(self) -> SharedName | None: ...


def shared_name(source: BlobOpener) -> SharedName | None:
    """Return the images that share the name of ``source``; None for a source of one image."""
    source = innermost(source)
    return source.alternatives if isinstance(source, _Shared) else None


def is_made(source: BlobOpener, digest: Digest) -> bool:
    """Whether ``digest`` is the one of an index that was made of the images that share the name of ``source``."""
    shared = shared_name(source)
    return shared is not None and shared.descriptor.digest == digest


@runtime_checkable
class _Sized(Protocol):
    def size_of_blob(self, digest: Digest) -> int: ...


def told_size_of_blob(source: ImageSource, digest: Digest) -> int | None:
    """Return the size of a blob of which only the digest is known; None if the blob would have to be read for it.

    Raises:
        NotFoundError, RegistryError: the blob is not available.
    """
    return source.size_of_blob(digest) if isinstance(source, _Sized) else None


def size_of_blob(source: ImageSource, digest: Digest) -> int:
    """Return the size of a blob of which only the digest is known; reads the whole blob if there is no other way.

    Raises:
        as `told_size_of_blob` does.
    """
    told = told_size_of_blob(source, digest)
    if told is not None:
        return told
    size = 0
    with closing(source.open_blob(Descriptor("", digest, 0))) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            size += len(chunk)
    return size
