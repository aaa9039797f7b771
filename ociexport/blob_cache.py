"""A cache of blobs that several layouts share: each blob is fetched once, and lies on the disk once where that can be.

The directory holds ``blobs/<algorithm>/<encoded>`` as a layout does. What is in it is hashed each time it is used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress

from ociexport.digest import Digest, Verifier
from ociexport.documents import Descriptor
from ociexport.errors import InvalidImageError
from ociexport.newfile import NO_LINK, link_file, new_file

_READ_BYTES = 1024 * 1024
# Linux's ioctl for a copy that shares its blocks (ioctl_ficlone(2)); the same number on every processor we know.
_FICLONE = 0x40049409


class BlobCache:
    """The cache in one directory, which is made when the first blob comes in.

    Args:
        path: of the directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def blob_path(self, digest: Digest) -> str:
        """Return where the blob is, if it is there."""
        return os.path.join(self.path, "blobs", digest.algorithm, digest.encoded)

    def give(self, descriptor: Descriptor, target: str) -> bool:
        """Put the blob at ``target``, whose directory is there; returns False where the cache has it not, or damaged.

        It is a hard link or shares its blocks where the file system can, and else is a copy.
        """
        path = self.blob_path(descriptor.digest)
        if not _is_valid(path, descriptor):
            return False
        _share(path, target)
        return True

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here, and valid: its bytes are read."""
        return _is_valid(self.blob_path(descriptor.digest), descriptor)

    def take(self, digest: Digest, path: str) -> None:
        """Keep the verified blob at ``path`` for others; nothing is said where the cache can't be written."""
        target = self.blob_path(digest)
        with suppress(OSError):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _share(path, target)


def _is_valid(path: str, descriptor: Descriptor) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    verifier = Verifier(descriptor.digest, descriptor.size, subject="")
    with open(fd, "rb", buffering=0) as file:
        try:
            while chunk := file.read(_READ_BYTES):
                verifier.update(chunk)
            verifier.verify()
        except (InvalidImageError, OSError):
            return False
    return True


def _share(path: str, target: str) -> None:
    """Make ``target`` the same file as ``path``, or one like it; it appears whole, in place of what is there."""
    try:
        link_file(path, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        with open(path, "rb") as source, new_file(target) as copy:
            try:
                fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
            except OSError:
                shutil.copyfileobj(source, copy, _READ_BYTES)
