"""A cache of blobs that several layouts share: each blob is fetched once, and stored once if the file system allows it.

The directory contains ``blobs/<algorithm>/<encoded>``, as a layout does. A blob is hashed each time it is used.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ociexport.errors import DiffIdMismatchError, InvalidImageError, LimitExceededError
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, BlobCheck, Digest, Verifier
from ociexport.storage.layout.blobs import BLOBS_DIRECTORY, blob_name
from ociexport.storage.layout_directory import LayoutDirectory


class BlobCache:
    """The cache in one directory, which is made when the first blob is stored.

    Args:
        path: of the directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._directory = LayoutDirectory(self.path)

    def verify_is_usable(self) -> None:
        """Return if no directory within the cache is a link, since links are not followed.

        Raises:
            UsageError: a directory is a link.
        """
        self._directory.verify_directories(BLOBS_DIRECTORY)

    def blob_path(self, digest: Digest) -> str:
        """Return the path of a blob, which need not exist."""
        return self._directory.path_of(blob_name(digest))

    def seems_to_have(self, digest: Digest) -> bool:
        """Whether the blob is there; nothing is read."""
        return self._directory.has(blob_name(digest))

    def give(self, descriptor: Descriptor, target: LayoutDirectory, check: BlobCheck | None = None) -> bool:
        """Put the blob into an existing layout; returns False if the cache lacks it or has it damaged.

        The file is a hard link, or shares its blocks, if the file system can do either; otherwise it is a copy.

        Raises:
            as `has` does.
        """
        if not self.has(descriptor, check):
            return False
        target.make_directory(os.path.dirname(blob_name(descriptor.digest)))
        target.share_file(self._directory, blob_name(descriptor.digest))
        return True

    def has(self, descriptor: Descriptor, check: BlobCheck | None = None) -> bool:
        """Whether the cache has the blob and its bytes are valid: they are read and verified.

        Raises:
            DiffIdMismatchError, LimitExceededError: the blob is valid, and does not pass ``check``.
        """
        try:
            with self._directory.open_file(blob_name(descriptor.digest)) as file:
                verifier = Verifier(descriptor.digest, descriptor.size, subject="", check=check)
                while chunk := file.read(CHUNK_BYTES):
                    verifier.update(chunk)
            verifier.verify()
        except (DiffIdMismatchError, LimitExceededError):
            raise
        except (InvalidImageError, OSError):
            return False
        return True

    def take(self, digest: Digest, source: LayoutDirectory) -> None:
        """Store a verified blob of a layout for other layouts; an error of writing to the cache is ignored."""
        name = blob_name(digest)
        with suppress(InvalidImageError, OSError):
            self._directory.make_directory(os.path.dirname(name))
            self._directory.share_file(source, name)
