"""A file that appears under its name when it is complete, or not at all.

If the file system allows it, an unfinished file has no name, so it vanishes if the process is killed. Otherwise, and
while a finished file replaces another one, it is called ``.NAME.partial``, in the same directory. The next process that
writes the same file removes the file that a killed process left.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from ociexport.errors import UsageError, quoted
from ociexport.system.host_paths import is_of_this_user, real_place
from ociexport.system.locks import is_still_there_once_locked
from ociexport.system.partial_names import hidden_name, random_name

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Errors of file systems and kernels without nameless files; ENOENT is also the error for a missing directory.
_NO_NAMELESS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
# Errors for a hard link that can't be made: across file systems, at all, by this user, or beyond the number of links.
NO_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
)
# Errors of writing to a descriptor, which name no file. Reading the source of the content raises none of them.
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE})
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
# Files can be made in a directory that this user may write but not list.
_PLACE_ONLY = getattr(os, "O_PATH", os.O_RDONLY)
_BUFFER_BYTES = 1024 * 1024
_MAX_TRIES = 8


@contextmanager
def new_file(path: str, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Give a file that is renamed to ``path`` when the ``with`` block ends well, and replaces any file of that name.

    It is synced before it is renamed, and removed after an error. A link is replaced and never followed. A stream, see
    `is_stream`, is written to directly: otherwise ``/dev/null`` would become a regular file if root named it.

    The descriptor of a file is also open for reading, at any offset; that of a stream is not.

    Args:
        mode: of the complete file, without the bits of the umask; until then only this user can read it.

    Raises:
        UsageError: ``path`` is a stream of another user, or a link of another user is on its way.
        OSError: the directory is missing, full or not writable; the error names ``path`` as it was given.
    """
    if is_stream(path):
        with _no_room_named(path), open_stream(path) as file:
            yield file
        return
    with _directory_of(path) as (directory_fd, name), new_file_in(directory_fd, name, path, mode=mode) as file:
        yield file


@contextmanager
def new_file_in(directory_fd: int, name: str, path: str, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Do the same as `new_file` in an open directory, even if the directory is renamed meanwhile.

    Args:
        directory_fd: may be opened with O_PATH.
        name: in that directory; anything of that name is replaced, except a directory.
        path: for messages.
    """
    with _no_room_named(path):
        with _named(path):
            fd = _open_nameless(directory_fd, mode)
        if fd is None:
            with _named(path):
                fd, aside = _open_named(directory_fd, name, mode)
            with _renamed_to(name, fd, aside, None, path=path, dir_fd=directory_fd) as file:
                yield file
            return
        with io.BufferedWriter(_Output(fd, "wb", path), _BUFFER_BYTES) as file:
            with _named(path):
                mode = _hide(fd)
            yield file
            file.flush()
            with _named(path):
                os.fchmod(fd, mode)
                os.fsync(fd)
                _give_name(fd, directory_fd, name, mode)


@contextmanager
def spool_for(path: str) -> Iterator[BinaryIO]:
    """Give an empty file without a name, open for reading and writing, for data that is needed to write ``path``.

    It is in the directory of ``path``, where there must be room for the complete file too; for a stream, it is among
    the temporary files.

    Raises:
        UsageError, OSError: as `new_file`.
        TemporaryFileError: ``path`` is a stream, and no temporary file can be made.
    """
    if is_stream(path):
        from ociexport.system.temporary_files import open_temporary_file  # noqa: PLC0415 - start-up: few files go to a stream

        with open_temporary_file() as file:
            yield file
        return
    with _directory_of(path) as (directory_fd, name), _no_room_named(path):
        with _named(path):
            fd = _open_nameless(directory_fd)
            if fd is None:
                fd, aside = _open_named(directory_fd, name)
                os.unlink(aside, dir_fd=directory_fd)
        with open(fd, "w+b", buffering=0) as file:
            yield file


def begin_file(path: str) -> BinaryIO:
    """Return an empty, unbuffered file that is called ``path`` from now on, or the stream at ``path``.

    If ``path`` is a file of this user without other hard links, it is emptied, so a program that already has it open
    sees the new content. Anything else is replaced: a link, another user's file, or a file with other hard links.

    Raises:
        UsageError, OSError: as `new_file`.
    """
    if is_stream(path):
        return open_stream(path, buffering=0)
    with _directory_of(path) as (directory_fd, name), _named(path):
        fd = _open_own(directory_fd, name)
        if fd is None:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory_fd)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o666, dir_fd=directory_fd)
        os.ftruncate(fd, 0)
        return open(path, "wb", buffering=0, opener=lambda _path, _flags: fd)


def _open_own(directory_fd: int, name: str) -> int | None:
    """Return a descriptor of a file that is this user's and has no other hard links; None if there is no such file."""
    try:
        fd = os.open(name, os.O_WRONLY | os.O_NONBLOCK | _SAFE, dir_fd=directory_fd)
    except OSError:
        return None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
        return fd
    os.close(fd)
    return None


@contextmanager
def _directory_of(path: str) -> Iterator[tuple[int, str]]:
    """Give a descriptor of the directory that contains ``path``, and the name of ``path`` in it."""
    directory, name = real_place(path)
    with _named(path):
        fd = os.open(directory, _PLACE_ONLY | os.O_DIRECTORY | _SAFE)
    try:
        yield fd, name
    finally:
        os.close(fd)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Make errors name ``path`` as it was given, instead of names within the directory."""
    try:
        yield
    except OSError as error:
        # If another name is too long, ``path`` need not be.
        if error.errno != errno.ENAMETOOLONG:
            error.filename, error.filename2 = path, None
        raise


class _Output(io.FileIO):
    """An open file; errors of writing name ``path``, so that they are not taken for errors of what is written."""

    def __init__(self, fd: int, mode: str, path: str) -> None:
        super().__init__(path, mode, opener=lambda _path, _flags: fd)
        self._path = path

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = self._path
            raise


@contextmanager
def _no_room_named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _WRITE_ERRORS:
            error.filename = path
        raise


@contextmanager
def errors_named(path: str, partial: str) -> Iterator[None]:
    """Make errors about the unfinished files of ``path`` name ``path`` as it was given.

    Args:
        partial: the beginning of the unfinished files' paths.
    """
    try:
        yield
    except OSError as error:
        is_nameless = error.filename is None and error.errno in _WRITE_ERRORS
        name = error.filename2 or error.filename
        is_unfinished = isinstance(name, str) and (name == os.path.abspath(path) or name.startswith(partial))
        # If the other name is too long, ``path`` need not be.
        if is_nameless or (is_unfinished and error.errno != errno.ENAMETOOLONG):
            error.filename, error.filename2 = path, None
        raise


def _link_over(source: str, fd: int, name: str) -> None:
    # Descriptors make Python call linkat(2), the only call that follows the link in /proc to a nameless file.
    with suppress(FileExistsError):
        os.link(source, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=True)
        return
    aside = hidden_name(name)
    # A process may have been killed between the two calls, and another may be between them now.
    for beside in (aside, aside, *(random_name(aside) for _ in range(_MAX_TRIES))):
        try:
            os.link(source, beside, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=True)
        except FileExistsError:
            with suppress(OSError):
                os.unlink(beside, dir_fd=fd)
            continue
        try:
            os.rename(beside, name, src_dir_fd=fd, dst_dir_fd=fd)
            return
        except FileNotFoundError:
            continue
        finally:
            # The rename removes this name, unless both were already names of the same file.
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=fd)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _hide(fd: int) -> int:
    """Keep others from a new file; return the mode that the umask left it. To read the umask itself one must set it."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    os.fchmod(fd, 0o600)
    return mode


def _open_nameless(directory_fd: int, mode: int = 0o600) -> int | None:
    """Return a descriptor of a new nameless file in the directory; None if a file must have a name there."""
    nameless = getattr(os, "O_TMPFILE", 0)
    if not nameless or not os.path.exists("/proc/self/fd"):
        return None
    try:
        return os.open(".", nameless | os.O_RDWR | os.O_CLOEXEC, mode, dir_fd=directory_fd)
    except OSError as error:
        if error.errno not in _NO_NAMELESS:
            raise
        return None


def _give_name(fd: int, directory_fd: int, name: str, mode: int) -> None:
    """Give the nameless file its name; if links can't be made, as on Android, a copy of the file gets the name."""
    try:
        _link_over(f"/proc/self/fd/{fd}", directory_fd, name)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        fd_of_copy, aside = _open_named(directory_fd, name)
        with _renamed_to(name, fd_of_copy, aside, mode, path=name, dir_fd=directory_fd) as copy:
            offset = 0
            while count := os.sendfile(copy.fileno(), fd, offset, _BUFFER_BYTES):
                offset += count


@contextmanager
def _renamed_to(name: str, fd: int, aside: str, mode: int | None, *, path: str, dir_fd: int) -> Iterator[BinaryIO]:
    """Give the new file ``aside``, which gets ``name`` and ``mode`` (None: it stays) when the block ends well."""
    try:
        with io.BufferedWriter(_Output(fd, "wb", path), _BUFFER_BYTES) as file:
            with _named(path):
                mode = _hide(fd) if mode is None else mode
            yield file
            file.flush()
            with _named(path):
                os.fchmod(fd, mode)
                os.fsync(fd)
        with _named(path):
            os.rename(aside, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        os.unlink(aside, dir_fd=dir_fd)
        raise


def _open_named(directory_fd: int, name: str, mode: int = 0o600) -> tuple[int, str]:
    """Return a descriptor of a new, empty file, and the file's temporary name."""
    aside = hidden_name(name)
    _remove_leftover(directory_fd, aside)
    with suppress(FileExistsError):
        fd = _create(directory_fd, aside, mode)
        # Before it is locked, another process may remove it as a leftover and make its own file of that name.
        if is_still_there_once_locked(fd, aside, dir_fd=directory_fd):
            return fd, aside
        os.close(fd)
    # Another process is writing the same file now.
    beside = random_name(aside)
    return _create(directory_fd, beside, mode), beside


def _create(directory_fd: int, name: str, mode: int) -> int:
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, mode, dir_fd=directory_fd)


def _remove_leftover(directory_fd: int, aside: str) -> None:
    """Remove the file that a killed process left; a file that is being written, or another user's, stays."""
    try:
        fd = os.open(aside, os.O_RDONLY | os.O_NONBLOCK | _SAFE, dir_fd=directory_fd)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(status, os.stat(aside, dir_fd=directory_fd, follow_symlinks=False)):
                os.unlink(aside, dir_fd=directory_fd)
    except OSError:
        return
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Sync the names in a directory to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_stream(path: str, *, buffering: int = -1) -> BinaryIO:
    """Return the stream at ``path``, see `is_stream`, open for writing; the caller closes it.

    It is opened for appending, since standard output may be a file that the shell appends to.

    Raises:
        UsageError: ``path`` is no longer a stream, or has become another user's.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not _is_stream(path, os.fstat(fd)):
            raise UsageError(f"{quoted(path)}: expected a stream, got a file that took its place")
        file = _Output(fd, "ab", path)
        return io.BufferedWriter(file, buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE) if buffering else file
    except BaseException:
        os.close(fd)
        raise


def is_stream(path: str) -> bool:
    """Whether ``path`` must be written to and not replaced: a pipe, a device, or an open file such as ``/dev/stdout``.

    A link of another user is not a stream, wherever it leads: it is replaced like any link.

    Raises:
        UsageError: it is a stream of another user, who could read the output or direct it to a device.
    """
    try:
        return _is_stream(path, os.stat(path))
    except OSError:
        return False


def _is_stream(path: str, status: os.stat_result) -> bool:
    directory = os.path.realpath(os.path.dirname(path))
    # Only root makes names in /dev. Owners don't show that in a user namespace, where many of them are unmapped.
    is_in_dev = directory == "/dev"
    link = os.lstat(path)
    is_link = stat.S_ISLNK(link.st_mode)
    if is_link and not (is_in_dev or is_of_this_user(link)):
        return False
    # The kernel's links to files that a process has open. Other links to files are replaced and never followed.
    if directory.startswith("/proc/") or (is_link and os.readlink(path).startswith("/proc/")):
        return not stat.S_ISDIR(status.st_mode)
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        return False
    if not (is_in_dev or is_of_this_user(status)):
        raise UsageError(
            f"{quoted(path)}: expected a file, or a stream of this user, got a stream of user {status.st_uid}",
            hint="choose another name, or write to standard output",
        )
    return True
