"""A blob on its way into a layout: written aside, verified, synced and renamed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from ociexport.errors import InvalidImageError
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Chunk, Digest
from ociexport.storage.layout.blobs import PartialFile
from ociexport.storage.layout_directory import LayoutDirectory

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


OWN_DIRECTORY = ".ociexport"
PARTIAL_DIRECTORY = f"{OWN_DIRECTORY}/partial"
BLOBS_DIRECTORY = "blobs"


def blob_name(digest: Digest) -> str:
    """Return the name that a blob has in a layout or a cache; image-layout.md, "Blobs"."""
    return f"{BLOBS_DIRECTORY}/{digest.algorithm}/{digest.encoded}"


def partial_name(digest: Digest) -> str:
    """Return the name that a blob has while it is written."""
    return f"{PARTIAL_DIRECTORY}/{digest.algorithm}-{digest.encoded}"


class BlobPlaces(Protocol):
    """What is asked of a layout; see `ImageLayout`."""

    @property
    def directory(self) -> LayoutDirectory: ...
    def has_blob(self, descriptor: Descriptor) -> bool: ...
    def size_of_valid_blob(self, digest: Digest) -> int | None: ...
    def keep_in_cache(self, digest: Digest) -> None: ...


class LayoutBlobWriter:
    """Writes one blob of a layout aside; a context manager.

    Attributes:
        offset: how many bytes of the blob are there already, verified to be a beginning that can go on.
        is_complete: whether the whole blob is there, since another process wrote it meanwhile.
    """

    def __init__(self, layout: BlobPlaces, digest: Digest, size: int | None) -> None:
        self._layout = layout
        self._digest = digest
        self._size = size
        self._directory = layout.directory
        self._name = partial_name(digest)
        self.is_complete = False

    def __enter__(self) -> Self:
        self._fd = self._directory.open_locked(self._name, is_written=True)
        try:
            self.is_complete = self._is_there()
            # What an earlier try left is hashed, since a file is not to be trusted for its length.
            self._file = PartialFile(self._fd, self._directory.path_of(self._name), self._digest, self._size)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def _is_there(self) -> bool:
        if self._size is None:
            return self._layout.size_of_valid_blob(self._digest) is not None
        return self._layout.has_blob(Descriptor("", self._digest, self._size))

    @property
    def offset(self) -> int:
        """How many bytes are written."""
        return self._file.offset

    def restart(self) -> None:
        """Forget what is written."""
        self._file.restart()

    def write(self, chunk: Chunk, /) -> None:
        """Take the next bytes.

        Raises:
            SizeMismatchError: there are more than the descriptor says.
        """
        self._file.write(chunk)

    def place(self, chunk: Chunk, offset: int, /) -> None:
        """Write bytes ahead of their turn; see `PlacingWriter`."""
        self._file.place(chunk, offset)

    def take(self, count: int, /) -> None:
        """Take the next bytes, which were placed; see `PlacingWriter`."""
        self._file.take(count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.is_complete:
                self._directory.remove(self._name)
            elif error is None:
                self._finish()
            elif isinstance(error, InvalidImageError) or not self.offset:
                self._directory.remove(self._name)
        finally:
            os.close(self._fd)

    def _finish(self) -> None:
        try:
            self._file.verify()
        except InvalidImageError:
            self._directory.remove(self._name)
            raise
        os.fsync(self._fd)
        name = blob_name(self._digest)
        algorithm = os.path.dirname(name)
        if not self._directory.has(algorithm):
            self._directory.make_directory(algorithm)
            self._directory.sync(os.path.dirname(algorithm))
        self._directory.rename(self._name, name)
        self._directory.sync(algorithm)
        self._layout.keep_in_cache(self._digest)
