"""Blobs that are requested before their turn, so that their first bytes arrive meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue

from ociexport.errors import OciexportError
from ociexport.images.held_documents import Turn
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.system.threads import ThreadLimitError, start_thread


class BlobsAhead:
    """The blobs of a source that were requested ahead and are not taken yet.

    Args:
        open_blob: returns an open blob, from its beginning.
    """

    def __init__(self, open_blob: Callable[[Descriptor], ByteStream]) -> None:
        self._open_blob = open_blob
        self._blobs: dict[Digest, OpenedAhead] = {}
        self._turn: Turn | None = None

    def request(self, descriptors: Sequence[Descriptor], turn: Turn | None) -> None:
        """Request these blobs in threads of their own; ``turn`` is closed when the last one was taken."""
        self._turn = turn
        for descriptor in descriptors:
            with suppress(ThreadLimitError):  # it is requested later
                self._blobs[descriptor.digest] = OpenedAhead(self._open_blob, descriptor)
        self._end_turn()

    def take(self, digest: Digest, offset: int) -> ByteStream | None:
        """Return the blob if it was requested and is wanted from its beginning; see `OpenedAhead.take`."""
        blob = self._blobs.pop(digest, None)
        self._end_turn()
        if blob is None:
            return None
        if not offset:
            return blob.take()
        blob.close()
        return None

    def close(self) -> None:
        """Close those that were not taken."""
        while self._blobs:
            self._blobs.popitem()[1].close()
        self._end_turn()

    def _end_turn(self) -> None:
        if self._turn is not None and not self._blobs:
            self._turn.close()


class OpenedAhead:
    """A request that a thread sends at once; its answer is taken once, or closed.

    Args:
        open_blob: returns the open blob.

    Raises:
        ThreadLimitError: no thread can be started; nothing is requested.
    """

    def __init__(self, open_blob: Callable[[Descriptor], ByteStream], descriptor: Descriptor) -> None:
        self._outcome: SimpleQueue[ByteStream | BaseException] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_unwanted = False
        start_thread(self._open, open_blob, descriptor, name=f"request {descriptor.digest.short}")

    def _open(self, open_blob: Callable[[Descriptor], ByteStream], descriptor: Descriptor) -> None:
        try:
            outcome: ByteStream | BaseException = open_blob(descriptor)
        except BaseException as error:  # every kind: `take` raises it in the caller's thread
            outcome = error
        with self._lock:
            self._outcome.put(outcome)
            if self._is_unwanted:
                self._close_opened()

    def take(self) -> ByteStream:
        """Return the open blob; waits for the answer and raises what the request raised."""
        outcome = self._outcome.get()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def close(self) -> None:
        """Close the answer, now or when it arrives; nothing waits for it."""
        with self._lock:
            self._is_unwanted = True
            self._close_opened()

    def _close_opened(self) -> None:
        if not self._outcome.empty():
            outcome = self._outcome.get_nowait()
            if not isinstance(outcome, BaseException):
                with suppress(OciexportError):
                    outcome.close()
