"""Copies data from the spool to an image in a thread: copying releases the interpreter lock."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ociexport.rootfs.outputs.flat_image import Extent
from ociexport.system.file_ranges import copy_range
from ociexport.system.threads import start_thread


@contextmanager
def copying(spool_fd: int, fd: int, pieces: Iterable[tuple[Extent, int]]) -> Iterator[None]:
    """Copy data while the ``with`` block runs; at its end, all is copied.

    Args:
        spool_fd: where the data is.
        fd: the image.
        pieces: each piece of data, and its offset in the image; read before the copying begins.

    Raises:
        OSError: something could not be copied.
    """
    copies = _Copies(spool_fd, fd, pieces)
    try:
        yield
    except BaseException:
        copies.is_stopped = True
        raise
    finally:
        copies.thread.join()
    if copies.failure is not None:
        raise copies.failure


class _Copies:
    """The copies of one image.

    Attributes:
        failure: the error of the first copy that failed.
        is_stopped: set when no more copies are wanted.
    """

    def __init__(self, spool_fd: int, fd: int, pieces: Iterable[tuple[Extent, int]]) -> None:
        self.failure: OSError | None = None
        self.is_stopped = False
        self._spool_fd = spool_fd
        self._fd = fd
        # Three numbers for each copy: less memory than tuples.
        self._numbers = array("Q")
        for copy in _joined(pieces):
            self._numbers.extend(copy)
        self.thread = start_thread(self._run, name="copy")

    def _run(self) -> None:
        numbers = iter(self._numbers)
        try:
            for spool_offset, offset, size in zip(numbers, numbers, numbers, strict=True):
                if self.is_stopped:
                    return
                copy_range(self._spool_fd, spool_offset, self._fd, offset, size)
        except OSError as error:
            self.failure = error


def _joined(pieces: Iterable[tuple[Extent, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield offset in the spool, offset in the image and size of each copy; pieces that follow one another are one."""
    spool_offset = offset = size = 0
    for extent, place in pieces:
        if extent.spool_offset == spool_offset + size and place == offset + size:
            size += extent.size
            continue
        if size:
            yield spool_offset, offset, size
        spool_offset, offset, size = extent.spool_offset, place, extent.size
    if size:
        yield spool_offset, offset, size
