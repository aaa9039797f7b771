"""Writes the spool in a thread: writing releases the interpreter lock, so more files are read meanwhile."""

from __future__ import annotations

import os
from queue import SimpleQueue

from ociexport.system.threads import start_thread

# Pieces that wait for one call.
_BUFFER_BYTES = 1024 * 1024
# IOV_MAX of Linux: how many pieces one call writes.
_MAX_PIECES = 1024
# Calls that wait for the thread, which bounds the memory.
_DEPTH = 2

_Pieces = list[memoryview]


class SpoolWriter:
    """Appends pieces to a file.

    Args:
        fd: the file, empty; the caller closes it after `close`.

    Attributes:
        end: the size of the file, with the pieces that wait.
    """

    def __init__(self, fd: int) -> None:
        self.end = 0
        self._fd = fd
        self._pieces: _Pieces = []
        self._piece_bytes = 0
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(_DEPTH):
            self._free.put(None)
        self._waiting: SimpleQueue[tuple[_Pieces, int] | None] = SimpleQueue()
        self._failure: OSError | None = None
        self._thread = start_thread(self._run, name="spool")

    def append(self, piece: memoryview) -> None:
        """Append a piece, which must not be changed afterwards.

        Raises:
            OSError: this piece or one before it could not be written.
        """
        self._pieces.append(piece)
        self._piece_bytes += len(piece)
        self.end += len(piece)
        if self._piece_bytes >= _BUFFER_BYTES or len(self._pieces) >= _MAX_PIECES:
            self._pass_on()

    def finish(self) -> None:
        """Return when everything is written.

        Raises:
            OSError: a piece could not be written.
        """
        self._pass_on()
        self.close()
        self._raise_failure()

    def close(self) -> None:
        """End the thread; what was not passed on to it is not written."""
        self._waiting.put(None)
        self._thread.join()

    def _pass_on(self) -> None:
        self._free.get()
        self._raise_failure()
        self._waiting.put((self._pieces, self.end - self._piece_bytes))
        self._pieces, self._piece_bytes = [], 0

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            try:
                if self._failure is None:
                    _write_pieces(self._fd, *waiting)
            except OSError as error:
                self._failure = error
            del waiting
            self._free.put(None)


def _write_pieces(fd: int, pieces: _Pieces, offset: int) -> None:
    """Write the pieces one behind the other; after a short write on a full disk, the next write raises the error."""
    while pieces:
        count = os.pwritev(fd, pieces, offset)
        offset += count
        if count == sum(map(len, pieces)):
            return
        rest = memoryview(b"".join(pieces))[count:]
        pieces = [rest] if rest else []
