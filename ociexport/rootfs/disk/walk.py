"""Walks a tree on disk by descriptor, never through a link out of the tree.

`Descent` goes down a tree and up again, at any depth, with a few open directories. `open_regular_file` opens a file by
its path and resolves links within the root as in a chroot, link by link. The kernel's openat2 could do that in one
call, but for two files per run, one implementation that works everywhere is better than two.

Spec: path_resolution(7).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from contextlib import closing

from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, OPEN_FILE, change_mode
from ociexport.rootfs.disk.readable import missing_bits
from ociexport.system.open_files import keepable_files

# Ancestors of the current directory that stay open, if the process may open so many files; deeper ones are reopened
# through "..".
_MAX_HELD = 64
# As many as Linux follows (path_resolution(7)).
_MAX_LINKS_FOLLOWED = 40


class Descent:
    """A position in a tree.

    Args:
        root_fd: the first directory; closed by the caller.
        opens_own: a directory of this user's is entered even if its mode closes it; `leave` sets the mode back.

    Attributes:
        fd: of the current directory; valid until the next call.
    """

    def __init__(self, root_fd: int, *, opens_own: bool = False) -> None:
        self.fd = os.dup(root_fd)
        self._opens_own = opens_own
        # Name and mode of each entered directory whose mode was changed; None for the others.
        self._changed: list[tuple[bytes, int] | None] = []
        self._held: list[int] = []
        self._max_held = keepable_files(_MAX_HELD)
        # Device and inode of ancestors that are not open.
        self._closed: list[tuple[int, int]] = []

    def enter(self, name: bytes) -> None:
        """Go down into a subdirectory.

        Raises:
            OSError: it is not a directory, or can't be read; the current directory stays the same.
        """
        changed = self._open_own(name) if self._opens_own else None
        try:
            child_fd = os.open(name, OPEN_DIRECTORY, dir_fd=self.fd)
        except OSError:
            if changed is not None:
                change_mode(self.fd, *changed)
            raise
        self._changed.append(changed)
        if len(self._held) < self._max_held:
            self._held.append(self.fd)
        else:
            self._closed.append(_identity(self.fd))
            os.close(self.fd)
        self.fd = child_fd

    def leave(self) -> None:
        """Go up to the directory from which the current one was entered.

        Raises:
            OSError: the current directory was moved elsewhere meanwhile.
        """
        changed = self._changed.pop()
        self._go_up()
        if changed is not None:
            change_mode(self.fd, *changed)

    def _go_up(self) -> None:
        if not self._closed:
            os.close(self.fd)
            self.fd = self._held.pop()
            return
        parent_fd = os.open("..", OPEN_DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = parent_fd
        if _identity(parent_fd) != self._closed.pop():
            raise OSError(errno.ESTALE, "a directory was moved while the tree was read")

    def _open_own(self, name: bytes) -> tuple[bytes, int] | None:
        """Let the owner of a directory look into it; return its name and its mode if that had to be changed."""
        status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        missing = missing_bits(self.fd, name, status)
        if not missing:
            return None
        mode = stat.S_IMODE(status.st_mode)
        change_mode(self.fd, name, mode | missing)
        return name, mode

    def close(self) -> None:
        """Close all open directories, and set back the modes that were changed."""
        try:
            while any(self._changed):
                self.leave()
        finally:
            for fd in (self.fd, *self._held):
                os.close(fd)
            self._held.clear()


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def open_regular_file(root_fd: int, path: bytes) -> int:
    """Return a descriptor of the regular file at ``path`` in the tree at ``root_fd``; closed by the caller.

    Only regular files are opened: opening a device can have side effects, such as starting a watchdog. The type is
    checked before the file is opened, so no other process may change the tree meanwhile.

    Raises:
        OSError: the file does not exist, is not regular, or has more links on its path than Linux follows.
    """
    remaining = deque(path.split(b"/"))
    depth = links_followed = 0
    with closing(Descent(root_fd)) as place:
        while remaining:
            part = remaining.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                # As in a chroot, the root's ".." is the root itself.
                if depth:
                    place.leave()
                    depth -= 1
                continue
            status = os.stat(part, dir_fd=place.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                links_followed += 1
                if links_followed > _MAX_LINKS_FOLLOWED:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(part, dir_fd=place.fd)
                if target.startswith(b"/"):
                    for _ in range(depth):
                        place.leave()
                    depth = 0
                remaining.extendleft(reversed(target.split(b"/")))
            elif not remaining and stat.S_ISREG(status.st_mode):
                return os.open(part, OPEN_FILE, dir_fd=place.fd)
            elif stat.S_ISDIR(status.st_mode):
                place.enter(part)
                depth += 1
            else:
                break
    raise OSError(errno.EINVAL, "not a regular file", path)
