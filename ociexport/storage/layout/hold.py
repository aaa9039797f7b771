"""The lock that every user of a layout shares; only a user that holds it alone may tidy up."""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import closing, suppress

from ociexport.storage.layout.blobs import OWN_DIRECTORY
from ociexport.storage.layout_directory import LayoutDirectory

USERS_FILE = f"{OWN_DIRECTORY}/users"
# Before the mark of a run; see `namer`. Only a user that holds the layout has such a file.
NAMER_FILE = f"{OWN_DIRECTORY}/namer."
# Each is lost only to another user who removes the layout at that moment.
_TRIES = 1000


class LayoutHold:
    """Keeps other threads and processes from tidying up a layout, until it is closed.

    Args:
        directory: of the layout; the lock file and its directory are made. If another user is tidying up, this waits.
    """

    def __init__(self, directory: LayoutDirectory) -> None:
        self._fd = _open_shared(directory)
        self._closer = weakref.finalize(self, os.close, self._fd)

    def is_alone(self) -> bool:
        """Whether no other user holds the layout; if so, no other can before this is closed."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another user holds it, or the file system has no locks and the answer is unknown
            return False
        return True

    def close(self) -> None:
        """Release the layout; may be called again."""
        self._closer()


def is_held(directory: LayoutDirectory) -> bool:
    """Whether any user holds the layout; nothing is written to find out."""
    try:
        file = directory.open_file(USERS_FILE)
    except FileNotFoundError:
        return False
    with closing(file):
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # as in `LayoutHold.is_alone`
            return True
    return False


def _open_shared(directory: LayoutDirectory) -> int:
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):  # another user has just removed the directory, or is removing it
            return _open_once(directory)
    return _open_once(directory)


def _open_once(directory: LayoutDirectory) -> int:
    directory.make_directory(OWN_DIRECTORY)
    return directory.open_locked(USERS_FILE, shared=True)
