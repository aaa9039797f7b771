"""Reading from a bundle: an error of its medium is an error of the bundle, not of the disk that is written to."""

from __future__ import annotations

from collections.abc import Callable

from ociexport.errors import InvalidImageError
from ociexport.images.source import BlobOpener
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream
from ociexport.spec.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Readable:
    """Opens the blobs of a bundle; a medium that can't be read there does not end the merge."""

    source: BlobOpener
    bundle: str

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return a stream whose errors are `InvalidImageError`."""
        return open_readable(lambda: self.source.open_blob(descriptor, offset), self.bundle)


def open_readable(open_stream: Callable[[], ByteStream], bundle: str) -> ByteStream:
    """Return a stream from a bundle.

    Raises:
        InvalidImageError: also from ``read``: it can't be read.
    """
    try:
        return _ReadableStream(open_stream(), bundle)
    except OSError as error:
        raise _unreadable(error, bundle) from error


def _unreadable(error: OSError, bundle: str) -> InvalidImageError:
    return InvalidImageError(f"can't be read: {error.strerror or error}", where=bundle)


class _ReadableStream:
    def __init__(self, stream: ByteStream, bundle: str) -> None:
        self._stream = stream
        self._bundle = bundle

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise _unreadable(error, self._bundle) from error

    def close(self) -> None:
        self._stream.close()
