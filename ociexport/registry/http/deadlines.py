"""Deadlines: the end of connections on which a byte comes now and then, and never what is waited for.

A socket's time-out begins anew with each byte. A server that sends one of its headers each minute, or lines between two
chunks of a body, or one 100 Continue after the other, would keep us for ever; so a thread looks, once in a while,
whether somebody has waited for too long, and shuts the connection down beneath him.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator

from ociexport.registry.http.failures import StalledError
from ociexport.system.threads import start_thread

_MAX_TICK_SECONDS = 1.0


class Deadline:
    """How long somebody has waited on one connection, while it is made and after."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._copy: socket.socket | None = None
        self.has_passed = False
        # When the waiting began; None while nobody does.
        self.since: float | None = None

    @contextlib.contextmanager
    def waiting(self, *, has_begun: bool = True) -> Iterator[None]:
        """Wait, until the ``with`` block ends; where it has not begun, from `take_copy` on.

        Raises:
            StalledError: it took too long.
        """
        if has_begun:
            self.since = time.monotonic()
        try:
            yield
        except Exception as error:
            if self.has_passed:
                raise self._stalled() from error
            raise
        finally:
            self.since = None
            if self._copy is not None:
                self._copy.close()
        self.verify()

    def take_copy(self, opened: socket.socket) -> None:
        """Be about this socket, whose number TLS takes over for one of its own: a copy leads to the same connection."""
        self._socket = self._copy = opened.dup()
        self.since = time.monotonic()

    def take(self, opened: socket.socket) -> None:
        """Be about this socket from now on, which the caller closes in its time."""
        self._socket, self._copy = opened, None

    def pass_now(self) -> None:
        """Shut the connection down."""
        self.has_passed = True
        if self._socket is not None:
            shut_down(self._socket)

    def arrives_within(self, seconds: float) -> bool:
        """Whether there is something to read so soon, be it the end or an error; True where that can't be told."""
        opened = self._socket
        if opened is None or (isinstance(opened, ssl.SSLSocket) and opened.pending()):
            return True
        try:
            waiting = select.poll()
            waiting.register(opened, select.POLLIN)
            return bool(waiting.poll(seconds * 1000))
        except (OSError, ValueError):  # it was closed
            return True

    def verify(self) -> None:
        """Return if it has not passed: what was read of a connection that was shut down may seem to be complete.

        Raises:
            StalledError: it has.
        """
        if self.has_passed:
            raise self._stalled()

    def reason_of(self, error: Exception) -> Exception:
        """Return what a library's ``error`` comes of: of ours, if the connection was shut down."""
        return self._stalled() if self.has_passed else error

    @staticmethod
    def _stalled() -> StalledError:
        return StalledError("stalled: what came, byte by byte, did not come to an end")


class Deadlines:
    """Watches over connections; its thread begins with the first of them.

    Args:
        seconds: for as long somebody may wait.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watched: weakref.WeakSet[Deadline] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self) -> Deadline:
        """Return the deadline of a connection, which counts while it is waited on."""
        deadline = Deadline()
        with self._lock:
            self._watched.add(deadline)
            if self._thread is None:
                self._thread = start_thread(self._run, name="deadlines")
        return deadline

    def stop(self) -> None:
        """End the thread."""
        self._is_over.set()

    def _run(self) -> None:
        while not self._is_over.wait(min(_MAX_TICK_SECONDS, self._seconds / 4)):
            with self._lock:
                watched = list(self._watched)
            for deadline in watched:
                since = deadline.since
                if since is not None and time.monotonic() - since > self._seconds:
                    deadline.pass_now()


def shut_down(opened: socket.socket) -> None:
    """End what other threads read and write there."""
    with contextlib.suppress(OSError):  # it may be closed already
        # A TLS socket's own method would take its state away beneath the thread that reads from it.
        socket.socket.shutdown(opened, socket.SHUT_RDWR)
