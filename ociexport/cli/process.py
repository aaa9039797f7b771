"""What the command decides for its whole process: the standard streams, and how freed memory is treated.

The streams are open, in UTF-8, and named in errors. Memory is the C library's (mallopt(3)).
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OUTPUT_NAME = "standard output"
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 16 * 1024 * 1024
# Chunks of a mebibyte and more come from what was freed, not each from the system.
_LARGE_BYTES = 4 * 1024 * 1024


def prepare_streams() -> None:
    """Make the standard streams ready for a command; streams that a program has put in their place stay.

    1. One that is closed (``>&-``) is opened on nothing, or the next file would get its number, and what is printed
       would be written into it. Reading finds nothing; writing results is an error, since who asked does not get them.
    2. Results are UTF-8 whatever the locale, and names of files the bytes that they are.
    3. What can't be told on standard error any more, since its reader ended or the disk is full, is not told.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):  # 1
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output(1, "wb", closefd=False), errors="surrogateescape")  # 2
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Messages(2, "wb", closefd=False), errors="backslashreplace", line_buffering=True)  # 3


def give_up_output() -> None:
    """Let go of what was not written: the interpreter would try once more when it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # no file at all
        pass


def _text(raw: io.FileIO, *, errors: str, line_buffering: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=line_buffering or raw.isatty()
    )


class _Standard(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of ``data``, also to what who shares it has made non-blocking, as ssh does with a terminal."""
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        while rest:
            written = super().write(rest)
            if written is None:
                import select  # noqa: PLC0415 - start-up: hardly ever needed

                select.select([], [self], [])
            rest = rest[written or 0 :]
        return size


class _Output(_Standard):
    """Standard output, which its errors name."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT_NAME
            raise


class _Messages(_Standard):
    """Standard error; what it does not take is lost, and the work goes on."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def reuse_freed_memory() -> None:
    """Have what is freed kept for the next chunk, up to 16 MiB; called before there are threads.

    An unpack makes and frees a chunk for each mebibyte. glibc gives each thread its own memory and returns what one
    has freed to the system, to fetch it again for the next chunk, page by page: a hundred thousand page faults for an
    image of 2 GB, a tenth of all system time. Another C library goes about it in its own way.
    """
    import ctypes  # noqa: PLC0415 - start-up: only unpack needs it

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # The first two would otherwise follow what the program does; one alone set ends that for both.
    for setting, value in ((_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_ARENA_MAX, 1)):
        mallopt(setting, value)
