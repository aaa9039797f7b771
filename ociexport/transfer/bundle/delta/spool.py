"""Layers' tars in temporary files without names: a recipe is made from, and applied to, any place of a tar."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from io import FileIO

from ociexport.errors import DiffIdMismatchError, DigestMismatchError, locating
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, ByteStream, Digest, Verifier, VerifyingReader
from ociexport.system.compression import read_tar_chunks, verify_ratio
from ociexport.system.temporary_files import append_whole, open_temporary_file


def spool_tar(blob: ByteStream, diff_id: Digest, blob_bytes: int) -> FileIO:
    """Return a temporary file with the tar of a layer, which has its diff_id; the caller closes it.

    Args:
        blob: the layer as stored; closed.
        blob_bytes: its size, which limits that of the tar.

    Raises:
        InvalidImageError: it is damaged, or its tar has another diff_id.
        LimitExceededError: the tar is too large for the blob.
        TemporaryFileError: there is no room for it.
    """
    verifier = Verifier(diff_id, None, subject="")
    file = open_temporary_file()
    try:
        with closing(blob):
            for chunk in read_tar_chunks(blob):
                verifier.update(chunk)
                verify_ratio(verifier.seen_bytes, blob_bytes)
                append_whole(file, chunk)
        verify_diff_id(verifier)
    except BaseException:
        file.close()
        raise
    return file


def spool_blob(blob: ByteStream, descriptor: Descriptor, where: str) -> FileIO:
    """Return a temporary file with a blob, verified; the caller closes it.

    Raises:
        DigestMismatchError, SizeMismatchError: the bytes are wrong.
        TemporaryFileError: there is no room for it.
    """
    file = open_temporary_file()
    try:
        with (
            locating(where),
            VerifyingReader(blob, descriptor.digest, descriptor.size, subject="") as reader,
        ):
            while chunk := reader.read(CHUNK_BYTES):
                append_whole(file, chunk)
    except BaseException:
        file.close()
        raise
    return file


def verify_diff_id(verifier: Verifier) -> None:
    """Return if the bytes that ``verifier`` saw have their diff_id.

    Raises:
        DiffIdMismatchError: they have not.
    """
    try:
        verifier.verify()
    except DigestMismatchError as error:
        raise DiffIdMismatchError(error.message.replace("digest", "diff_id", 1)) from error


def chunks_of(fd: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield the bytes of a file from its beginning."""
    offset = 0
    while chunk := os.pread(fd, chunk_bytes, offset):
        offset += len(chunk)
        yield chunk


class FileSection:
    """A stream over some bytes of an open file, read by offsets; closing it leaves the file open."""

    def __init__(self, fd: int, offset: int, end: int) -> None:
        self._fd = fd
        self._offset = offset
        self._end = end

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; ``b""`` at the end."""
        left = self._end - self._offset
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._offset)
        self._offset += len(data)
        return data

    def close(self) -> None:
        """Leave the file open."""


class SpooledBlobs:
    """A `BlobOpener` over blobs that were written to one temporary file; closed with this."""

    def __init__(self) -> None:
        self._file = open_temporary_file()
        self._places: dict[Digest, tuple[int, int]] = {}

    def add(self, media_type: str, chunks: Iterable[bytes]) -> Descriptor:
        """Append a blob; return its descriptor.

        Raises:
            TemporaryFileError: there is no room.
        """
        begin = end = os.fstat(self._file.fileno()).st_size
        hasher = Digest.of(b"").new_hasher()
        for chunk in chunks:
            hasher.update(chunk)
            append_whole(self._file, chunk)
            end += len(chunk)
        digest = Digest("sha256", hasher.hexdigest())
        self._places[digest] = (begin, end)
        return Descriptor(media_type, digest, end - begin)

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        """Return the blob's bytes from ``offset`` on; see `BlobOpener`."""
        begin, end = self._places[descriptor.digest]
        return FileSection(self._file.fileno(), begin + offset, end)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
