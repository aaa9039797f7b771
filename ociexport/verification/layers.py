"""A layer looked into: inflated, hashed as a tar, its entries parsed; without the layers beneath, in any order.

What of a layer depends on those beneath, such as the targets of hard links, is in `ociexport.verification.chains`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from ociexport.errors import InvalidImageError, LimitExceededError
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import Limits
from ociexport.layers.losses import Losses
from ociexport.layers.record import LayerOutline, OutlineFile
from ociexport.spec.digest import ByteStream, Digest
from ociexport.system.compression import read_tar_chunks
from ociexport.system.read_ahead import HashAhead, ReadAhead
from ociexport.verification.findings import Kind, kind_of

# So many bad entries of a layer are told; a hostile one may have millions.
_MAX_PROBLEMS = 20
# Chunks of 1 MiB that wait between two threads.
_TAR_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a layer.

    Args:
        place: in the layer; empty for the layer itself.
    """

    kind: Kind
    place: str
    message: str


class Problems:
    """Collects what is wrong with a layer, up to a number; the rest is counted."""

    def __init__(self) -> None:
        self._told: list[Problem] = []
        self._more = 0

    def __iter__(self) -> Iterator[Problem]:
        yield from self._told
        if self._more:
            yield Problem(Kind.TAR, "", f"{self._more} more entries that can't be applied")

    def add(self, error: InvalidImageError) -> None:
        """Take note of an error."""
        if len(self._told) < _MAX_PROBLEMS:
            self._told.append(Problem(kind_of(error, Kind.TAR), error.where, error.message))
        else:
            self._more += 1


@dataclass(frozen=True, slots=True)
class ExaminedLayer:
    """What was found in a layer.

    Args:
        diff_ids: of the tar, by algorithm; empty where the tar could not be had to its end.
        tar_bytes: of the tar, as far as it could be had.
        block_bytes: that it takes on a disk beyond those of the tar.
        entries: that were parsed.
        metadata_bytes: of their attributes and long names.
        problems: what is wrong with it, whatever is beneath.
        outline: what it does; None where it could not be read to its end.
    """

    diff_ids: dict[str, Digest]
    tar_bytes: int
    block_bytes: int
    entries: int
    metadata_bytes: int
    problems: tuple[Problem, ...]
    outline: LayerOutline | None


@dataclass(frozen=True, slots=True)
class LayerExaminer:
    """Looks into one layer.

    Args:
        size: of the blob, that it is said to have.
        diff_ids: that are said of it; their algorithms are used.
        limits: what no honest layer exceeds.
        outlines: where what the layer does is kept.
    """

    size: int
    diff_ids: frozenset[Digest]
    limits: Limits
    outlines: OutlineFile

    def examine(self, blob: ByteStream) -> ExaminedLayer:
        """Return what is in the layer; ``blob`` is read to its end, or up to what is wrong with it.

        Memory: a fixed number of chunks, and what the entry at hand has in its headers.

        Raises:
            whatever ``blob`` raises but an InvalidImageError: nothing can be said of the layer then.
            OSError: there is no room for the outline.
        """
        tar = _Tar(blob, self.size, self.diff_ids, self.limits)
        outline, problems = LayerOutline(self.outlines), Problems()
        applier = LayerApplier(outline, self.limits, Losses(), refused=problems.add)
        is_whole = False
        try:
            applier.apply(tar)
            outline.finish()
            is_whole = True
        except InvalidImageError as error:
            problems.add(error)
            # The diff_id is of the whole tar, whatever could be parsed of it.
            if error is not tar.failure and not isinstance(error, LimitExceededError):
                with suppress(InvalidImageError):
                    tar.drain()
        finally:
            tar.close()
        return ExaminedLayer(
            diff_ids=tar.diff_ids,
            tar_bytes=tar.tar_bytes,
            block_bytes=applier.block_bytes,
            entries=applier.entries,
            metadata_bytes=applier.metadata_bytes,
            problems=tuple(problems),
            outline=outline if is_whole else None,
        )


class _Tar:
    """The tar of a layer, inflated and hashed in threads ahead; a `LayerTar`."""

    def __init__(self, blob: ByteStream, size: int, diff_ids: Iterable[Digest], limits: Limits) -> None:
        self._size = size
        self._limits = limits
        self._inflated = ReadAhead(_inflate(blob), _TAR_DEPTH, "inflate")
        by_algorithm = {digest.algorithm: digest for digest in diff_ids}
        self._hashes = {algorithm: HashAhead(digest, _TAR_DEPTH) for algorithm, digest in by_algorithm.items()}
        self._is_ended = False
        self._block_bytes = 0
        self.diff_ids: dict[str, Digest] = {}
        self.tar_bytes = 0
        self.failure: InvalidImageError | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._inflated:
                self.tar_bytes += len(chunk)
                self._limits.verify_ratio(self.tar_bytes, self._size)
                for hasher in self._hashes.values():
                    hasher.update(chunk)
                yield chunk
        except InvalidImageError as error:
            self.failure = error
            raise
        self._is_ended = True

    def count_blocks(self, block_bytes: int) -> None:
        """Count what the layer takes on a disk beyond the bytes of its tar; see `LayerStream`."""
        self._block_bytes += block_bytes
        self._limits.verify_ratio(self.tar_bytes + self._block_bytes, self._size)

    def verify_diff_id(self) -> None:
        """Nothing: images may say different ones, and each is compared for itself."""

    def drain(self) -> None:
        """Hash the rest."""
        for _ in self:
            pass

    def close(self) -> None:
        """Stop the threads."""
        self._inflated.stop()
        self._inflated.join()
        got = {algorithm: hasher.finish() for algorithm, hasher in self._hashes.items()}
        if self._is_ended:
            self.diff_ids = {algorithm: Digest(algorithm, encoded) for algorithm, encoded in got.items()}


def _inflate(blob: ByteStream) -> Generator[bytes]:
    yield from read_tar_chunks(blob)
