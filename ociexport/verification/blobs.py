"""Reads blobs side by side, hashes each once, and compares it with its descriptors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO

from ociexport.errors import DigestMismatchError, InvalidImageError, NotFoundError, counted
from ociexport.spec.digest import CHUNK_BYTES, ByteStream, Digest, Verifier
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.system.progress.protocol import Progress, ProgressTask
from ociexport.system.temporary_files import TemporaryFileError
from ociexport.system.threads import starting_threads
from ociexport.verification.findings import Findings, Kind, kind_of, message_of
from ociexport.verification.layers import ExaminedLayer, LayerExaminer
from ociexport.verification.walk import NamedBlob

# More threads do not help: each one hashing takes a processor, and the disk is the limit.
_JOBS = 2


@dataclass(frozen=True, slots=True)
class BlobState:
    """The result of reading a blob.

    Args:
        size: number of bytes read.
        kind: of the problem; None if the bytes match the digest.
        message: the problem.
        layer: the result of examining it, if it is a layer and was examined.
    """

    size: int
    kind: Kind | None = None
    message: str = ""
    layer: ExaminedLayer | None = None


@dataclass(frozen=True, slots=True)
class BlobToCheck:
    """A blob to read.

    Args:
        sizes: those that descriptors declare; empty if none does. Reading stops after the largest.
        examiner: examines the layer as it is read; None to hash the blob only.
    """

    digest: Digest
    open: Callable[[], ByteStream]
    sizes: tuple[int, ...] = ()
    examiner: LayerExaminer | None = None

    @property
    def max_bytes(self) -> int | None:
        """The largest declared size."""
        return max(self.sizes, default=None)


def blob_to_check(named: Sequence[NamedBlob], examiner: LayerExaminer | None = None) -> BlobToCheck:
    """Return the blob that all of ``named`` reference."""
    first = named[0]
    sizes = tuple(one.descriptor.size for one in named if one.has_size)
    sizes = sizes if len(sizes) == len(named) else ()
    return BlobToCheck(first.descriptor.digest, lambda: _open(first), sizes, examiner)


def check_blobs(blobs: Sequence[BlobToCheck], progress: Progress) -> dict[Digest, BlobState]:
    """Return the state of each blob; several are read at a time.

    Raises:
        RegistryError: a registry does not answer, so the state is unknown.
    """
    stop = threading.Event()
    with (
        progress.phase("verifying", sum(blob.max_bytes or 0 for blob in blobs)),
        ThreadPoolExecutor(_JOBS, "verify") as threads,
    ):
        try:
            with starting_threads():
                checked = threads.map(lambda blob: (blob.digest, _check(blob, progress, stop)), blobs)
            return dict(checked)
        finally:
            # After an error or SIGINT, the other blobs are not read to their ends.
            stop.set()
            threads.shutdown(cancel_futures=True)


def add_blob_findings(
    blobs: Mapping[Digest, Sequence[NamedBlob]],
    states: Mapping[Digest, BlobState],
    findings: Findings,
    expected: Container[Digest] = (),
) -> None:
    """Report problems of referenced blobs at their first reference, and each reference with a wrong size.

    Args:
        expected: blobs that are absent on purpose.
    """
    for digest, named in blobs.items():
        state = states[digest]
        if digest in expected:
            continue
        needed = [one for one in named if not one.may_be_absent]
        if state.kind is Kind.MISSING and not needed:
            findings.add(Kind.ABSENT, named[0].place, "absent, which is allowed here", is_wrong=False, digest=digest)
        elif state.kind is not None:
            findings.add(state.kind, (needed or named)[0].place, state.message, digest=digest)
        for one in named if state.kind is None else ():
            if one.has_size and one.descriptor.size != state.size:
                message = f"size mismatch: expected {counted(one.descriptor.size, 'byte')}, got {state.size}"
                findings.add(Kind.SIZE, one.place, message, digest=digest)


def total_bytes(states: Iterable[BlobState]) -> int:
    """Return the number of bytes read."""
    return sum(state.size for state in states)


class _CheckedStream:
    """A `ByteStream` that hashes and counts a blob as it is read.

    Args:
        max_bytes: reading ends after this many, since the blob is then too long; None for no limit.
        stop: reading ends when it is set.
    """

    def __init__(
        self, stream: ByteStream, verifier: Verifier, max_bytes: int | None, task: ProgressTask, stop: threading.Event
    ) -> None:
        self._stream = stream
        self._verifier = verifier
        self._max_bytes = max_bytes
        self._task = task
        self._stop = stop

    @property
    def is_too_long(self) -> bool:
        """Whether the blob is longer than declared."""
        return self._max_bytes is not None and self._verifier.seen_bytes > self._max_bytes

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; ``b""`` at the end, or when reading on is pointless."""
        if self._stop.is_set() or self.is_too_long:
            return b""
        chunk = self._stream.read(size)
        self._verifier.update(chunk)
        self._task.advance(len(chunk))
        return chunk

    def close(self) -> None:
        """Do nothing: the caller that opened the stream closes it."""


def _check(blob: BlobToCheck, progress: Progress, stop: threading.Event) -> BlobState:
    verifier = Verifier(blob.digest, None, subject="")
    layer = None
    try:
        with (
            closing(blob.open()) as stream,
            progress.task(f"blob {blob.digest.short}", blob.max_bytes, digest=blob.digest) as task,
        ):
            checked = _CheckedStream(stream, verifier, blob.max_bytes, task, stop)
            if blob.examiner is not None:
                layer = blob.examiner.examine(checked)
            while checked.read(CHUNK_BYTES):
                pass
            if checked.is_too_long:
                return BlobState(
                    verifier.seen_bytes,
                    Kind.SIZE,
                    f"size mismatch: expected {counted(blob.max_bytes or 0, 'byte')}, got more",
                )
        verifier.verify()
    except DigestMismatchError as error:
        if blob.sizes and verifier.seen_bytes not in blob.sizes:
            message = f"size mismatch: expected {counted(blob.sizes[0], 'byte')}, got {verifier.seen_bytes}"
            return BlobState(verifier.seen_bytes, Kind.SIZE, message)
        return BlobState(verifier.seen_bytes, Kind.DIGEST, error.message)
    except TemporaryFileError:
        raise  # a problem of our own disk, not of the blob
    except (NotFoundError, InvalidImageError, OSError) as error:
        return BlobState(verifier.seen_bytes, kind_of(error, Kind.UNREADABLE), message_of(error))
    return BlobState(verifier.seen_bytes, layer=layer)


def _open(named: NamedBlob) -> ByteStream:
    try:
        return named.source.open_blob(named.descriptor)
    except NotFoundError:
        if not named.is_listed:
            raise
        # The stored blob is checked, even if an index embeds the document.
        return BytesIO(named.source.fetch_manifest(replace(named.descriptor, data=None)).raw)
