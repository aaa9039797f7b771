"""A file that appears under its name when it is complete, or not at all.

While it is written it has no name, where the file system can do so, and is gone with the process that is killed. Where
it can't, or where it takes the place of another file at the end, it has the name ``.NAME.partial`` beside it: what a
killed process left there the next one that writes the same file takes away.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ociexport.locked_file import is_still_there_once_locked

# What file systems and kernels say that know no files without names; of a directory that is not there, too.
_NO_NAMELESS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
# What file systems say that make no hard links: between two of them, at all, for us, or not so many.
NO_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
)
# What a descriptor's error is of that tells no name; it is not of what is read to fill the file.
_WRITE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BUFFER_BYTES = 1024 * 1024
_MAX_TRIES = 8
# Names have 255 bytes; this and what `partial_name` and its callers add.
_MAX_RESUMED_NAME_BYTES = 240


@contextmanager
def new_file(path: str, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Give a file that takes the name ``path``, and the place of what has it, when the ``with`` block ends well.

    It is synced before; after an error it is gone. What `is_stream` is written to as it stands: else ``/dev/null``
    would be a file from then on, if root named it.

    Args:
        mode: of the file; nobody else can read it before it is complete.

    Raises:
        OSError: the directory is not there or may not be written, or has no room; of ``path``, as it was given.
    """
    if is_stream(path):
        with open_stream(path) as file:
            yield file
        return
    place = os.path.abspath(path)
    with errors_named(path, _aside(place)):
        fd = _open_nameless(place)
        if fd is None:
            with _renamed_to(place, *_open_named(place), mode) as file:
                yield file
            return
        with open(fd, "wb", buffering=_BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
            _give_name(fd, place, mode)


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


def link_file(source: str, path: str) -> None:
    """Give the file ``source`` the name ``path`` too, and the place of what has it.

    Raises:
        OSError: the file system has no such links, or not here.
    """
    # With a directory's descriptor, a relative source would be looked for there, not where we are.
    _link_over(os.path.abspath(source), os.path.abspath(path), follow_symlinks=False)


def _link_over(source: str, path: str, *, follow_symlinks: bool) -> None:
    # With descriptors it is linkat(2), which alone follows what stands in /proc for a file without a name.
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileExistsError):
            os.link(source, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=follow_symlinks)
            return
        aside = os.path.basename(_aside(path))
        # A process may have been killed between the two calls, and another may do the same at this moment.
        for beside in (aside, aside, *(f"{aside}-{os.urandom(6).hex()}" for _ in range(_MAX_TRIES))):
            try:
                os.link(source, beside, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=follow_symlinks)
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
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    except OSError as error:
        # Not the names within the directory, one of which nobody has given.
        error.filename, error.filename2 = path, None
        raise
    finally:
        os.close(fd)


def partial_name(path: str) -> str:
    """Return what a file that is resumed is called until it is complete: always the same, and beside ``path``.

    What else is kept until then has a name that begins so, and is at most seven bytes longer.
    """
    directory, name = os.path.split(path)
    encoded = os.fsencode(name)
    if len(encoded) > _MAX_RESUMED_NAME_BYTES:
        # No half of a character, which some file systems refuse; one has four bytes at most in UTF-8.
        end = next((end for end in range(200, 196, -1) if encoded[end] & 0xC0 != 0x80), 200)
        name = f"{os.fsdecode(encoded[:end])}-{hashlib.sha256(encoded).hexdigest()[:12]}"
    return os.path.join(directory, f"{name}.partial")


def _aside(path: str) -> str:
    directory, name = os.path.split(path)
    # No longer than a name may be, in whatever characters.
    return os.path.join(directory, os.fsdecode(b".%b.partial" % os.fsencode(name)[:200]))


def _open_nameless(path: str) -> int | None:
    """Return a descriptor of a new file in the directory of ``path``; None where it must have a name."""
    nameless = getattr(os, "O_TMPFILE", 0)
    if not nameless or not os.path.exists("/proc/self/fd"):
        return None
    try:
        return os.open(os.path.dirname(path), nameless | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_NAMELESS:
            error.filename = path
            raise
        return None


def _give_name(fd: int, path: str, mode: int) -> None:
    """Give the nameless file its name; where nobody may make links, as on Android, a copy of it has that."""
    try:
        _link_over(f"/proc/self/fd/{fd}", path, follow_symlinks=True)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        with _renamed_to(path, *_open_named(path), mode) as copy:
            offset = 0
            while count := os.sendfile(copy.fileno(), fd, offset, _BUFFER_BYTES):
                offset += count


@contextmanager
def _renamed_to(path: str, fd: int, name: str, mode: int) -> Iterator[BinaryIO]:
    """Give the new file ``name``, which takes the name ``path`` when the ``with`` block ends well."""
    try:
        with open(fd, "wb", buffering=_BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _open_named(path: str) -> tuple[int, str]:
    """Return a descriptor of a new file that only we can read, and the name that it has for the time being."""
    aside = _aside(path)
    _remove_leftover(aside)
    with suppress(FileExistsError):
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        # Until it is locked, another may take it for a leftover, and then what has the name is theirs.
        if is_still_there_once_locked(fd, aside):
            return fd, aside
        os.close(fd)
    # Somebody is writing the same file at this moment.
    return tempfile.mkstemp(prefix=f"{os.path.basename(aside)}-", dir=os.path.dirname(path))


def _remove_leftover(aside: str) -> None:
    """Remove what a process that was killed left; what somebody writes to, or is somebody else's, stays."""
    try:
        fd = os.open(aside, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(status, os.lstat(aside)):
                os.unlink(aside)
    except OSError:
        return
    finally:
        os.close(fd)


@contextmanager
def replaced_file(path: str, *, aside: str) -> Iterator[BinaryIO]:
    """The same of a file that is in any case one, written in the directory ``aside``, whose owner takes leftovers away.

    The name is synced too.
    """
    directory, name = os.path.split(path)
    fd, temporary = tempfile.mkstemp(prefix=f"{name}.", dir=aside)
    with _renamed_to(path, fd, temporary, 0o644) as file:
        yield file
    sync_directory(directory)


def sync_directory(path: str) -> None:
    """Have the names in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_stream(path: str) -> BinaryIO:
    """Return what `is_stream` is true of, open for writing; the caller closes it.

    What is written goes behind what is there: standard output may be a file that the shell appends to.
    """
    return open(path, "ab")


def is_stream(path: str) -> bool:
    """Whether no file may take the place of ``path``: it is a pipe, a device, or, as ``/dev/stdout``, an open file."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    if stat.S_ISREG(mode):
        # The kernel's links to what a process has open; others are replaced, and never followed.
        target = os.readlink(path) if os.path.islink(path) else ""
        return target.startswith("/proc/") or os.path.realpath(os.path.dirname(path)).startswith("/proc/")
    return not stat.S_ISDIR(mode)
