"""Blobs read, hashed and compared with what is said of them; several side by side, each once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO

from ociexport.digest import ByteStream, Digest, Verifier
from ociexport.errors import DigestMismatchError, InvalidImageError, NotFoundError
from ociexport.progress import Progress
from ociexport.verification.findings import Findings, Kind, kind_of, message_of
from ociexport.verification.walk import NamedBlob

# More bring nothing on a disk, and hashing wants a processor each.
_JOBS = 2
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BlobState:
    """What a blob was found to be.

    Args:
        size: bytes that were read.
        kind: of what is wrong with it in itself; None if it is what its digest says.
        message: what is wrong.
    """

    size: int
    kind: Kind | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class BlobToCheck:
    """A blob to read.

    Args:
        sizes: that are said of it; empty where nothing is. After the largest there is no need to go on.
    """

    digest: Digest
    open: Callable[[], ByteStream]
    sizes: tuple[int, ...] = ()

    @property
    def max_bytes(self) -> int | None:
        """The largest size that is said."""
        return max(self.sizes, default=None)


def blob_to_check(named: Sequence[NamedBlob]) -> BlobToCheck:
    """Return the blob that all ``named`` name."""
    first = named[0]
    sizes = tuple(one.descriptor.size for one in named if one.has_size)
    return BlobToCheck(first.descriptor.digest, lambda: _open(first), sizes if len(sizes) == len(named) else ())


def check_blobs(blobs: Sequence[BlobToCheck], progress: Progress) -> dict[Digest, BlobState]:
    """Return what each blob is; a few are read side by side.

    Raises:
        RegistryError: a registry does not answer, so that nothing can be said.
    """
    stop = threading.Event()
    with (
        progress.phase("verifying", sum(blob.max_bytes or 0 for blob in blobs)),
        ThreadPoolExecutor(_JOBS, "verify") as threads,
    ):
        try:
            return dict(threads.map(lambda blob: (blob.digest, _check(blob, progress, stop)), blobs))
        finally:
            # After an error or SIGINT the others are not waited for to their ends.
            stop.set()
            threads.shutdown(cancel_futures=True)


def add_blob_findings(
    blobs: Mapping[Digest, Sequence[NamedBlob]], states: Mapping[Digest, BlobState], findings: Findings
) -> None:
    """Tell what is wrong with named blobs, where they are first named; and each name that says another size."""
    for digest, named in blobs.items():
        state = states[digest]
        needed = [one for one in named if not one.may_be_absent]
        if state.kind is Kind.MISSING and not needed:
            findings.add(Kind.ABSENT, named[0].place, "not here, as may be", is_wrong=False, digest=digest)
        elif state.kind is not None:
            findings.add(state.kind, (needed or named)[0].place, state.message, digest=digest)
        for one in named if state.kind is None else ():
            if one.has_size and one.descriptor.size != state.size:
                message = f"size mismatch: expected {one.descriptor.size} bytes, got {state.size}"
                findings.add(Kind.SIZE, one.place, message, digest=digest)


def total_bytes(states: Iterable[BlobState]) -> int:
    """Return how many bytes were read."""
    return sum(state.size for state in states)


def _check(blob: BlobToCheck, progress: Progress, stop: threading.Event) -> BlobState:
    verifier = Verifier(blob.digest, None, subject="")
    try:
        with (
            closing(blob.open()) as stream,
            progress.task(f"blob {blob.digest.short}", blob.max_bytes, digest=blob.digest) as task,
        ):
            while not stop.is_set() and (chunk := stream.read(_READ_BYTES)):
                verifier.update(chunk)
                task.advance(len(chunk))
                if blob.max_bytes is not None and verifier.seen_bytes > blob.max_bytes:
                    return BlobState(
                        verifier.seen_bytes, Kind.SIZE, f"size mismatch: expected {blob.max_bytes} bytes, got more"
                    )
        verifier.verify()
    except DigestMismatchError as error:
        if blob.sizes and verifier.seen_bytes not in blob.sizes:
            message = f"size mismatch: expected {blob.sizes[0]} bytes, got {verifier.seen_bytes}"
            return BlobState(verifier.seen_bytes, Kind.SIZE, message)
        return BlobState(verifier.seen_bytes, Kind.DIGEST, error.message)
    except (NotFoundError, InvalidImageError, OSError) as error:
        return BlobState(verifier.seen_bytes, kind_of(error, Kind.UNREADABLE), message_of(error))
    return BlobState(verifier.seen_bytes)


def _open(named: NamedBlob) -> ByteStream:
    try:
        return named.source.open_blob(named.descriptor)
    except NotFoundError:
        if not named.is_listed:
            raise
        return BytesIO(named.source.fetch_manifest(named.descriptor).raw)
