"""A layer on its way from its source to the tree: fetched, verified, inflated and hashed in threads ahead."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from ociexport.errors import DiffIdMismatchError, InvalidImageError, LimitExceededError
from ociexport.images.source import ImageSource
from ociexport.layers.limits import Limits
from ociexport.spec.config import Layer
from ociexport.spec.digest import VerifyingReader
from ociexport.system.compression import COMPRESSED_CHUNK_BYTES, read_tar_chunks
from ociexport.system.progress.protocol import Progress
from ociexport.system.read_ahead import HashAhead, ReadAhead

# Chunks that wait between two threads: compressed ones of 512 KiB, inflated ones of 1 MiB. The next layer's wait
# beside the current one's, so this is what bounds the memory. Where many small files follow large ones, inflating goes
# on ahead, and comes in useful at the next large ones: half as deep, unpacking took 4 % longer. The next layer needs
# no more than a start.
_BLOB_DEPTH = 4
_TAR_DEPTH = 12
_NEXT_TAR_DEPTH = 6
_HASH_DEPTH = 6
_JOIN_TIMEOUT_SECONDS = 0.5


class LayerStream:
    """The tar of one layer; opened, inflated and hashed from the moment that it is made.

    Args:
        source: gives the blob.
        layer: which one; its digest, size and diff_id are what is proven.
        progress: told of the compressed bytes.
        limits: the ratio of uncompressed to compressed bytes is watched.
        doing: what people are told that is done.
    """

    def __init__(
        self, source: ImageSource, layer: Layer, progress: Progress, limits: Limits, doing: str = "unpacking"
    ) -> None:
        self._layer = layer
        self._doing = doing
        self._limits = limits
        self._blob = ReadAhead(self._read_blob(source, progress), _BLOB_DEPTH, f"fetch layer {layer.number}")
        self._tar = ReadAhead(self._inflate(), _NEXT_TAR_DEPTH, f"inflate layer {layer.number}")
        self._hash = HashAhead(layer.diff_id, _HASH_DEPTH)
        self.tar_bytes = 0
        self._block_bytes = 0
        # What went wrong in the stream itself, and so is no fault of the entry that was being read.
        self.failure: InvalidImageError | None = None

    def _read_blob(self, source: ImageSource, progress: Progress) -> Generator[bytes]:
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
        yield from read_tar_chunks(_ChunkStream(self._blob))

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks of the tar, each hashed on its way.

        Raises:
            InvalidImageError: the blob is damaged, is not the one that its digest names, or is a bomb.
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
        """Count what the layer takes on the disk beyond the bytes of its tar.

        Raises:
            LimitExceededError: it is a bomb.
        """
        self._block_bytes += block_bytes
        self._limits.verify_ratio(self.tar_bytes + self._block_bytes, self._layer.descriptor.size)

    def verify_diff_id(self) -> None:
        """Return if the tar, which was read to its end, is the one that the config names.

        Raises:
            DiffIdMismatchError: it is another.

        Spec: image-spec 1.1 config.md, "rootfs", "diff_ids".
        """
        diff_id = self._layer.diff_id
        got = self._hash.finish()
        if got != diff_id.encoded:
            raise DiffIdMismatchError(f"diff_id mismatch: expected {diff_id}, got {diff_id.algorithm}:{got}")

    def verify_blob_after(self, error: InvalidImageError) -> None:
        """Return if the blob is what its digest says although its content gave ``error``.

        Raises:
            DigestMismatchError, SizeMismatchError: it is not, which is the news, and ``error`` only what came of it.
        """
        if isinstance(error, LimitExceededError):
            return  # the rest of a bomb is not worth reading
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
    """Chunks as a stream: whatever size is asked for, the next chunk comes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1, /) -> bytes:
        return next(self._chunks, b"")

    def close(self) -> None:
        """Nothing: the chunks belong to who made them."""
