"""Who writes to a layout: many may at once, and only who is alone tidies up."""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import suppress

from ociexport.locked_file import open_locked


class LayoutHold:
    """Keeps a layout from being tidied away by other threads and processes, until it is closed.

    Args:
        path: of the lock file; it and its directory are made. Whoever is tidying up is waited for.
    """

    def __init__(self, path: str) -> None:
        self._fd = _open_shared(path)
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


def is_held(path: str) -> bool:
    """Whether somebody holds the layout whose lock file is at ``path``; nothing is written to find out."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # as in `LayoutHold.is_alone`
        return True
    finally:
        os.close(fd)
    return False


def _open_shared(path: str) -> int:
    while True:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with suppress(FileNotFoundError):  # the directory was tidied away meanwhile
            return open_locked(path, shared=True)
