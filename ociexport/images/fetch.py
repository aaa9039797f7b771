"""Blobs fetched side by side, each verified, all stopped when one fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import NamedTuple

from ociexport.errors import (
    DiffIdMismatchError,
    DigestMismatchError,
    InvalidImageError,
    NotFoundError,
    OciexportError,
    RegistryError,
    SizeMismatchError,
    UsageError,
    locating,
    quoted,
)
from ociexport.images.source import BlobOpener, BlobStore, BlobWriter, ImageSource, PlacingStream, PlacingWriter
from ociexport.spec.descriptor import Descriptor, ImageConfig, Manifest
from ociexport.spec.digest import ByteStream, Digest
from ociexport.system.progress.protocol import Progress
from ociexport.system.threads import ThreadLimitError, start_thread

DEFAULT_JOBS = 4
# More connections than any registry grants one client.
MAX_JOBS = 64
# What is read, hashed and written at once; larger chunks bring nothing, smaller ones more hand-overs of the lock.
_CHUNK_BYTES = 1024 * 1024
# How long the others have to end when one has failed; SIGINT and SIGTERM shall end the process within a second.
_STOP_SECONDS = 0.7


class BlobToFetch(NamedTuple):
    """A blob to fetch, from where, and how messages call it.

    Args:
        content: its bytes where they are known already, from a document that holds them or from reading the config.
    """

    source: BlobOpener
    descriptor: Descriptor
    label: str
    title: str
    content: bytes | None


def blobs_of(source: ImageSource, manifest: Manifest, config: ImageConfig | None) -> list[BlobToFetch]:
    """Return each blob of the image once; the config's bytes, which were read before, are not fetched again.

    Raises:
        InvalidImageError: the same digest is said to have several sizes.
    """
    count = len(manifest.layers)
    kind = "layer" if config is not None else "blob"
    digest = manifest.config.digest
    content = config.raw if config is not None else manifest.config.data
    blobs = {digest: BlobToFetch(source, manifest.config, f"config {digest}", f"config {digest.short}", content)}
    for number, layer in enumerate(manifest.layers, start=1):
        label = f"{kind} {number} of {count} ({layer.digest})"
        title = f"{kind} {number}/{count} {layer.digest.short}"
        known = blobs.setdefault(layer.digest, BlobToFetch(source, layer, label, title, layer.data))
        if known.descriptor.size != layer.size:
            raise InvalidImageError(
                f"size: expected {known.descriptor.size}, as for the same digest before, got {layer.size}",
                where=f"manifest {manifest.digest}: {label}",
            )
    return list(blobs.values())


def unite_blobs(images: Iterable[Iterable[BlobToFetch]]) -> list[BlobToFetch]:
    """Return the blobs of several images or platforms, each once, in order.

    Raises:
        InvalidImageError: two say different sizes of the same digest.
    """
    united: dict[Digest, BlobToFetch] = {}
    for blobs in images:
        for blob in blobs:
            known = united.setdefault(blob.descriptor.digest, blob)
            if known.descriptor.size != blob.descriptor.size:
                expected, got = known.descriptor.size, blob.descriptor.size
                raise InvalidImageError(
                    f"size: expected {expected}, as for the same digest before, got {got}", where=blob.label
                )
    return list(united.values())


class _StoppedError(OciexportError):
    """Another blob has failed, so this one is not wanted any more; never leaves this module."""


class BlobFetch:
    """Fetches blobs side by side, and stops all of them when one fails.

    Attributes:
        begun: blobs that were not there before.
        fetched_bytes: how many came over of each blob that is there now; without what an earlier try had left.
        reused: blobs that were there already.
        failures: why blobs could not be had, of `run_all`.
    """

    def __init__(self, destination: BlobStore, progress: Progress) -> None:
        self._destination = destination
        self._progress = progress
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._goes_on = False
        self.failures: dict[Digest, OciexportError] = {}
        self.begun: set[Digest] = set()
        self.fetched_bytes: dict[Digest, int] = {}
        self.reused: set[Digest] = set()

    def run(self, blobs: Sequence[BlobToFetch], jobs: int) -> None:
        """Return when all ``blobs`` are at the destination.

        Raises:
            whatever the first that failed raised; the others were stopped.
        """
        with self._progress.phase("fetching", sum(blob.descriptor.size for blob in blobs)) as self._phase:
            self._run(blobs, jobs)

    def run_all(self, blobs: Sequence[BlobToFetch], jobs: int) -> None:
        """Return when all ``blobs`` that can be had are at the destination; `failures` tells why others are not.

        Raises:
            OSError: the disk or file system; the others were stopped.
        """
        self._goes_on = True
        self.run(blobs, jobs)

    def _run(self, blobs: Sequence[BlobToFetch], jobs: int) -> None:
        waiting: SimpleQueue[BlobToFetch] = SimpleQueue()
        outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        # Largest first, so that the last one to end is a small one.
        for blob in sorted(blobs, key=lambda blob: -blob.descriptor.size):
            waiting.put(blob)
        # Daemons, so that one which hangs in the network does not keep an interrupted process from ending.
        threads: list[threading.Thread] = []
        try:
            for number in range(min(jobs, len(blobs))):
                try:
                    threads.append(start_thread(self._work, waiting, outcomes, name=f"fetch {number}"))
                except ThreadLimitError:
                    if not threads:
                        raise
                    break  # fewer do the work too
            for _ in blobs:
                failure = outcomes.get()
                if failure is not None:
                    raise failure
        finally:
            self._stop.set()
            deadline = time.monotonic() + _STOP_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, waiting: SimpleQueue[BlobToFetch], outcomes: SimpleQueue[BaseException | None]) -> None:
        while not self._stop.is_set():
            try:
                blob = waiting.get_nowait()
            except Empty:
                return
            try:
                self._fetch(blob)
            except BaseException as error:  # all of them: they belong to the one who waits
                if not self._goes_on or not isinstance(error, OciexportError):
                    outcomes.put(error)
                    return
                with self._lock:
                    self.failures[blob.descriptor.digest] = error
            outcomes.put(None)

    def _fetch(self, blob: BlobToFetch) -> None:
        if self._destination.has_blob(blob.descriptor):
            self._phase.leave_out(blob.descriptor.size)
            self._count_reused(blob)
            return
        with locating(blob.label):
            try:
                self._write(blob)
            except (DigestMismatchError, SizeMismatchError) as error:
                # A proxy or a damaged disk may have altered the bytes once; what is wrong at its source stays wrong.
                if self._stop.is_set() or isinstance(error, DiffIdMismatchError):
                    raise
                self._progress.warn(f"{blob.title}: {error.message}; fetching it once more, from the beginning")
                # All its bytes went by, and will do so again.
                self._phase.leave_out(-blob.descriptor.size)
                self._write(blob)

    def _write(self, blob: BlobToFetch) -> None:
        descriptor = blob.descriptor
        # The writer ends within the task: a blob is told as done when it was verified.
        with (
            self._progress.task(blob.title, descriptor.size, digest=descriptor.digest) as task,
            self._destination.new_blob(descriptor) as writer,
        ):
            if writer.is_complete:
                task.resume(descriptor.size)
                self._count_reused(blob)
                return
            with self._lock:
                self.begun.add(descriptor.digest)
            resumed_at = writer.offset
            if resumed_at:
                self._progress.say(f"{blob.title}: resumed at {resumed_at} of {descriptor.size} bytes")
                task.resume(resumed_at)
            # Closed before the writer is: other threads may be writing what comes ahead of its turn.
            with closing(_write_rest(blob, writer)) as counts:
                for count in counts:
                    if self._stop.is_set():
                        raise _StoppedError("another blob failed")
                    task.advance(count)
        with self._lock:
            self.fetched_bytes[descriptor.digest] = descriptor.size - resumed_at

    def _count_reused(self, blob: BlobToFetch) -> None:
        self._progress.say(f"{blob.title}: already there")
        with self._lock:
            self.reused.add(blob.descriptor.digest)


def _write_rest(blob: BlobToFetch, writer: BlobWriter) -> Generator[int, None, None]:
    """Give the writer all that it does not have yet; yields how many bytes it took each time."""
    if writer.offset and writer.offset == blob.descriptor.size:
        # An earlier try ended between the last byte and the name.
        return
    if blob.content is not None:
        rest = blob.content[writer.offset :]
        writer.write(rest)
        yield len(rest)
        return
    with closing(_open_stream(blob, writer.offset)) as stream:
        if isinstance(stream, PlacingStream) and isinstance(writer, PlacingWriter):
            yield from stream.write_to(writer)
            return
        while chunk := stream.read(_CHUNK_BYTES):
            writer.write(chunk)
            yield len(chunk)


def read_chunks(blob: BlobToFetch, offset: int) -> Iterator[bytes]:
    """Yield the blob's bytes from ``offset`` on, as they come; nothing is verified."""
    if blob.content is not None:
        yield blob.content[offset:]
        return
    with closing(_open_stream(blob, offset)) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _open_stream(blob: BlobToFetch, offset: int) -> ByteStream:
    descriptor = blob.descriptor
    try:
        return blob.source.open_blob(descriptor, offset)
    except NotFoundError as error:
        if not descriptor.urls:
            error.hint = "the image names a blob that is not there: whoever has the image should push it again"
        elif not isinstance(error, RegistryError):  # which knows more of it
            urls = ", ".join(map(quoted, descriptor.urls))
            error.hint = f"a foreign layer, to be had from {urls}"
        raise


def verify_jobs(jobs: int) -> None:
    """Return if so many connections may be made at once.

    Raises:
        UsageError: there are none, or too many.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"jobs: expected 1 to {MAX_JOBS}, got {jobs}")
