"""Removes trees by descriptor: never through a link or into a mount, at any depth, with a few open files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ociexport.errors import UsageError, quoted
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, change_mode, names_in
from ociexport.system.open_files import keepable_files

# Deeper directories are first moved up: neither descriptors nor the stack grow with the depth of a tree. Where the
# process may open only a few files, less deep ones are moved up as well.
_MAX_DESCENT = 32
# Errors from rmdir for a directory that is not empty.
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_MOUNTS = "/proc/self/mountinfo"


def verify_no_mounts(directory: str) -> None:
    """Return if nothing is mounted on or below ``directory``; without mountinfo, only `remove_tree` finds out.

    Args:
        directory: an absolute path without links.

    Raises:
        UsageError: something is mounted there, such as the /proc or /dev of a chroot that is in use.

    Spec: proc_pid_mountinfo(5), the fifth field.
    """
    prefix = os.fsencode(directory).rstrip(b"/") + b"/"
    for mount in _mount_points():
        if (mount + b"/").startswith(prefix):
            raise UsageError(
                f"{quoted(os.fsdecode(mount))}: expected a directory that can be removed, got a mount point",
                hint="unmount it first; the mounted file system is left alone",
            )


def is_mount_point(directory: str) -> bool:
    """Whether something is mounted on ``directory``, including a bind mount from its parent's file system.

    Args:
        directory: as for `verify_no_mounts`.
    """
    return os.path.ismount(directory) or os.fsencode(directory) in _mount_points()


def is_overlay(fd: int) -> bool:
    """Whether an open file is on an overlayfs, as a container's root usually is."""
    device = os.fstat(fd).st_dev
    number = b"%d:%d" % (os.major(device), os.minor(device))
    return any(line.split(b" ")[2] == number and b" - overlay " in line for line in _mount_lines())


def _mount_points() -> list[bytes]:
    return [_unescaped(line.split(b" ")[4]) for line in _mount_lines()]


def _mount_lines() -> list[bytes]:
    try:
        with open(_MOUNTS, "rb") as file:
            return file.readlines()
    except FileNotFoundError:
        return []


def _unescaped(path: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), path)


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Remove the file or tree ``name`` in the directory ``parent_fd``, if it exists; no link is followed.

    Directories that their owner may not write, as an ordinary user's unpacked images have, are made writable first.

    Raises:
        OSError: something can't be removed (EBUSY: it is a mount point, whose content is not touched); the rest may
            already be removed. Its ``filename`` is the path from ``parent_fd``.
    """
    if not _remove_at_once(parent_fd, name):
        _Remover(parent_fd, name).run()


def _remove_at_once(parent_fd: int, name: bytes) -> bool:
    """Remove a file, link or empty directory, if it exists; return False for a directory that is not empty.

    For a mount point, the kernel fails with EBUSY before it checks whether the directory is empty. So a directory for
    which False is returned can be opened without leaving the file system.
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return True
    except OSError:
        # Linux raises EISDIR, other systems EPERM. For anything but a directory, the error is genuine.
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            raise
    else:
        return True
    try:
        os.rmdir(name, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in _NOT_EMPTY:
            return False
        raise
    return True


class _Remover:
    """Removes one directory; subdirectories that are too deep are moved up into it and removed afterwards."""

    def __init__(self, parent_fd: int, name: bytes) -> None:
        self._parent_fd = parent_fd
        self._name = name
        self._moved = 0
        self._max_descent = keepable_files(_MAX_DESCENT)

    def run(self) -> None:
        with _placing_errors(self._name):
            top_fd = _open_writable(self._parent_fd, self._name)
            try:
                while names := names_in(top_fd):
                    for name in names:
                        self._remove(top_fd, os.fsencode(name), top_fd, self._max_descent)
            finally:
                os.close(top_fd)
        os.rmdir(self._name, dir_fd=self._parent_fd)

    def _remove(self, directory_fd: int, name: bytes, top_fd: int, descent_left: int) -> None:
        if _remove_at_once(directory_fd, name):
            return
        fd = _open_writable(directory_fd, name)
        try:
            if not descent_left:
                self._move_up(fd, directory_fd, name, top_fd)
                return
            with _placing_errors(name):
                for child in names_in(fd):
                    self._remove(fd, os.fsencode(child), top_fd, descent_left - 1)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=directory_fd)

    def _move_up(self, fd: int, directory_fd: int, name: bytes, top_fd: int) -> None:
        """Move a deep directory to the top, where the loop in `run` finds it."""
        while True:
            self._moved += 1
            try:
                os.mkdir(f".removing-{self._moved}", 0o700, dir_fd=top_fd)
                os.rename(name, f".removing-{self._moved}", src_dir_fd=directory_fd, dst_dir_fd=top_fd)
            except FileExistsError:
                continue
            return


def _open_writable(parent_fd: int, name: bytes) -> int:
    """Return a descriptor of the directory; if its mode keeps its owner from emptying it, the mode is changed."""
    mode = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
        # Modes bind root too if it lacks CAP_DAC_OVERRIDE.
        with suppress(PermissionError):
            # Where the image's modes let other users write, they may plant a link here between the two calls.
            change_mode(parent_fd, name, stat.S_IMODE(mode) | 0o700)
    return os.open(name, OPEN_DIRECTORY, dir_fd=parent_fd)


@contextmanager
def _placing_errors(directory: bytes) -> Iterator[None]:
    """Prefix the file name of an error with the directory."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str | bytes):
            error.filename = os.path.join(directory, os.fsencode(error.filename))
        raise
