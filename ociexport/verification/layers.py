"""Examines a layer alone: inflates it, hashes the tar and parses its entries. Layers may come in any order.

Checks that depend on lower layers, such as the targets of hard links, are in `ociexport.verification.chains`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress

from ociexport.errors import InvalidImageError, LimitExceededError, counted
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import Limits
from ociexport.layers.losses import Losses
from ociexport.layers.record import LayerOutline, OutlineFile
from ociexport.spec.digest import ByteStream, Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.compression import read_layer
from ociexport.system.memory import MEMORY_OPTION
from ociexport.system.read_ahead import HashAhead, ReadAhead
from ociexport.verification.findings import Kind, kind_of

# A hostile layer may have millions of bad entries; this many are reported.
_MAX_PROBLEMS = 20
# Length of the queue of 1 MiB chunks between two threads.
_TAR_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a layer.

    Args:
        place: within the layer; empty for the layer as a whole.
    """

    kind: Kind
    place: str
    message: str


class Problems:
    """Collects the problems of a layer up to a limit, and counts the rest."""

    def __init__(self) -> None:
        self._told: list[Problem] = []
        self._more = 0

    def __iter__(self) -> Iterator[Problem]:
        yield from self._told
        if self._more:
            yield Problem(Kind.TAR, "", f"{counted(self._more, 'more entry')} that can't be applied")

    def add(self, error: InvalidImageError) -> None:
        """Add an error."""
        if len(self._told) < _MAX_PROBLEMS:
            self._told.append(Problem(kind_of(error, Kind.TAR), error.where, error.message))
        else:
            self._more += 1


@dataclass(frozen=True, slots=True)
class ExaminedLayer:
    """The result of examining a layer.

    Args:
        diff_ids: of the tar, by algorithm; empty if the tar could not be read to its end.
        tar_bytes: size of the tar, as far as it could be read.
        block_bytes: disk space it takes beyond the bytes of the tar.
        entries: number of parsed entries.
        metadata_bytes: size of their attributes and long names.
        problems: those that do not depend on lower layers.
        outline: the layer's changes; None if it could not be read to its end.
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
    """Examines one layer.

    Args:
        size: declared size of the blob.
        media_type: declared type of the blob, for messages.
        diff_ids: those that images declare; the tar is hashed with their algorithms.
        limits: no honest layer exceeds them.
        outlines: file that stores the layer's changes.
    """

    size: int
    media_type: str
    diff_ids: frozenset[Digest]
    limits: Limits
    outlines: OutlineFile

    def examine(self, blob: ByteStream) -> ExaminedLayer:
        """Return the result for the layer. ``blob`` is read to its end, or up to its first error.

        Memory: a fixed number of chunks, and the headers of one entry.

        Raises:
            any error of ``blob`` except InvalidImageError: the state of the layer is then unknown.
            OSError: the outline could not be written.
        """
        tar = _Tar(_inflate(blob, self), self.size, self.diff_ids, self.limits)
        outline, problems = LayerOutline(self.outlines), Problems()
        applier = LayerApplier(outline, self.limits, Losses(), refused=problems.add)
        is_whole = False
        try:
            applier.apply(tar)
            outline.finish()
            is_whole = True
        except InvalidImageError as error:
            problems.add(error)
            # The diff_id covers the whole tar, even if it cannot be parsed to its end.
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
    """A `LayerTar` that is inflated and hashed ahead, in threads."""

    def __init__(self, chunks: Generator[bytes], size: int, diff_ids: Iterable[Digest], limits: Limits) -> None:
        self._size = size
        self._limits = limits
        self._inflated = ReadAhead(chunks, _TAR_DEPTH, "inflate")
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
        """Count disk space beyond the bytes of the tar; see `LayerStream`."""
        self._block_bytes += block_bytes
        self._limits.verify_ratio(self.tar_bytes + self._block_bytes, self._size)

    def verify_diff_id(self) -> None:
        """Do nothing: images may declare different diff_ids, so each is compared separately."""

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


def _inflate(blob: ByteStream, examiner: LayerExaminer) -> Generator[bytes]:
    yield from read_layer(
        blob,
        media_type=examiner.media_type,
        max_window_bytes=examiner.limits.max_window_bytes,
        option=MEMORY_OPTION,
    )
