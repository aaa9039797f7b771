"""A way down a tree and up again: never through a link, at any depth, with a handful of open directories."""

from __future__ import annotations

import errno
import os

# Directories above the current one that stay open; what is deeper is found again by its "..".
_MAX_HELD = 64
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Descent:
    """Where somebody is in a tree.

    Args:
        root_fd: where they begin; stays the caller's.

    Attributes:
        fd: of the current directory; good until the next call.
    """

    def __init__(self, root_fd: int) -> None:
        self.fd = os.dup(root_fd)
        self._held: list[int] = []
        # Device and inode of those that are not open.
        self._closed: list[tuple[int, int]] = []

    def enter(self, name: bytes) -> None:
        """Go down into a directory.

        Raises:
            OSError: it is none, or can't be read; the current one stays.
        """
        child_fd = os.open(name, _OPEN_DIRECTORY, dir_fd=self.fd)
        if len(self._held) < _MAX_HELD:
            self._held.append(self.fd)
        else:
            self._closed.append(_identity(self.fd))
            os.close(self.fd)
        self.fd = child_fd

    def leave(self) -> None:
        """Go up again, to the very directory that was left.

        Raises:
            OSError: the current one was moved elsewhere meanwhile.
        """
        if not self._closed:
            os.close(self.fd)
            self.fd = self._held.pop()
            return
        parent_fd = os.open("..", _OPEN_DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = parent_fd
        if _identity(parent_fd) != self._closed.pop():
            raise OSError(errno.ESTALE, "a directory was moved while the tree was read")

    def close(self) -> None:
        """Close all that is open."""
        for fd in (self.fd, *self._held):
            os.close(fd)
        self._held.clear()


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
