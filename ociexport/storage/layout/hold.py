"""Locks of whole layouts: one that every user shares, and the turn to request blobs before their files exist.

Only a user that holds the first alone may tidy up.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
import weakref
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from ociexport.storage.layout.blobs import OWN_DIRECTORY
from ociexport.storage.layout_directory import LayoutDirectory

if TYPE_CHECKING:
    import socket

USERS_FILE = f"{OWN_DIRECTORY}/users"
# A turn lasts a round trip: from a manifest to its config.
_TURN_SECONDS = 0.5
_POLL_SECONDS = 0.01


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


class AskingTurn:
    """The turn to request blobs of a layout before they have files there, which keep others from requesting them.

    Args:
        name: a socket that has a name; closed with the turn.
    """

    def __init__(self, name: socket.socket) -> None:
        self._name = name

    def close(self) -> None:
        """Let another have the turn; may be called again."""
        self._name.close()


def take_asking_turn(directory: LayoutDirectory) -> AskingTurn | None:
    """Return the turn of a layout; None if another process or thread keeps it for a while, or there are no such names.

    Who had the turn before has files for its blobs, or has ended. Nothing is written, since an image that is refused
    leaves no layout: the lock is a name in Linux's abstract socket namespace, which ends with the process. Where it is
    no lock, as between containers, a blob may be requested twice, and is received once.
    """
    import socket  # noqa: PLC0415 - start-up: what reads a layout does without

    place = hashlib.sha256(os.fsencode(os.path.realpath(directory.path))).hexdigest()
    deadline = time.monotonic() + _TURN_SECONDS
    try:
        name = socket.socket(socket.AF_UNIX)
    except OSError:  # a sandbox without such sockets
        return None
    while True:
        try:
            name.bind(f"\0ociexport {os.geteuid()} {place}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            name.close()
            return None
        return AskingTurn(name)


def _open_shared(directory: LayoutDirectory) -> int:
    while True:
        directory.make_directory(OWN_DIRECTORY)
        with suppress(FileNotFoundError):  # another user has just removed the directory
            return directory.open_locked(USERS_FILE, shared=True)
