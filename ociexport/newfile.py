"""A file that appears under its name when it is complete, or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


@contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """Give a file that takes the name ``path``, and the place of what has it, when the ``with`` block ends well.

    It is written beside ``path``, synced and renamed; after an error it is gone. What `is_stream` is written to as it
    stands: else ``/dev/null`` would be a file from then on, if root named it.

    Raises:
        OSError: the directory is not there or may not be written.
    """
    if is_stream(path):
        with open_stream(path) as file:
            yield file
        return
    directory, name = os.path.split(os.path.abspath(path))
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{name[:200]}.partial-", dir=directory)
    except OSError as error:
        # Not the name that it would have had until it is complete.
        error.filename = path
        raise
    with _renamed_to(path, fd, temporary) as file:
        yield file


@contextmanager
def replaced_file(path: str, *, aside: str) -> Iterator[BinaryIO]:
    """The same of a file that is in any case one, written in the directory ``aside``; the name is synced too."""
    directory, name = os.path.split(path)
    fd, temporary = tempfile.mkstemp(prefix=f"{name}.", dir=aside)
    with _renamed_to(path, fd, temporary) as file:
        yield file
    sync_directory(directory)


@contextmanager
def _renamed_to(path: str, fd: int, temporary: str) -> Iterator[BinaryIO]:
    try:
        with open(fd, "wb", buffering=1024 * 1024) as file:
            yield file
            file.flush()
            os.fchmod(fd, 0o644)
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def sync_directory(path: str) -> None:
    """Have the names in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_stream(path: str) -> BinaryIO:
    """Return what `is_stream` is true of, open for writing; the caller closes it.

    What is written goes behind what is there: standard output may be a file that the shell appends to.
    """
    return open(path, "ab")


def is_stream(path: str) -> bool:
    """Whether no file may take the place of ``path``: it is a pipe, a device, or, as ``/dev/stdout``, an open file."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    if stat.S_ISREG(mode):
        # The kernel's links to what a process has open; others are replaced, and never followed.
        target = os.readlink(path) if os.path.islink(path) else ""
        return target.startswith("/proc/") or os.path.realpath(os.path.dirname(path)).startswith("/proc/")
    return not stat.S_ISDIR(mode)
