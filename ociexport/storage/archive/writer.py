"""Archives as destinations: a file, whose blobs may arrive in parallel, or a stream, which they enter in order.

Neither needs a temporary copy, since the plan has the offset of each blob. A file has a temporary name until it is
complete. A stream that breaks off lacks its last entries, and no tool takes it for a complete archive.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, BinaryIO, cast

from ociexport.errors import (
    DiffIdMismatchError,
    InvalidImageError,
    LimitExceededError,
    NotFoundError,
    OciexportError,
    UsageError,
    locating,
    printable,
    quoted,
)
from ociexport.images.destination import BlobWriter
from ociexport.images.wanted_blobs import BlobToFetch, read_chunks
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, BlobCheck, Chunk, Digest, Verifier
from ociexport.storage.archive.plan import ArchiveEntry, ArchivePlan
from ociexport.storage.layout.blobs import read_back, write_at
from ociexport.system.compressed_stream import CompressedStream
from ociexport.system.locks import open_locked
from ociexport.system.partial_names import partial_name
from ociexport.system.progress.protocol import Progress
from ociexport.system.read_ahead import ReadAhead

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ociexport.images.diff_id_checks import DiffIdChecks

# The number of chunks, of 1 MiB each, that may wait for the reader of a pipe.
_PIECES_AHEAD = 8


class ArchiveFile:
    """An archive that is being written to a file; a `BlobStore` for the plan's blobs, within its ``with`` block.

    It is called ``PATH.partial`` until it is complete. After an error that may be temporary that file stays, and the
    next try uses the complete blobs in it.

    Args:
        path: of the archive; an existing file is replaced.
        plan: of the archive's files.
    """

    takes_checks = True

    def __init__(self, path: str, plan: ArchivePlan) -> None:
        self._path = path
        self._partial_path = partial_name(path)
        self._plan = plan
        self._missing = plan.blobs
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        verify_is_file_to_write(self._path)
        self._fd = open_locked(self._partial_path, is_written=True)
        try:
            status = os.fstat(self._fd)
            if status.st_uid != os.geteuid():
                raise UsageError(f"{quoted(self._partial_path)}: expected a file of this user, got another user's")
            if status.st_size != self._plan.size:
                os.ftruncate(self._fd, 0)
                os.ftruncate(self._fd, self._plan.size)
            for entry in self._plan.entries:
                write_at(self._fd, entry.header + (entry.content or b""), entry.offset)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def has_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> bool:
        """Whether an earlier try left the complete blob in its place: its bytes are read and verified.

        Raises:
            DiffIdMismatchError, LimitExceededError: it did, and the blob does not pass ``check``.
        """
        entry = self._missing.get(descriptor.digest)
        if entry is None:
            return True
        if self._has_hole(entry):
            return False
        verifier = Verifier(descriptor.digest, descriptor.size, subject="", check=check)
        for offset in range(0, entry.size, CHUNK_BYTES):
            size = min(CHUNK_BYTES, entry.size - offset)
            verifier.update(os.pread(self._fd, size, entry.content_offset + offset))
        try:
            verifier.verify()
        except (DiffIdMismatchError, LimitExceededError):
            raise
        except InvalidImageError:
            return False
        self._note_whole(descriptor.digest)
        return True

    @contextmanager
    def new_blob(self, descriptor: Descriptor, check: BlobCheck | None = None) -> Iterator[BlobWriter]:
        """Give a writer for a blob; at the end of the ``with`` block it is verified.

        Raises:
            DigestMismatchError, SizeMismatchError: at the end: the bytes were wrong.
            DiffIdMismatchError, LimitExceededError: they do not pass ``check``.
        """
        # Its own descriptor: the archive's may be closed, and its number reused for another file, before a thread ends.
        fd = os.dup(self._fd)
        try:
            place = self._plan.blobs[descriptor.digest].content_offset
            writer = ArchiveBlobWriter(fd, self._partial_path, descriptor, place, check)
            yield writer
            writer.verify()
        finally:
            os.close(fd)
        self._note_whole(descriptor.digest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
            elif isinstance(error, InvalidImageError | NotFoundError) or self._missing == self._plan.blobs:
                os.unlink(self._partial_path)
        finally:
            os.close(self._fd)

    def _finish(self) -> None:
        if self._missing:
            raise OciexportError(f"{quoted(self._path)}: expected all blobs, {len(self._missing)} are missing")
        for entry in self._plan.entries:
            # A file that an earlier try left may contain anything between the blobs.
            write_at(self._fd, entry.padding, entry.content_offset + entry.size)
        write_at(self._fd, self._plan.end, self._plan.size - len(self._plan.end))
        os.fsync(self._fd)
        os.rename(self._partial_path, self._path)

    def _has_hole(self, entry: ArchiveEntry) -> bool:
        """Whether the file system knows that a part of the entry was never written, so reading it is needless."""
        with suppress(OSError):
            return os.lseek(self._fd, entry.content_offset, os.SEEK_HOLE) < entry.content_offset + entry.size
        return False

    def _note_whole(self, digest: Digest) -> None:
        with self._lock:
            self._missing.pop(digest, None)


class ArchiveBlobWriter:
    """Writes one blob to its place in an archive."""

    is_complete = False

    def __init__(self, fd: int, path: str, descriptor: Descriptor, place: int, check: BlobCheck | None) -> None:
        self._fd = fd
        self._path = path
        self._descriptor = descriptor
        self._place = place
        self._check = check
        self.restart()

    @property
    def offset(self) -> int:
        """How many bytes are written in order."""
        return self._verifier.seen_bytes

    def restart(self) -> None:
        """Discard all bytes."""
        self._verifier = Verifier(self._descriptor.digest, self._descriptor.size, subject="", check=self._check)

    def write(self, chunk: Chunk, /) -> None:
        """Write the next bytes; raises SizeMismatchError before any are written beyond the blob's place."""
        place = self._place + self.offset
        self._verifier.update(chunk)
        write_at(self._fd, chunk, place)

    def place(self, chunk: Chunk, offset: int, /) -> None:
        """Write bytes ahead of their turn; see `PlacingWriter`."""
        write_at(self._fd, chunk, self._place + offset)

    def take(self, count: int, /) -> None:
        """Hash the next bytes, which `place` wrote earlier; see `PlacingWriter`."""
        for chunk in read_back(self._fd, self._place + self.offset, count, self._path):
            self._verifier.update(chunk)

    def verify(self) -> None:
        """Return if all bytes were written, have the declared digest, and pass the check."""
        self._verifier.verify()


def write_to_stream(
    out: BinaryIO,
    plan: ArchivePlan,
    blobs: Sequence[BlobToFetch],
    progress: Progress,
    checks: DiffIdChecks | None = None,
) -> None:
    """Write an archive to ``out`` in one pass, and verify each blob while it is written.

    Args:
        out: a pipe or another stream of bytes; not closed.
        blobs: the sources of the plan's blobs.
        checks: of the layers; None for no further check.

    Raises:
        DigestMismatchError, SizeMismatchError: a blob is wrong; ``out`` then has a part of an archive.
        DiffIdMismatchError, LimitExceededError: a layer does not pass its check; the same is true.
    """
    origins = {blob.descriptor.digest: blob for blob in blobs}
    pieces = ReadAhead(_pieces_of(plan, origins, progress, checks), _PIECES_AHEAD, "fetch")
    with progress.phase("fetching", sum(blob.descriptor.size for blob in blobs)):
        try:
            for piece in pieces:
                out.write(piece)
            out.flush()
        finally:
            pieces.stop()


def _pieces_of(
    plan: ArchivePlan, origins: Mapping[Digest, BlobToFetch], progress: Progress, checks: DiffIdChecks | None
) -> Generator[bytes, None, None]:
    for entry in plan.entries:
        yield entry.header
        if entry.content is not None or entry.digest is None:
            yield entry.content or b""
        else:
            yield from _verified_chunks(origins[entry.digest], progress, checks)
        yield entry.padding
    yield plan.end


def _verified_chunks(blob: BlobToFetch, progress: Progress, checks: DiffIdChecks | None) -> Iterator[bytes]:
    descriptor = blob.descriptor
    with (
        checks.check_of(descriptor) if checks is not None else nullcontext() as check,
        progress.task(blob.title, descriptor.size, digest=descriptor.digest) as task,
    ):
        verifier = Verifier(descriptor.digest, descriptor.size, subject="", check=check)
        for chunk in read_chunks(blob, 0):
            with locating(blob.label):
                verifier.update(chunk)
            yield chunk
            task.advance(len(chunk))
        with locating(blob.label):
            verifier.verify()


@contextmanager
def compressing(out: BinaryIO, compression: str | None) -> Iterator[BinaryIO]:
    """Give a stream whose bytes are written to ``out``, compressed; ``out`` itself without a compression."""
    if compression is None:
        yield out
        return
    stream = CompressedStream(out, compression)
    yield cast("BinaryIO", stream)
    stream.end()


def verify_is_file_to_write(path: str) -> None:
    """Return if an archive can be written to ``path``.

    Raises:
        UsageError: something other than a file has that name, or the name of the unfinished archive.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        what = "a directory" if os.path.isdir(path) else "something else"
        raise UsageError(f"{quoted(path)}: expected a file or nothing, got {what}")
    partial = partial_name(path)
    if os.path.lexists(partial) and (os.path.islink(partial) or not os.path.isfile(partial)):
        what = "a link" if os.path.islink(partial) else "a directory" if os.path.isdir(partial) else "something else"
        raise UsageError(
            f"{quoted(partial)}: expected a file or nothing, got {what}",
            hint=f"{printable(path)} is written there until it is complete",
        )
