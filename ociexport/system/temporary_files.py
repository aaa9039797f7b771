"""Temporary files: if none can be made, the error is about this machine and not about an image."""

from __future__ import annotations

import errno
import os
from io import FileIO
from typing import TYPE_CHECKING

from ociexport.errors import OciexportError

# Imported in each function, for start-up: it brings what makes archives, and few commands need a temporary file.
if TYPE_CHECKING:
    import tempfile

# Errors of a full disk, which have a better hint of their own.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class TemporaryFileError(OciexportError, OSError):
    """The directory for temporary files is missing or full, or may not be written to.

    It is not a `FileNotFoundError` even if the directory is missing, since the user did not name that directory.
    """

    def __init__(self, error: OSError) -> None:
        """Add the directory to ``error``."""
        hint = None if error.errno in _FULL else "set TMPDIR to a directory that has room for temporary files"
        super().__init__(str(error), hint=hint)
        self.errno, self.strerror = error.errno or errno.EIO, error.strerror or str(error)
        self.filename = _directory_name()


def open_temporary_file() -> FileIO:
    """Return a temporary file without a name; the caller closes it.

    Raises:
        TemporaryFileError: it can't be made.
    """
    import tempfile  # noqa: PLC0415 - see above

    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        # If no directory is usable, Python raises FileNotFoundError, which callers take for a missing image.
        raise TemporaryFileError(error) from error


def append_whole(file: FileIO, data: bytes | memoryview) -> None:
    """Write all of ``data`` to a temporary file, at its position.

    Raises:
        TemporaryFileError: there is no room.
    """
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) or 0 :]
    except OSError as error:
        raise TemporaryFileError(error) from error


def open_temporary_file_in(directory: str) -> FileIO:
    """Return a temporary file without a name in a directory that the user named; the caller closes it.

    Raises:
        OSError: it can't be made.
    """
    import tempfile  # noqa: PLC0415 - see above

    return tempfile.TemporaryFile(buffering=0, dir=directory)


def make_temporary_directory_in(directory: str) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary directory, which its ``cleanup`` removes, in a directory that the user named.

    Raises:
        OSError: it can't be made.
    """
    import tempfile  # noqa: PLC0415 - see above

    return tempfile.TemporaryDirectory(dir=directory)


def make_temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary directory, which its ``cleanup`` removes.

    Raises:
        TemporaryFileError: it can't be made.
    """
    import tempfile  # noqa: PLC0415 - see above

    try:
        return tempfile.TemporaryDirectory(prefix="ociexport-")
    except OSError as error:
        raise TemporaryFileError(error) from error


def _directory_name() -> str:
    """Return the directory for temporary files, even if it does not exist."""
    import tempfile  # noqa: PLC0415 - see above

    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - only for the message
