"""Copies data from the spool to an image in a thread: copying releases the interpreter lock."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from ociexport.system.file_ranges import copy_range
from ociexport.system.threads import start_thread

# Copies are passed to the thread in parcels of so many, three numbers each, which take less memory than tuples.
_PARCEL = 64


@contextmanager
def copying(spool_fd: int, fd: int) -> Iterator[Copies]:
    """Give what takes copies while the ``with`` block runs; at its end, all are made.

    Args:
        spool_fd: where the data is.
        fd: the image.

    Raises:
        OSError: something could not be copied.
    """
    copies = Copies(spool_fd, fd)
    try:
        yield copies
    except BaseException:
        copies.stop()
        raise
    copies.finish()


class Copies:
    """The copies of one image, made in a thread."""

    def __init__(self, spool_fd: int, fd: int) -> None:
        self._spool_fd = spool_fd
        self._fd = fd
        self._failure: BaseException | None = None
        self._is_stopped = False
        # The last one, to which the next may belong.
        self._spool_offset = self._offset = self._size = 0
        self._parcel = array("Q")
        self._waiting: SimpleQueue[array[int] | None] = SimpleQueue()
        self._thread = start_thread(self._run, name="copy")

    def add(self, spool_offset: int, offset: int, size: int) -> None:
        """Copy ``size`` bytes from one offset to the other; those that follow the last ones are copied with them."""
        if spool_offset == self._spool_offset + self._size and offset == self._offset + self._size:
            self._size += size
            return
        self._keep_last()
        self._spool_offset, self._offset, self._size = spool_offset, offset, size
        if len(self._parcel) >= 3 * _PARCEL:
            self._waiting.put(self._parcel)
            self._parcel = array("Q")

    def finish(self) -> None:
        """Return when all copies are made.

        Raises:
            OSError: something could not be copied.
        """
        self._keep_last()
        self._waiting.put(self._parcel)
        self._end()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the thread; what waits is not copied."""
        self._is_stopped = True
        self._end()

    def _keep_last(self) -> None:
        if self._size:
            self._parcel.extend((self._spool_offset, self._offset, self._size))

    def _end(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (parcel := self._waiting.get()) is not None:
                numbers = iter(parcel)
                for spool_offset, offset, size in zip(numbers, numbers, numbers, strict=True):
                    if self._is_stopped:
                        return
                    copy_range(self._spool_fd, spool_offset, self._fd, offset, size)
        except BaseException as error:  # every kind: `finish` raises it
            self._failure = error
