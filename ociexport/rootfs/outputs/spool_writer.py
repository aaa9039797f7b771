"""Writes the spool in a thread: writing releases the interpreter lock, so more files are read meanwhile.

Where large files need not be copied, their data goes past the spool to the place in the image where it stays.
"""

from __future__ import annotations

import os
from queue import SimpleQueue

from ociexport.system.read_ahead import room_for
from ociexport.system.threads import start_thread

# Pieces that wait for one call.
_BUFFER_BYTES = 1024 * 1024
# IOV_MAX of Linux: how many pieces one call writes.
_MAX_PIECES = 1024
# Calls that wait for the thread, which bounds the memory.
_DEPTH = 2
_COPIED_BYTES = 4096

_Pieces = list[memoryview]
# A file, pieces for it that follow one another, and where the first belongs.
_Batch = tuple[int, _Pieces, int]


class AppendedFile:
    """A file that pieces are appended to.

    Attributes:
        end: where the next piece begins, after those that wait.
    """

    def __init__(self, fd: int, end: int, writer: SpoolWriter) -> None:
        self.fd = fd
        self.end = end
        self.pieces: _Pieces = []
        self._writer = writer

    def append(self, piece: memoryview) -> None:
        """Append a piece, which must not be changed afterwards.

        Raises:
            OSError: this piece or one before it could not be written.
        """
        size = len(piece)
        # A piece keeps its chunk of a mebibyte in memory, and many small ones may come from as many chunks.
        self.pieces.append(memoryview(bytes(piece)) if size < _COPIED_BYTES else piece)
        self.end += size
        writer = self._writer
        writer.waiting_bytes += size
        if writer.waiting_bytes >= _BUFFER_BYTES or len(self.pieces) >= _MAX_PIECES:
            writer.pass_on()

    def take(self) -> _Batch:
        """Return the pieces that wait, which wait no longer."""
        pieces, self.pieces = self.pieces, []
        return self.fd, pieces, self.end - sum(map(len, pieces))


class SpoolWriter:
    """Writes a spool, and the data of large files into an image. A large piece of either keeps a chunk in memory.

    Args:
        fd: the spool, empty; the caller closes it after `close`.
        image_fd: the image, also empty; None to write only the spool.
        image_begin: where data begins in the image.

    Attributes:
        spool: the spool.
        image: the image; None if there is only the spool.
        waiting_bytes: how much waits in both together.
    """

    def __init__(self, fd: int, image_fd: int | None = None, image_begin: int = 0) -> None:
        self.spool = AppendedFile(fd, 0, self)
        self.image = None if image_fd is None else AppendedFile(image_fd, image_begin, self)
        self.waiting_bytes = 0
        self._files = [self.spool] if self.image is None else [self.spool, self.image]
        self._free = room_for(_DEPTH)
        self._waiting: SimpleQueue[list[_Batch] | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = start_thread(self._run, name="spool")

    def pass_on(self) -> None:
        """Give what waits to the thread.

        Raises:
            OSError: a piece given before could not be written.
        """
        self._free.get()
        self._raise_failure()
        self._waiting.put([file.take() for file in self._files if file.pieces])
        self.waiting_bytes = 0

    def finish(self) -> None:
        """Return when everything is written.

        Raises:
            OSError: a piece could not be written.
        """
        self.pass_on()
        self.close()
        self._raise_failure()

    def close(self) -> None:
        """End the thread; what was not passed on to it is not written."""
        self._waiting.put(None)
        self._thread.join()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            try:
                if self._failure is None:
                    _write_batches(waiting)
            except BaseException as error:  # every kind: `finish` raises it
                self._failure = error
            del waiting
            self._free.put(None)


def _write_batches(batches: list[_Batch]) -> None:
    for batch in batches:
        _write_pieces(*batch)


def _write_pieces(fd: int, pieces: _Pieces, offset: int) -> None:
    """Write the pieces one behind the other; after a short write on a full disk, the next write raises the error."""
    while pieces:
        count = os.pwritev(fd, pieces, offset)
        offset += count
        if count == sum(map(len, pieces)):
            return
        rest = memoryview(b"".join(pieces))[count:]
        pieces = [rest] if rest else []
