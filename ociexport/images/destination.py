"""Where an image goes: what a destination and its blob writers can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from ociexport.images.source import BlobOpener, ImageName, ReceivedManifest
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Chunk, Digest


class BlobWriter(Protocol):
    """Takes one blob's bytes in order.

    Attributes:
        offset: how many bytes an earlier try left, verified; the next byte that is wanted.
        is_complete: whether somebody else wrote the whole blob meanwhile, so that there is nothing to do.
    """

    @property
    def offset(self) -> int: ...

    @property
    def is_complete(self) -> bool: ...

    def restart(self) -> None:
        """Forget what is written."""

    def write(self, chunk: Chunk, /) -> None:
        """Take the next bytes; raises SizeMismatchError as soon as there are too many."""


@runtime_checkable
class PlacingWriter(BlobWriter, Protocol):
    """A writer that takes bytes ahead of their turn too, so that nobody has to keep them until then."""

    def place(self, chunk: Chunk, offset: int, /) -> None:
        """Write bytes where they belong; they are not hashed yet. Called from several threads, of which none may be in
        it when the writer is closed.

        Raises:
            OSError: they could not be written.
        """

    def take(self, count: int, /) -> None:
        """Take the next ``count`` bytes, all of which were placed."""


@runtime_checkable
class PlacingStream(ByteStream, Protocol):
    """A stream whose bytes arrive out of order, where the writer takes them so."""

    def write_to(self, writer: PlacingWriter) -> Iterator[int]:
        """Write all that is left; yields how many bytes were taken each time. Closed before the writer is.

        Raises:
            as ``read`` does, and what the writer raises.
        """


class BlobStore(Protocol):
    """A place that blobs are written to; its methods are called from several threads."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there and valid: its bytes are read and verified, for a file may be cut or damaged."""

    def new_blob(self, descriptor: Descriptor) -> AbstractContextManager[BlobWriter]:
        """Return a writer for a blob; at the end of the ``with`` block it is verified and takes its name, or is gone.

        Raises:
            DigestMismatchError, SizeMismatchError: what was written is not what ``descriptor`` says.
        """


class DestinationUse(Protocol):
    """One image's way into a destination."""

    def discard(self, digests: Iterable[Digest]) -> None:
        """Remove these blobs at the end, whole or partial: the image that they were written for is not as it should be.

        They stay where others may be using them.
        """


class ImageDestination(BlobStore, BlobOpener, Protocol):
    """A place that images are copied to, which opens the blobs that it has; called from several threads."""

    def begin(self) -> AbstractContextManager[DestinationUse]:
        """Prepare to take one image, for as long as the ``with`` block; what was prepared in vain is gone afterwards.

        Raises:
            UsageError: something else is in the place; it was not touched.
        """

    def write_manifest(self, manifest: ReceivedManifest) -> None:
        """Store a manifest or index, byte for byte."""

    def write_name(self, descriptor: Descriptor, name: ImageName) -> None:
        """Give the complete image a name; the last act, since a name appears only when what it names is complete."""
