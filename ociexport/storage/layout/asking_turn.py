"""AskingTurn: which process or thread may request blobs of a layout before they have files there."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time

# A turn lasts a round trip: from a manifest to its config.
_TURN_SECONDS = 0.5
_POLL_SECONDS = 0.01


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


def take_asking_turn(path: str) -> AskingTurn | None:
    """Return the turn of the layout at ``path``; None if another process or thread keeps it, or nothing can be told.

    Who had the turn before has files for its blobs, or has ended. Nothing is written, since an image that is refused
    leaves no layout: the lock is a name in Linux's abstract socket namespace, which ends with the process. Where it is
    no lock, as between containers, a blob may be requested twice, and is received once.
    """
    place = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
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
