"""A layer on its way from its source to the tree: fetched, verified, inflated and hashed in threads ahead."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress

from ociexport.compression import read_tar_chunks
from ociexport.digest import ByteStream, VerifyingReader
from ociexport.documents import Layer
from ociexport.errors import DigestMismatchError, InvalidImageError, LimitExceededError, locating
from ociexport.progress import Progress, ProgressTask
from ociexport.readahead import HashAhead, ReadAhead
from ociexport.sources import ImageSource
from ociexport.tree.limits import Limits

# Chunks of 256 KiB: so much of a layer waits for the tree, and for its hash. The next layer's wait beside them.
_DEPTH = 24


class LayerStream:
    """The tar of one layer; opened, inflated and hashed from the moment that it is made.

    Args:
        source: gives the blob.
        layer: which one; its digest, size and diff_id are what is proven.
        progress: told of the compressed bytes.
        limits: the ratio of uncompressed to compressed bytes is watched.
    """

    def __init__(self, source: ImageSource, layer: Layer, progress: Progress, limits: Limits) -> None:
        self._layer = layer
        self._limits = limits
        self._reader = VerifyingReader(
            _open_layer_blob(source, layer), layer.descriptor.digest, layer.descriptor.size, subject="blob"
        )
        self._chunks = ReadAhead(self._read(progress), _DEPTH, f"layer {layer.number}")
        self._hash = HashAhead(layer.diff_id, _DEPTH)
        self.tar_bytes = 0

    def _read(self, progress: Progress) -> Generator[bytes]:
        title = f"unpacking layer {self._layer.number}/{self._layer.count} {self._layer.descriptor.digest.short}"
        with progress.task(title, self._layer.descriptor.size) as task:
            yield from read_tar_chunks(_CountedReader(self._reader, task))

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks of the tar, each hashed on its way.

        Raises:
            InvalidImageError: the blob is damaged, is not the one that its digest names, or is a bomb.
        """
        for chunk in self._chunks:
            self.tar_bytes += len(chunk)
            self._limits.verify_ratio(self.tar_bytes, self._layer.descriptor.size)
            self._hash.update(chunk)
            yield chunk

    def verify_diff_id(self) -> None:
        """Return if the tar, which was read to its end, is the one that the config names.

        Raises:
            DigestMismatchError: it is another.

        Spec: image-spec 1.1 config.md, "rootfs", "diff_ids".
        """
        diff_id = self._layer.diff_id
        got = self._hash.finish()
        if got != diff_id.encoded:
            raise DigestMismatchError(f"diff_id mismatch: expected {diff_id}, got {diff_id.algorithm}:{got}")

    def verify_blob_after(self, error: InvalidImageError) -> None:
        """Return if the blob is what its digest says although its content gave ``error``.

        Raises:
            DigestMismatchError, SizeMismatchError: it is not, which is the news, and ``error`` only what came of it.
        """
        if isinstance(error, LimitExceededError):
            return  # the rest of a bomb is not worth reading
        self._chunks.close()
        try:
            while self._reader.read(_REST_CHUNK_BYTES):
                pass
        except InvalidImageError as mismatch:
            raise mismatch from error

    def close(self) -> None:
        """Stop the threads and close the blob."""
        self._chunks.close()
        self._hash.finish()
        # The bytes that mattered were verified; nobody can act on a close that fails.
        with suppress(OSError):
            self._reader.close()


_REST_CHUNK_BYTES = 1024 * 1024


def _open_layer_blob(source: ImageSource, layer: Layer) -> ByteStream:
    with locating(str(layer)):
        return source.open_blob(layer.descriptor)


class _CountedReader:
    """A stream that tells of the bytes read from it."""

    def __init__(self, stream: ByteStream, task: ProgressTask) -> None:
        self._stream = stream
        self._task = task

    def read(self, size: int = -1, /) -> bytes:
        chunk = self._stream.read(size)
        self._task.advance(len(chunk))
        return chunk

    def close(self) -> None:
        self._stream.close()
