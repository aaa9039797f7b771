"""The tar of a layer, fetched, verified, inflated and hashed ahead by threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from ociexport.errors import DiffIdMismatchError, InvalidImageError, LimitExceededError
from ociexport.images.source import BlobOpener
from ociexport.layers.limits import Limits
from ociexport.spec.config import Layer
from ociexport.spec.digest import VerifyingReader
from ociexport.system.compression import COMPRESSED_CHUNK_BYTES, read_layer
from ociexport.system.memory import MEMORY_OPTION
from ociexport.system.progress.protocol import Progress
from ociexport.system.read_ahead import HashAhead, ReadAhead

if TYPE_CHECKING:
    from ociexport.system.access_points import AccessPoints

# How many chunks wait between two threads: compressed chunks of 512 KiB, inflated ones of 1 MiB. The next layer's
# chunks wait beside the current layer's, so these numbers bound the memory. While many small files are written,
# inflating runs ahead, which saves time at the next large file: with half the depth, unpacking took 4 % longer. The
# next layer only needs a start.
_BLOB_DEPTH = 4
_TAR_DEPTH = 12
_NEXT_TAR_DEPTH = 6
_HASH_DEPTH = 6
_JOIN_TIMEOUT_SECONDS = 0.5


class LayerStream:
    """The tar of one layer; threads begin to fetch and inflate it when the object is made.

    Args:
        source: opens the blob.
        layer: the layer; its digest, size and diff_id are verified.
        progress: receives the numbers of compressed bytes.
        limits: gives the limit for the ratio of uncompressed to compressed bytes.
        doing: the word for the task in progress messages.
        points: receives the beginnings of the streams in the blob, as far as the tar is inflated.
    """

    def __init__(
        self,
        source: BlobOpener,
        layer: Layer,
        progress: Progress,
        limits: Limits,
        doing: str = "reading",
        *,
        points: AccessPoints | None = None,
    ) -> None:
        self._layer = layer
        self._doing = doing
        self._limits = limits
        self.points = points
        self._blob = ReadAhead(self._read_blob(source, progress), _BLOB_DEPTH, f"fetch layer {layer.number}")
        self._tar = ReadAhead(self._inflate(), _NEXT_TAR_DEPTH, f"inflate layer {layer.number}")
        self._hash = HashAhead(layer.diff_id, _HASH_DEPTH)
        self.tar_bytes = 0
        self._block_bytes = 0
        # An error of the stream itself, not of the entry being read.
        self.failure: InvalidImageError | None = None

    def _read_blob(self, source: BlobOpener, progress: Progress) -> Generator[bytes]:
        descriptor = self._layer.descriptor
        title = f"{self._doing} layer {self._layer.number}/{self._layer.count} {descriptor.digest.short}"
        with (
            VerifyingReader(source.open_blob(descriptor), descriptor.digest, descriptor.size, subject="blob") as reader,
            progress.task(title, descriptor.size, digest=descriptor.digest) as task,
        ):
            while chunk := reader.read(COMPRESSED_CHUNK_BYTES):
                task.advance(len(chunk))
                yield chunk

    def _inflate(self) -> Generator[bytes]:
        yield from read_layer(
            _ChunkStream(self._blob),
            media_type=self._layer.descriptor.media_type,
            max_window_bytes=self._limits.max_window_bytes,
            option=MEMORY_OPTION,
            points=self.points,
        )

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks of the tar, each passed to the hashing thread.

        Raises:
            InvalidImageError: the blob is damaged or no tar, does not have its digest, or is a decompression bomb.
        """
        self._tar.deepen(_TAR_DEPTH - _NEXT_TAR_DEPTH)
        try:
            yield from self._hashed_chunks()
        except InvalidImageError as error:
            self.failure = error
            raise

    def _hashed_chunks(self) -> Iterator[bytes]:
        for chunk in self._tar:
            self.tar_bytes += len(chunk)
            self._limits.verify_ratio(self.tar_bytes, self._layer.descriptor.size)
            self._hash.update(chunk)
            yield chunk

    def count_blocks(self, block_bytes: int) -> None:
        """Count bytes that the layer takes on disk beyond the bytes of its tar.

        Raises:
            LimitExceededError: the ratio is that of a decompression bomb.
        """
        self._block_bytes += block_bytes
        self._limits.verify_ratio(self.tar_bytes + self._block_bytes, self._layer.descriptor.size)

    def verify_diff_id(self) -> None:
        """Return if the tar, already read to its end, has the layer's diff_id.

        Raises:
            DiffIdMismatchError: it has another.

        Spec: image-spec 1.1 config.md, "rootfs", "diff_ids".
        """
        diff_id = self._layer.diff_id
        got = self._hash.finish()
        if got != diff_id.encoded:
            raise DiffIdMismatchError(f"diff_id mismatch: expected {diff_id}, got {diff_id.algorithm}:{got}")

    def verify_blob_after(self, error: InvalidImageError) -> None:
        """Return if the blob has its size and digest, although its content caused ``error``.

        Raises:
            DigestMismatchError, SizeMismatchError: it does not; this is the cause of ``error``.
        """
        if isinstance(error, LimitExceededError):
            return  # reading the rest of a bomb takes too long
        self._tar.stop()
        self._tar.join()
        try:
            for _ in self._blob:
                pass
        except InvalidImageError as mismatch:
            if mismatch is not error:
                raise mismatch from error

    def close(self) -> None:
        """Stop the threads; the one that reads the blob closes it."""
        self._tar.stop()
        self._blob.stop()
        self._hash.finish()
        self._tar.join()
        self._blob.join(_JOIN_TIMEOUT_SECONDS)


class _ChunkStream:
    """Chunks as a stream; `read` returns the next chunk, whatever the requested size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1, /) -> bytes:
        return next(self._chunks, b"")

    def close(self) -> None:
        """Do nothing; the owner of the chunks closes them."""
