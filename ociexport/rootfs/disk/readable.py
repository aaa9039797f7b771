"""Reads files and directories that their own mode closes to their owner, such as Fedora's /etc/gshadow (mode 0).

root reads them in any case. An ordinary user owns all files of a tree that this user unpacked, and may change their
modes: the missing bits are set, the file is read, and the mode is set back.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ociexport.errors import OciexportError
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, OPEN_FILE, change_mode

_FILE_BITS = stat.S_IRUSR
_DIRECTORY_BITS = stat.S_IRUSR | stat.S_IXUSR
_REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class TreeReadError(OciexportError, OSError):
    """A file of a tree can't be read."""

    def __init__(self, root: str | os.PathLike[str], path: bytes, error: OSError) -> None:
        """Add to ``error`` where the file is.

        Args:
            root: the tree's directory.
            path: in the tree.
            error: from a system call on a descriptor, so it knows only the last name.
        """
        hint = "only its owner and root can read it: run this as root" if error.errno in _REFUSALS else None
        super().__init__(str(error), hint=hint)
        self.errno, self.strerror = error.errno or errno.EIO, error.strerror or str(error)
        self.filename = os.path.join(os.fspath(root), os.fsdecode(path)) if path != b"." else os.fspath(root)


@contextmanager
def naming_path(root: str | os.PathLike[str], path: bytes) -> Iterator[None]:
    """Raise an `OSError` of the ``with`` block as a `TreeReadError` with the whole path."""
    try:
        yield
    except TreeReadError:
        raise
    except OSError as error:
        raise TreeReadError(root, path, error) from error


def missing_bits(parent_fd: int, name: bytes, status: os.stat_result) -> int:
    """Return the mode bits that this process lacks to read a file or to look into a directory; 0 if it may do so.

    They are 0 too for another user's file, whose mode this process may not change, and for any other kind of file.
    """
    bits = {stat.S_IFREG: _FILE_BITS, stat.S_IFDIR: _DIRECTORY_BITS}.get(stat.S_IFMT(status.st_mode), 0)
    missing = bits & ~status.st_mode
    if not missing or status.st_uid != os.geteuid():
        return 0
    wanted = os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)
    # A capability of root's may make up for the mode.
    is_allowed = os.access(name, wanted, dir_fd=parent_fd, effective_ids=True, follow_symlinks=False)
    return 0 if is_allowed else missing


@contextmanager
def made_readable(parent_fd: int, name: bytes, status: os.stat_result) -> Iterator[None]:
    """Let the owner of a file read it, or look into it if it is a directory, until the ``with`` block ends.

    Nothing is done for another user's file, which then can't be opened.
    """
    missing = missing_bits(parent_fd, name, status)
    if not missing:
        yield
        return
    mode = stat.S_IMODE(status.st_mode)
    change_mode(parent_fd, name, mode | missing)
    try:
        yield
    finally:
        change_mode(parent_fd, name, mode)


class FilesBelow:
    """Opens files in a tree, whatever the modes on their paths; no link is followed.

    The directory of the last file stays open, since the next file mostly is in it too, unless a mode has to be set back
    on its path. Of the directories above, only those stay open meanwhile in which that is so: a tree may be deeper than
    this process may open files.

    Args:
        root_fd: of the tree's root; closed by the caller.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._stack = ExitStack()
        self._directory: bytes | None = None
        self._fd = -1

    def open(self, path: bytes) -> int:
        """Return a descriptor of the file at ``path``; the caller closes it."""
        directory, _, name = path.rpartition(b"/")
        try:
            is_changed = directory != self._directory and self._enter(directory)
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            with made_readable(self._fd, name, status):
                fd = os.open(name, OPEN_FILE, dir_fd=self._fd)
        except BaseException:
            self.close()
            raise
        if is_changed:
            self.close()
        return fd

    def close(self) -> None:
        """Set modes back, and close the directory."""
        self._directory = None
        self._stack.close()

    def _enter(self, directory: bytes) -> bool:
        """Open a directory; return whether a mode was changed for it."""
        self.close()
        is_changed = False
        fd = os.dup(self._root_fd)
        for part in directory.split(b"/") if directory else ():
            with ExitStack() as step:
                step.callback(os.close, fd)
                status = os.stat(part, dir_fd=fd, follow_symlinks=False)
                if missing_bits(fd, part, status):
                    is_changed = True
                    step.enter_context(made_readable(fd, part, status))
                    self._stack.push(step.pop_all())
                fd = os.open(part, OPEN_DIRECTORY, dir_fd=fd)
        self._stack.callback(os.close, fd)
        self._directory, self._fd = directory, fd
        return is_changed
