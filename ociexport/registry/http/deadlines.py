"""Deadlines: shutting down connections that deliver single bytes and never the awaited answer.

A socket's timeout starts again with each byte. A server that sends a header each minute, lines between two chunks of a
body, or an endless row of 100 Continue would keep us waiting for ever. A thread therefore checks regularly how long
other threads have waited on each connection, and shuts down connections over the limit.
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
    """How long a thread has been waiting on one connection, during and after the handshake."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._copy: socket.socket | None = None
        self.has_passed = False
        # When the current wait began; None while no thread waits.
        self.since: float | None = None

    @contextlib.contextmanager
    def waiting(self, *, has_begun: bool = True) -> Iterator[None]:
        """Count the time until the ``with`` block ends; if the wait has not begun, from `take_copy` on.

        Raises:
            StalledError: the wait took too long.
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
        """Watch a copy of this socket from now on: TLS takes over the original; the copy has the same connection."""
        if self._copy is not None:
            self._copy.close()
        self._socket = self._copy = opened.dup()
        self.since = time.monotonic()

    def take(self, opened: socket.socket) -> None:
        """Watch this socket from now on; the caller closes it."""
        self._socket, self._copy = opened, None

    def pass_now(self) -> None:
        """Mark the deadline as passed, and shut the connection down."""
        self.has_passed = True
        if self._socket is not None:
            shut_down(self._socket)

    def arrives_within(self, seconds: float) -> bool:
        """Whether bytes, the end or an error can be read within ``seconds``; True if that can't be determined."""
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
        """Return if the deadline has not passed: what a shut-down connection delivered may look complete.

        Raises:
            StalledError: the deadline has passed.
        """
        if self.has_passed:
            raise self._stalled()

    def reason_of(self, error: Exception) -> Exception:
        """Return the true cause of a library's ``error``: a StalledError if this deadline shut the connection down."""
        return self._stalled() if self.has_passed else error

    @staticmethod
    def _stalled() -> StalledError:
        return StalledError("stalled: the answer came byte by byte and did not end")


class Deadlines:
    """Watches connections in a thread, which starts with the first of them.

    Args:
        seconds: the longest time that a thread may wait on a connection.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watched: weakref.WeakSet[Deadline] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self) -> Deadline:
        """Return the deadline for a new connection; its time counts while a thread waits."""
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
    """Shut down the connection of a socket, which ends the reads and writes of all threads."""
    with contextlib.suppress(OSError):  # it may be closed already
        # The method of `ssl.SSLSocket` would drop the TLS state while another thread still reads.
        socket.socket.shutdown(opened, socket.SHUT_RDWR)
