"""BlobFetch: blobs fetched in parallel, each verified; all stop when one fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from queue import Empty, SimpleQueue

from ociexport.errors import (
    DiffIdMismatchError,
    DigestMismatchError,
    OciexportError,
    SizeMismatchError,
    UsageError,
    counted,
    locating,
)
from ociexport.images.destination import BlobStore, BlobWriter, PlacingStream, PlacingWriter, SendingStore
from ociexport.images.wanted_blobs import BlobToFetch, open_stream, read_chunks
from ociexport.spec.digest import CHUNK_BYTES, Chunk, Digest
from ociexport.system.progress.protocol import Progress
from ociexport.system.threads import ThreadLimitError, start_thread

DEFAULT_JOBS = 4
# No registry grants one client more connections.
MAX_JOBS = 64
# How long the other threads have to end after a failure; SIGINT and SIGTERM must end the process within a second.
_STOP_SECONDS = 0.7


class _StoppedError(OciexportError):
    """This blob was stopped because another failed; never leaves this module."""


class BlobFetch:
    """Fetches blobs in parallel, and stops all of them when one fails.

    Attributes:
        begun: blobs that the destination did not have before.
        fetched_bytes: how many bytes of each complete blob were fetched, without those of an earlier try.
        reused: blobs that the destination already had.
        failures: of `run_all`: why each failed blob could not be fetched.
    """

    def __init__(self, destination: BlobStore | SendingStore, progress: Progress) -> None:
        self._destination = destination
        self._progress = progress
        self._verb = "sending" if isinstance(destination, SendingStore) else "fetching"
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
            the error of the first blob that failed; the others were stopped.
        """
        with self._progress.phase(self._verb, sum(blob.descriptor.size for blob in blobs)) as self._phase:
            self._run(blobs, jobs)

    def run_all(self, blobs: Sequence[BlobToFetch], jobs: int) -> None:
        """Return when all available ``blobs`` are at the destination; `failures` has the errors of the others.

        Raises:
            OSError: the disk or file system; the others were stopped.
        """
        self._goes_on = True
        self.run(blobs, jobs)

    def _run(self, blobs: Sequence[BlobToFetch], jobs: int) -> None:
        waiting: SimpleQueue[BlobToFetch] = SimpleQueue()
        outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        # Largest first: the last one to end is then a small one.
        for blob in sorted(blobs, key=lambda blob: -blob.descriptor.size):
            waiting.put(blob)
        # Daemons: a thread that hangs on the network does not keep an interrupted process from ending.
        threads: list[threading.Thread] = []
        try:
            for number in range(min(jobs, len(blobs))):
                try:
                    threads.append(start_thread(self._work, waiting, outcomes, name=f"fetch {number}"))
                except ThreadLimitError:
                    if not threads:
                        raise
                    break  # fewer threads fetch the same blobs
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
            except BaseException as error:  # every kind: `_run` raises it in the caller's thread
                if not self._goes_on or not isinstance(error, OciexportError):
                    outcomes.put(error)
                    return
                with self._lock:
                    self.failures[blob.descriptor.digest] = error
            outcomes.put(None)

    def _fetch(self, blob: BlobToFetch) -> None:
        with locating(blob.label):
            destination = self._destination
            if destination.has_blob(blob.descriptor):
                self._phase.leave_out(blob.descriptor.size)
                self._count_reused(blob)
                return
            if isinstance(destination, SendingStore):
                self._send(blob, destination)
                return
            try:
                self._write(blob, destination)
            except (DigestMismatchError, SizeMismatchError) as error:
                # A proxy or a damaged disk may have altered the bytes; those that are wrong at the source stay wrong.
                if self._stop.is_set() or isinstance(error, DiffIdMismatchError):
                    raise
                self._progress.warn(f"{blob.title}: {error.message}; fetching it once more, from the beginning")
                # All its bytes were counted, and will be again.
                self._phase.leave_out(-blob.descriptor.size)
                self._write(blob, destination)

    def _send(self, blob: BlobToFetch, destination: SendingStore) -> None:
        def read(offset: int) -> Iterator[Chunk]:
            for chunk in read_chunks(blob, offset):
                if self._stop.is_set():
                    raise _StoppedError("another blob failed")
                yield chunk

        descriptor = blob.descriptor
        with self._progress.task(blob.title, descriptor.size, digest=descriptor.digest) as task:
            outcome = destination.send_blob(descriptor, read, task)
            if outcome.mounted_from is not None:
                task.resume(descriptor.size)
        if outcome.mounted_from is not None:
            self._progress.say(f"{blob.title}: mounted from {outcome.mounted_from}")
            return
        with self._lock:
            self.begun.add(descriptor.digest)
            self.fetched_bytes[descriptor.digest] = outcome.sent_bytes

    def _write(self, blob: BlobToFetch, destination: BlobStore) -> None:
        descriptor = blob.descriptor
        # The writer ends within the task: a blob is reported as done after it was verified.
        with (
            self._progress.task(blob.title, descriptor.size, digest=descriptor.digest) as task,
            destination.new_blob(descriptor) as writer,
        ):
            if writer.is_complete:
                task.resume(descriptor.size)
                self._count_reused(blob)
                return
            with self._lock:
                self.begun.add(descriptor.digest)
            resumed_at = writer.offset
            if resumed_at:
                self._progress.say(f"{blob.title}: resumed at {resumed_at} of {counted(descriptor.size, 'byte')}")
                task.resume(resumed_at)
            # Closed before the writer is: other threads may be writing bytes out of order.
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
    """Write the bytes that the writer lacks; yields how many it took each time."""
    if writer.offset and writer.offset == blob.descriptor.size:
        # An earlier try ended between the last byte and the name.
        return
    if blob.content is not None:
        rest = blob.content[writer.offset :]
        writer.write(rest)
        yield len(rest)
        return
    with closing(open_stream(blob, writer.offset)) as stream:
        if isinstance(stream, PlacingStream) and isinstance(writer, PlacingWriter):
            yield from stream.write_to(writer)
            return
        while chunk := stream.read(CHUNK_BYTES):
            writer.write(chunk)
            yield len(chunk)


def verify_jobs(jobs: int) -> None:
    """Return if ``jobs`` blobs may be fetched in parallel.

    Raises:
        UsageError: fewer than one, or more than `MAX_JOBS`.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"jobs: expected 1 to {MAX_JOBS}, got {jobs}")
