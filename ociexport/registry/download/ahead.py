"""OpenedAhead: a blob that was requested before its turn, so that its first bytes arrive meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from ociexport.errors import OciexportError
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream
from ociexport.system.threads import start_thread


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
