"""ImageDestination: the interface of every place that images are copied to, and of its blob writers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from ociexport.images.source import BlobOpener, ImageName, ReceivedManifest
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import BlobCheck, ByteStream, Chunk, Digest
from ociexport.spec.reference import ImageReference
from ociexport.system.progress.protocol import ProgressTask


class BlobWriter(Protocol):
    """Takes one blob's bytes in order.

    Attributes:
        offset: how many bytes are written, those of an earlier try included; the position of the next byte.
        is_complete: whether another process has written the whole blob meanwhile; nothing is left to do then.
    """

    @property
    def offset(self) -> int: ...

    @property
    def is_complete(self) -> bool: ...

    def restart(self) -> None:
        """Discard all bytes written so far."""

    def write(self, chunk: Chunk, /) -> None:
        """Take the next bytes; raises SizeMismatchError as soon as there are too many."""


@runtime_checkable
class PlacingWriter(BlobWriter, Protocol):
    """A writer that also takes bytes out of order, so that the caller need not keep them in memory."""

    def place(self, chunk: Chunk, offset: int, /) -> None:
        """Write bytes at ``offset``, without hashing them yet.

        Several threads may call this. All calls must have returned before the writer is closed.

        Raises:
            OSError: they could not be written.
        """

    def take(self, count: int, /) -> None:
        """Hash the next ``count`` bytes, all of which were placed, and advance `offset`."""


@runtime_checkable
class PlacingStream(ByteStream, Protocol):
    """A stream that can write its bytes out of order, to a writer that takes them so."""

    def write_to(self, writer: PlacingWriter) -> Iterator[int]:
        """Write all remaining bytes; yields how many the writer took each time. Closed before the writer is.

        Raises:
            as ``read`` does, and what the writer raises.
        """


class BlobStore(Protocol):
    """A place that stores blobs; several threads may call its methods."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is stored and valid: its bytes are read and verified, since a file may be cut or damaged."""

    def new_blob(self, descriptor: Descriptor) -> AbstractContextManager[BlobWriter]:
        """Return a writer for a blob; at the end of the ``with`` block it is verified and gets its name, or is removed.

        Raises:
            DigestMismatchError, SizeMismatchError: the written bytes do not match ``descriptor``.
        """


@runtime_checkable
class CheckingStore(Protocol):
    """A `BlobStore` whose blobs can be checked further while their bytes are read or written anyway.

    A ``check`` is made by a `Verifier`: the bytes of an earlier try and those placed out of order reach it in order.
    """

    takes_checks: bool

    def has_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> bool:
        """Whether the blob is stored and valid, as `BlobStore.has_blob`; raises what ``check`` raises for it."""

    def new_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> AbstractContextManager[BlobWriter]:
        """Return a writer as `BlobStore.new_blob`; a blob that does not pass ``check`` gets no name."""


class DestinationUse(Protocol):
    """A destination while one image is copied into it."""

    def discard(self, digests: Iterable[Digest]) -> None:
        """Remove these blobs at the end, whole or partial, because their image is invalid.

        A blob that another process may be using stays.
        """


class ImageDestination(BlobStore, BlobOpener, Protocol):
    """A place that images are copied to, and whose blobs can be opened; several threads may call its methods."""

    def begin(self) -> AbstractContextManager[DestinationUse]:
        """Prepare the place for one image; at the end of the ``with`` block, unused preparations are removed.

        Raises:
            UsageError: the place holds something else, which was left unchanged.
        """

    def write_manifest(self, manifest: ReceivedManifest) -> None:
        """Store a manifest or index, byte for byte."""

    def write_name(self, descriptor: Descriptor, name: ImageName) -> None:
        """Give the complete image its name. Called last: a name must never lead to an incomplete image."""


class SendOutcome(Protocol):
    """How a blob came to a `SendingStore`.

    Attributes:
        mounted_from: the place that already had it; None if it was sent.
        sent_bytes: how many bytes of it were sent.
    """

    @property
    def mounted_from(self) -> str | None: ...

    @property
    def sent_bytes(self) -> int: ...


@runtime_checkable
class SendingStore(Protocol):
    """A place that reads a blob itself, since it may have to send a part of it again: a registry."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the place says that it has the blob."""

    def send_blob(
        self, descriptor: Descriptor, read: Callable[[int], Iterator[Chunk]], task: ProgressTask, /
    ) -> SendOutcome:
        """Bring a blob there.

        Args:
            read: returns the blob's chunks from an offset on.
            task: gets the bytes that were sent.

        Raises:
            DigestMismatchError, SizeMismatchError: the bytes read do not match ``descriptor``.
        """


@runtime_checkable
class SendingDestination(SendingStore, BlobOpener, Protocol):
    """A place that images are sent to; otherwise as `ImageDestination`."""

    def fetch_manifest(self, descriptor: Descriptor) -> ReceivedManifest:
        """Return a manifest or index that is there, verified; raises NotFoundError if it is not."""

    def write_manifest(self, manifest: ReceivedManifest) -> None: ...

    def write_name(self, descriptor: Descriptor, name: ImageName) -> None: ...

    def verify_tag(self, tag: str, digest: Digest) -> bool:
        """Return whether ``tag`` has ``digest``; raises UsageError if it has another and may not be moved."""

    def add_mounts(self, named: Iterable[ImageReference]) -> None:
        """Learn which images are named, whose places may have the same blobs."""

    def mount(self, descriptor: Descriptor) -> bool:
        """Take a blob from another part of the same place; returns whether it is there then."""
