"""BlobUpload: one blob into one repository, whole if that works, else in chunks from where the registry has it.

The steps of an upload:

1. Go on with the upload that an earlier run began, if the registry still knows it.
2. Ask for a mount from a repository of the same registry. An answer that begins an upload instead is used.
3. Begin an upload, and send the blob in one PUT.
4. After a failure ask how much has arrived, and send the rest in chunks.

Each failure without a byte more at the registry counts, so a registry that answers nonsense makes no loop.

Spec: distribution-spec 1.1, "Pushing Blobs", "Pushing a blob in chunks", "Mounting a blob from another repository".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ociexport.errors import (
    AuthenticationError,
    DigestMismatchError,
    OciexportError,
    RegistryError,
    SizeMismatchError,
    TransferError,
    counted,
)
from ociexport.registry.http.content import ContentFailedError, RequestContent
from ociexport.registry.http.failures import took_too_long
from ociexport.registry.http.transport import Transport
from ociexport.registry.upload_requests import UploadRequests, UploadSession
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Chunk, Digest, Verifier
from ociexport.spec.lazy_dataclass import dataclass

# One chunk after a failure. It is the most that is sent again after the next one.
CHUNK_BYTES = 16 * 1024 * 1024
# A registry or proxy that takes no chunk of this size can't be used.
MIN_CHUNK_BYTES = 256 * 1024
# A shorter blob is not worth a file that remembers its upload.
_MIN_SAVED_BYTES = 1024 * 1024
# Answers to PATCH that say something else than that the registry does not support it.
_SUPPORTED_STATUSES = frozenset({401, 403, 408, 413, 416, 429})
# Its codes for an upload that it does not know.
_UPLOAD_CODES = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})
# Failures of the upload itself that another attempt may mend: it is unknown or gone, or its next byte is another one.
_PASSING_OF_BEGIN = frozenset({408, 429})
_PASSING = _PASSING_OF_BEGIN | {404, 410, 416}

ContentReader = Callable[[int], Iterator[Chunk]]


class SavedUploadUrls(Protocol):
    """Keeps the URLs of uploads for the next run; see `SavedUploads`."""

    def find(self, digest: Digest) -> str | None: ...

    def write(self, digest: Digest, url: str) -> None: ...

    def remove(self, digest: Digest) -> None: ...


@dataclass(frozen=True, slots=True)
class UploadOutcome:
    """How a blob came into the repository.

    Args:
        mounted_from: the repository that it was mounted from; None if it was sent.
        sent_bytes: how many bytes of it were sent, those of failed attempts included.
    """

    mounted_from: str | None
    sent_bytes: int


class BlobUpload:
    """The upload of one blob.

    Args:
        requests: to its repository.
        read: returns the blob's chunks from an offset on; not verified.
        report: gets the number of bytes that were sent for the first time.
        saved: keeps the upload's URL for the next run; None for no such place.
    """

    def __init__(
        self,
        requests: UploadRequests,
        descriptor: Descriptor,
        read: ContentReader,
        transport: Transport,
        *,
        report: Callable[[int], None] = lambda count: None,
        saved: SavedUploadUrls | None = None,
    ) -> None:
        self._requests = requests
        self._descriptor = descriptor
        self._read = read
        self._transport = transport
        self._report = report
        self._saved = saved if descriptor.size >= _MIN_SAVED_BYTES else None
        self._session: UploadSession | None = None
        # How many bytes the registry has, as far as it says.
        self._offset = 0
        self._best_offset = 0
        self._chunk_bytes = CHUNK_BYTES
        self._is_chunked = False
        self._takes_patch = True
        self._has_patched = False
        self._failures = 0
        self._was_wrong = self._was_misplaced = False
        self._sent_bytes = 0
        self._reported = 0

    def run(self, mounts: Sequence[str] = ()) -> UploadOutcome:
        """Return when the registry has the blob.

        Args:
            mounts: repositories of the same registry that may have it.

        Raises:
            RegistryError: the registry refused it, or failed more often than is retried.
            DigestMismatchError, SizeMismatchError: the bytes read are not those of the blob; it was not completed.
            what reading the blob raises.
        """
        self._resume()
        if self._session is None:
            for repository in mounts:
                self._session, is_mounted = self._requests.mount(self._descriptor.digest, repository)
                if is_mounted:
                    return UploadOutcome(repository, 0)
                if self._session is not None:
                    break
        while True:
            try:
                session = self._session or self._begin()
                if session is not None:
                    self._send(session)
                break
            except ContentFailedError as error:
                raise error.failure from error
            except RegistryError as error:
                if self._recover(error):
                    break
        if self._saved is not None:
            self._saved.remove(self._descriptor.digest)
        return UploadOutcome(None, self._sent_bytes)

    # The steps

    def _resume(self) -> None:
        """Take the upload that an earlier run began, if the registry still knows it."""
        url = self._saved.find(self._descriptor.digest) if self._saved is not None else None
        session = self._requests.saved_session(url) if url is not None else None
        if session is None:
            return
        # It was cut before, and may be cut again.
        self._is_chunked = True
        try:
            self._take_status(session)
        except RegistryError as error:
            if _ends_the_run(error):
                raise

    def _begin(self) -> UploadSession | None:
        """Begin an upload; returns None if the registry took the whole blob at once, since it has no other way."""
        self._offset = 0
        self._session = session = self._requests.begin()
        if session is None:
            self._requests.post_whole(self._descriptor.digest, self._content(0, self._descriptor.size))
            return None
        self._save(session)
        return session

    def _send(self, session: UploadSession) -> None:
        size = self._descriptor.size
        while self._is_chunked and self._takes_patch and self._offset < size:
            end = min(size, self._offset + max(self._chunk_bytes, session.min_chunk_bytes))
            session, received = self._requests.patch(session, self._content(self._offset, end), self._offset)
            self._has_patched = True
            # A registry may take a part only. One that says anything else has acknowledged the chunk all the same.
            self._offset = received if received is not None and self._offset < received < end else end
            self._session = session
            self._note_progress()
            self._save(session)
        self._requests.put(session, self._descriptor.digest, self._content(self._offset, size))

    def _content(self, start: int, end: int) -> RequestContent:
        """Return the blob's bytes from ``start`` to ``end``; those of a whole blob are verified before the last go."""
        is_whole = start == 0 and end == self._descriptor.size

        def chunks() -> Iterator[Chunk]:
            verifier = Verifier(self._descriptor.digest, end, subject="")
            position = start
            for chunk in self._read(start) if end > start else ():
                part = chunk[: end - position]
                verifier.update(chunk if is_whole else part)
                yield part
                position += len(part)
                self._count(position, len(part))
                if position == end and not is_whole:
                    return
            if is_whole:
                verifier.verify()

        return RequestContent(end - start, "application/octet-stream", chunks)

    def _count(self, position: int, count: int) -> None:
        self._sent_bytes += count
        if position > self._reported:
            self._report(position - self._reported)
            self._reported = position

    # Failures

    def _recover(self, error: RegistryError) -> bool:
        """Prepare the next attempt after ``error``; returns whether the blob has arrived after all.

        Raises:
            RegistryError: ``error``, if another attempt would fail in the same way, or there were too many.
        """
        if isinstance(error, AuthenticationError):
            raise error
        if error.status == 413 and error.method != "POST":
            self._shrink(error)
        elif error.method == "PATCH" and self._refuses_patch(error):
            self._takes_patch = self._is_chunked = False
            self._forget_session()
            return False
        elif error.method == "PUT" and error.status in (400, 422):
            # The bytes of this run are verified, so those of an earlier attempt were wrong, or lost.
            if self._was_wrong:
                self._blame_source()
                raise error
            self._was_wrong = True
            self._forget_session()
            return False
        elif error.status == 416 and not self._was_misplaced:
            self._was_misplaced = True
        elif not self._wait(error):
            raise error
        self._is_chunked = self._takes_patch
        return self._find_out(is_misplaced=error.status == 416)

    def _shrink(self, error: RegistryError) -> None:
        """Halve the chunks, the first time from the whole blob; raises ``error`` where they can't be smaller."""
        least = max(MIN_CHUNK_BYTES, self._session.min_chunk_bytes if self._session is not None else 0)
        attempted = min(self._chunk_bytes if self._is_chunked else 2 * self._chunk_bytes, self._descriptor.size)
        if attempted <= least or not self._takes_patch:
            raise error
        self._chunk_bytes = max(attempted // 2, least)

    def _refuses_patch(self, error: RegistryError) -> bool:
        """Whether a registry that has taken no PATCH so far refuses it for good."""
        is_answered = error.status is not None and (400 <= error.status < 500 or error.status == 501)
        is_of_upload = error.status in _SUPPORTED_STATUSES or bool(_UPLOAD_CODES & set(error.codes))
        return is_answered and not is_of_upload and self._takes_patch and not self._has_patched

    def _wait(self, error: RegistryError) -> bool:
        """Count the failure, and wait; returns whether another attempt is worth it."""
        self._failures += 1
        if self._is_chunked and took_too_long(error):
            self._chunk_bytes = max(self._chunk_bytes // 2, MIN_CHUNK_BYTES)
        passing = _PASSING_OF_BEGIN if error.method == "POST" else _PASSING
        if not isinstance(error, TransferError) and error.status not in passing:
            return False
        subject = f"blob {self._descriptor.digest.short}"
        return self._transport.wait_for_retry(self._failures, error, subject, error.asked_seconds)

    def _find_out(self, *, is_misplaced: bool) -> bool:
        """Ask how much has arrived; returns whether that is the whole blob, under its digest.

        Args:
            is_misplaced: whether the registry expected another byte than the one that was sent.
        """
        sent_at = self._offset
        if self._session is not None and not self._was_wrong and self._takes_patch:
            try:
                self._take_status(self._session)
            except RegistryError as error:
                if _ends_the_run(error):
                    raise
            else:
                # A registry that says the same again, and did not take it, says nothing.
                self._was_wrong = is_misplaced and self._offset == sent_at
                if not self._was_wrong:
                    self._note_progress()
                    return False
        self._forget_session()
        return self._has_arrived()

    def _has_arrived(self) -> bool:
        try:
            return self._requests.has_blob(self._descriptor)
        except TransferError:
            return False

    def _take_status(self, session: UploadSession) -> None:
        """Take ``session`` with the number of bytes that the registry says it has.

        Raises:
            RegistryError: it does not know the upload, or does not say how much it has, or says more than the blob has.
        """
        session, received = self._requests.status(session)
        size = self._descriptor.size
        if received is None or received > size:
            got = "no number" if received is None else str(received)
            raise RegistryError(f"upload: expected at most {counted(size, 'byte')} to have arrived, got {got}")
        self._session, self._offset = session, received

    def _note_progress(self) -> None:
        if self._offset > self._best_offset:
            self._best_offset = self._offset
            self._failures = 0

    def _forget_session(self) -> None:
        self._session, self._offset = None, 0
        if self._saved is not None:
            self._saved.remove(self._descriptor.digest)

    def _save(self, session: UploadSession) -> None:
        if self._saved is not None:
            self._saved.write(self._descriptor.digest, str(session.url))

    def _blame_source(self) -> None:
        """Raise DigestMismatchError or SizeMismatchError if the bytes at the source are wrong."""
        verifier = Verifier(self._descriptor.digest, self._descriptor.size, subject="")
        try:
            for chunk in self._read(0):
                verifier.update(chunk)
            verifier.verify()
        except (DigestMismatchError, SizeMismatchError):
            raise
        except (OciexportError, OSError):
            return


def _ends_the_run(error: RegistryError) -> bool:
    """Whether an error says nothing about the upload: the registry can't be reached, or refuses the user."""
    return isinstance(error, AuthenticationError) or (isinstance(error, TransferError) and error.status is None)
