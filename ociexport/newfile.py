"""A file that appears under its name when it is complete, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO


@contextmanager
def new_file(path: str) -> Iterator[BinaryIO]:
    """Give a file that takes the name ``path``, and the place of what has it, when the ``with`` block ends well.

    It is written beside ``path``, synced and renamed; after an error it is gone.

    Raises:
        OSError: the directory is not there or may not be written.
    """
    directory, name = os.path.split(os.path.abspath(path))
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{name[:200]}.partial-", dir=directory)
    except OSError as error:
        # Not the name that it would have had until it is complete.
        error.filename = path
        raise
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
