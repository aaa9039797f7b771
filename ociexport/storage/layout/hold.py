"""Who writes to a layout: many may at once, and only who is alone tidies up."""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import closing, suppress

from ociexport.storage.layout_directory import LayoutDirectory


class LayoutHold:
    """Keeps a layout from being tidied away by other threads and processes, until it is closed.

    Args:
        directory: of the layout.
        name: of the lock file in it; it and its directory are made. Whoever is tidying up is waited for.
    """

    def __init__(self, directory: LayoutDirectory, name: str) -> None:
        self._fd = _open_shared(directory, name)
        self._closer = weakref.finalize(self, os.close, self._fd)

    def is_alone(self) -> bool:
        """Whether nobody else holds the layout; if so, nobody will before this is closed."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody does, or the file system has no locks and nobody can know
            return False
        return True

    def close(self) -> None:
        """Let go; may be called again."""
        self._closer()


def is_held(directory: LayoutDirectory, name: str) -> bool:
    """Whether somebody holds the layout whose lock file has this name; nothing is written to find out."""
    try:
        file = directory.open_file(name)
    except FileNotFoundError:
        return False
    with closing(file):
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # as in `LayoutHold.is_alone`
            return True
    return False


def _open_shared(directory: LayoutDirectory, name: str) -> int:
    while True:
        directory.make_directory(os.path.dirname(name))
        with suppress(FileNotFoundError):  # the directory was tidied away meanwhile
            return directory.open_locked(name, shared=True)
