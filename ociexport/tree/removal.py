"""Removing trees by descriptor: never through a link, at any depth, with a handful of open files."""

from __future__ import annotations

import os
import stat

# Deeper directories are first moved up, so that neither descriptors nor the stack grow with the depth of a tree.
_MAX_DESCENT = 32
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Remove whatever stands under ``name`` in the directory ``parent_fd``; nothing is followed out of it.

    Directories that their owner may not write are made writable first, as an ordinary user's unpacked images have them.

    Raises:
        OSError: something can't be removed; the rest may be gone.
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except OSError:
        # Linux says EISDIR, others EPERM; where it is no directory after all, the error was the true one.
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            raise
        _Remover(parent_fd, name).run()


class _Remover:
    """Removes one directory; those that are too deep are moved into it and removed afterwards."""

    def __init__(self, parent_fd: int, name: bytes) -> None:
        self._parent_fd = parent_fd
        self._name = name
        self._moved = 0

    def run(self) -> None:
        top_fd = _open_writable(self._parent_fd, self._name)
        try:
            while names := os.listdir(top_fd):
                for name in names:
                    self._remove(top_fd, os.fsencode(name), top_fd, _MAX_DESCENT)
        finally:
            os.close(top_fd)
        os.rmdir(self._name, dir_fd=self._parent_fd)

    def _remove(self, directory_fd: int, name: bytes, top_fd: int, descent_left: int) -> None:
        try:
            os.unlink(name, dir_fd=directory_fd)
        except FileNotFoundError:
            return
        except OSError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode):
                raise
        else:
            return
        fd = _open_writable(directory_fd, name)
        try:
            if not descent_left:
                self._move_up(fd, directory_fd, name, top_fd)
                return
            for child in os.listdir(fd):
                self._remove(fd, os.fsencode(child), top_fd, descent_left - 1)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=directory_fd)

    def _move_up(self, fd: int, directory_fd: int, name: bytes, top_fd: int) -> None:
        """Give a deep directory a new place at the top, where the loop in `run` finds it."""
        while True:
            self._moved += 1
            try:
                os.mkdir(f".removing-{self._moved}", 0o700, dir_fd=top_fd)
                os.rename(name, f".removing-{self._moved}", src_dir_fd=directory_fd, dst_dir_fd=top_fd)
            except FileExistsError:
                continue
            return


def _open_writable(parent_fd: int, name: bytes) -> int:
    """Return a descriptor of the directory; its mode is changed where it keeps its owner from emptying it."""
    if os.geteuid() != 0:
        mode = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
            # Linux has no fchmodat that spares links; between the two calls only this very user could plant one.
            os.chmod(name, stat.S_IMODE(mode) | 0o700, dir_fd=parent_fd)
    return os.open(name, _OPEN_DIRECTORY, dir_fd=parent_fd)
