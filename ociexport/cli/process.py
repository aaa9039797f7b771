"""Settings of the whole process: the standard streams, and how the C library treats freed memory (mallopt(3))."""

from __future__ import annotations

import codecs
import io
import os
import sys

from ociexport.errors import escaped

# Type checkers take it for true. The one of `typing` would cost `ociexport --version` a tenth of its time.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OUTPUT_NAME = "standard output"
_BYTES_SHOWN = "ociexport-bytes-shown"
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 16 * 1024 * 1024
# Chunks of a mebibyte and more are taken from freed memory, not requested from the system each time.
_LARGE_BYTES = 4 * 1024 * 1024


def prepare_streams() -> None:
    """Make the standard streams ready for a command; streams that a program has replaced stay as they are.

    1. A closed stream (``>&-``) is opened on /dev/null. Otherwise the next file would get its number, and output would
       be written into that file. Reading from it finds nothing; writing results to it is an error, because they would
       be lost.
    2. Results are UTF-8 whatever the locale, and file names are written as the bytes that they are.
    3. Messages show a byte of a file name that is not UTF-8 as ``\\xNN``.
    4. Messages that standard error does not accept, because its reader has ended or the disk is full, are dropped.
    """
    codecs.register_error(_BYTES_SHOWN, _show_bytes)
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
        sys.stderr = _text(_Messages(2, "wb", closefd=False), errors=_BYTES_SHOWN, line_buffering=True)  # 3, 4


def _show_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return escaped(error.object[error.start : error.end]), error.end


def give_up_output() -> None:
    """Discard the output that was not written; the interpreter would try to write it again when it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # standard output is not a file
        pass


def _text(raw: io.FileIO, *, errors: str, line_buffering: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=line_buffering or raw.isatty()
    )


class _Standard(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of ``data``, also if another process made the stream non-blocking, as ssh does to a terminal."""
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        while rest:
            written = super().write(rest)
            if written is None:
                import select  # noqa: PLC0415 - start-up: rarely needed

                select.select([], [self], [])
            rest = rest[written or 0 :]
        return size


class _Output(_Standard):
    """Standard output; its errors name it."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = OUTPUT_NAME
            raise


class _Messages(_Standard):
    """Standard error; a message that can't be written is dropped, and the work goes on."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def reuse_freed_memory() -> None:
    """Make the C library keep up to 16 MiB of freed memory for the next chunk; call it before starting threads.

    An unpack allocates and frees a chunk for each mebibyte. By default glibc gives each thread its own memory, returns
    freed memory to the system, and requests it again for the next chunk, page by page: a hundred thousand page faults
    for an image of 2 GB, a tenth of all system time. Another C library without mallopt keeps its own ways.
    """
    import ctypes  # noqa: PLC0415 - start-up: only unpack needs it

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # By default glibc adjusts the first two as the program runs; setting either one ends that for both, so set both.
    for setting, value in ((_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_MMAP_THRESHOLD, _LARGE_BYTES), (_M_ARENA_MAX, 1)):
        mallopt(setting, value)
