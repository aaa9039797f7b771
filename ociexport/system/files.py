"""A file that appears under its name when it is complete, or not at all.

While it is written it has no name, where the file system can do so, and is gone with the process that is killed. Where
it can't, or where it takes the place of another file at the end, it has the name ``.NAME.partial`` beside it: what a
killed process left there the next one that writes the same file takes away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ociexport.errors import UsageError, quoted
from ociexport.system.host_paths import is_of_this_user, real_place
from ociexport.system.locks import is_still_there_once_locked
from ociexport.system.partial_names import hidden_name, random_name

# What file systems and kernels say that know no files without names; of a directory that is not there, too.
_NO_NAMELESS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
# What file systems say that make no hard links: between two of them, at all, for us, or not so many.
NO_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
)
# What a descriptor's error is of that tells no name; it is not of what is read to fill the file.
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
# A directory that may be written, but not listed, is a place for files too.
_PLACE_ONLY = getattr(os, "O_PATH", os.O_RDONLY)
_BUFFER_BYTES = 1024 * 1024
_MAX_TRIES = 8


@contextmanager
def new_file(path: str, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Give a file that takes the name ``path``, and the place of what has it, when the ``with`` block ends well.

    It is synced before; after an error it is gone. A link is replaced and never followed. What `is_stream` is written
    to as it stands: else ``/dev/null`` would be a file from then on, if root named it.

    Args:
        mode: of the file; nobody else can read it before it is complete.

    Raises:
        UsageError: it is a stream of another user, or a link of one is on the way to it.
        OSError: the directory is not there or may not be written, or has no room; of ``path``, as it was given.
    """
    if is_stream(path):
        with open_stream(path) as file:
            yield file
        return
    with _directory_of(path) as (directory_fd, name), new_file_in(directory_fd, name, path, mode=mode) as file:
        yield file


@contextmanager
def new_file_in(directory_fd: int, name: str, path: str, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """The same of a file in a directory that is open, whatever becomes of the directory's name meanwhile.

    Args:
        directory_fd: may be one of O_PATH.
        name: in it; whatever has it, but a directory, is replaced.
        path: for messages.
    """
    with _no_room_named(path):
        with _named(path):
            fd = _open_nameless(directory_fd)
        if fd is None:
            with _named(path):
                fd, aside = _open_named(directory_fd, name)
            with _renamed_to(name, fd, aside, mode, path=path, directory_fd=directory_fd) as file:
                yield file
            return
        with open(fd, "wb", buffering=_BUFFER_BYTES) as file:
            yield file
            file.flush()
            with _named(path):
                os.fchmod(fd, mode)
                os.fsync(fd)
                _give_name(fd, directory_fd, name, mode)


def begin_file(path: str) -> BinaryIO:
    """Return an empty, unbuffered file that has the name ``path`` from now on, or the stream that it is.

    A file of this user that has no other name is emptied, so that a program which has it open already sees what
    comes. Whatever else has the name is replaced: a link, another user's file, or one that has other names too.

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
    """Return a descriptor of a file that is this user's and of no other name; None where it is none."""
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
    """Give a descriptor of the directory that ``path`` is in, and its name there."""
    directory, name = real_place(path)
    with _named(path):
        fd = os.open(directory, _PLACE_ONLY | os.O_DIRECTORY | _SAFE)
    try:
        yield fd, name
    finally:
        os.close(fd)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Have errors tell of ``path``, as it was given, and not of names within the directory."""
    try:
        yield
    except OSError as error:
        # That another name is too long is not true of this one.
        if error.errno != errno.ENAMETOOLONG:
            error.filename, error.filename2 = path, None
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
    """Have errors of the files that stand in for ``path`` until it is complete tell of ``path``, as it was given.

    Args:
        partial: what their names begin with.
    """
    try:
        yield
    except OSError as error:
        is_nameless = error.filename is None and error.errno in _WRITE_ERRORS
        name = error.filename2 or error.filename
        is_stand_in = isinstance(name, str) and (name == os.path.abspath(path) or name.startswith(partial))
        # That the other name is too long is not true of this one.
        if is_nameless or (is_stand_in and error.errno != errno.ENAMETOOLONG):
            error.filename, error.filename2 = path, None
        raise


def _link_over(source: str, fd: int, name: str) -> None:
    # With descriptors it is linkat(2), which alone follows what stands in /proc for a file without a name.
    with suppress(FileExistsError):
        os.link(source, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=True)
        return
    aside = hidden_name(name)
    # A process may have been killed between the two calls, and another may do the same at this moment.
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
            # Gone with the rename, but where both are names of one file already.
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=fd)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _open_nameless(directory_fd: int) -> int | None:
    """Return a descriptor of a new file in the directory; None where it must have a name."""
    nameless = getattr(os, "O_TMPFILE", 0)
    if not nameless or not os.path.exists("/proc/self/fd"):
        return None
    try:
        return os.open(".", nameless | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory_fd)
    except OSError as error:
        if error.errno not in _NO_NAMELESS:
            raise
        return None


def _give_name(fd: int, directory_fd: int, name: str, mode: int) -> None:
    """Give the nameless file its name; where nobody may make links, as on Android, a copy of it has that."""
    try:
        _link_over(f"/proc/self/fd/{fd}", directory_fd, name)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        fd_of_copy, aside = _open_named(directory_fd, name)
        with _renamed_to(name, fd_of_copy, aside, mode, path=name, directory_fd=directory_fd) as copy:
            offset = 0
            while count := os.sendfile(copy.fileno(), fd, offset, _BUFFER_BYTES):
                offset += count


@contextmanager
def _renamed_to(name: str, fd: int, aside: str, mode: int, *, path: str, directory_fd: int) -> Iterator[BinaryIO]:
    """Give the new file ``aside``, which takes the name ``name`` when the ``with`` block ends well."""
    try:
        with open(fd, "wb", buffering=_BUFFER_BYTES) as file:
            yield file
            file.flush()
            with _named(path):
                os.fchmod(fd, mode)
                os.fsync(fd)
        with _named(path):
            os.rename(aside, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except BaseException:
        os.unlink(aside, dir_fd=directory_fd)
        raise


def _open_named(directory_fd: int, name: str) -> tuple[int, str]:
    """Return a descriptor of a new file that only we can read, and the name that it has for the time being."""
    aside = hidden_name(name)
    _remove_leftover(directory_fd, aside)
    with suppress(FileExistsError):
        fd = _create(directory_fd, aside)
        # Until it is locked, another may take it for a leftover, and then what has the name is theirs.
        if is_still_there_once_locked(fd, aside, dir_fd=directory_fd):
            return fd, aside
        os.close(fd)
    # Somebody is writing the same file at this moment.
    beside = random_name(aside)
    return _create(directory_fd, beside), beside


def _create(directory_fd: int, name: str) -> int:
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600, dir_fd=directory_fd)


def _remove_leftover(directory_fd: int, aside: str) -> None:
    """Remove what a process that was killed left; what somebody writes to, or is somebody else's, stays."""
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
    """Have the names in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_stream(path: str, *, buffering: int = -1) -> BinaryIO:
    """Return what `is_stream` is true of, open for writing; the caller closes it.

    What is written goes behind what is there: standard output may be a file that the shell appends to.

    Raises:
        UsageError: it has become something else, or another user's.
    """
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not _is_stream(path, os.fstat(fd)):
            raise UsageError(f"{quoted(path)}: expected a stream, got a file that took its place")
        return open(path, "ab", buffering=buffering, opener=lambda _path, _flags: fd)
    except BaseException:
        os.close(fd)
        raise


def is_stream(path: str) -> bool:
    """Whether no file may take the place of ``path``: it is a pipe, a device, or, as ``/dev/stdout``, an open file.

    A link of another user is none, wherever it leads: it is replaced as any link is.

    Raises:
        UsageError: it is a stream of another user, who would read what we write, or have us write to a device.
    """
    try:
        return _is_stream(path, os.stat(path))
    except OSError:
        return False


def _is_stream(path: str, status: os.stat_result) -> bool:
    directory = os.path.realpath(os.path.dirname(path))
    # Nobody but root makes names there, whoever root is in a user namespace, where many owners are unknown.
    is_in_dev = directory == "/dev"
    link = os.lstat(path)
    is_link = stat.S_ISLNK(link.st_mode)
    if is_link and not (is_in_dev or is_of_this_user(link)):
        return False
    # The kernel's links to what a process has open; others that lead to files are replaced, and never followed.
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
