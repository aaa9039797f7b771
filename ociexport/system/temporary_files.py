"""Temporary files: where none can be had, that is this machine's fault, and no image's."""

from __future__ import annotations

import errno
import os
import tempfile
from io import FileIO

from ociexport.errors import OciexportError

# What a full disk says has a better hint of its own.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class TemporaryFileError(OciexportError, OSError):
    """The directory for temporary files is missing or full, or may not be written to.

    It is no `FileNotFoundError` where the directory is missing: what was not found then is not what the user named.
    """

    def __init__(self, error: OSError) -> None:
        """Say of ``error`` which directory it is about."""
        hint = None if error.errno in _FULL else "set TMPDIR to a directory that has room for temporary files"
        super().__init__(str(error), hint=hint)
        self.errno, self.strerror = error.errno or errno.EIO, error.strerror or str(error)
        self.filename = _directory_name()


def open_temporary_file() -> FileIO:
    """Return a file without a name; the caller closes it.

    Raises:
        TemporaryFileError: none can be made.
    """
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        # Where no directory will do, Python says so as a file that was not found, which would be the image to a caller.
        raise TemporaryFileError(error) from error


def make_temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a directory that is removed when it is cleaned up.

    Raises:
        TemporaryFileError: none can be made.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="ociexport-")
    except OSError as error:
        raise TemporaryFileError(error) from error


def _directory_name() -> str:
    """Return the directory that was meant, also where there is none."""
    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - only told
