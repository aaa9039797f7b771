"""Moves a tree that was built inside its target up into it, which no rename can do in one step.

The target is a mount point, or another directory that must stay the same one; see `place`.

A list names the files to be moved, so that the next process can recognize the files of one that was killed midway:

1. The list is written beside the built directory and synced to disk; then its seal, in the same way.
2. The content of that directory is moved up, name by name, and the target gets the root's metadata.
3. The directory, now empty, is removed: from here on the tree is complete.
4. The list and its seal are removed.

While the directory exists and no process has locked it, the move can be undone: each listed name is in the directory or
in the target, with the type and time that it had before. If one differs, another program has changed the files,
and nothing is moved back.

An image may contain files that look like a list, and the next unpacking would remove the files named there. So the seal
holds the list's inode number and the time of its last change (ctime), which no image can know beforehand and no program
can set. In addition, an image with such names in its root is refused; see `staging`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ociexport.rootfs.disk.linux import OPEN_FILE, change_mode, names_in
from ociexport.rootfs.disk.xattrs import read_xattrs

# Created by the file system itself: a mount point that has nothing else counts as empty.
TOLERATED_IN_MOUNT = frozenset({"lost+found"})
# Appended to the name of the built directory.
LIST_SUFFIX = "-moving"
SEAL_SUFFIX = "-sealed"
_RECORD = re.compile(rb"([0-7]+) (-?[0-9]+) ([^/\0]+)", re.DOTALL)
# Ends the list. A list without it was not written completely, and then nothing was moved.
_END = b"\0\0"
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Type and time of modification identify a moved file: renaming changes neither.
_Look = tuple[int, int]


def move_up(fd: int, parent_fd: int, name: str, *, sync: bool) -> None:
    """Move the content and metadata of the directory ``fd`` up to its target, and remove the directory.

    Args:
        fd: the built directory, locked by the caller.
        parent_fd: the target, which has none of the tree's names.
        name: of the built directory.
        sync: whether each step is synced to disk before the next one.

    Raises:
        OSError: some files may have been moved; see `take_back`.
    """
    names, status = sorted(names_in(fd)), os.fstat(fd)
    _write_list(fd, parent_fd, name, names)
    with _writable(fd):
        for each in names:
            _move(os.fsencode(each), fd, parent_fd)
    # What an earlier tree or an ACL left there; attributes of this machine, such as SELinux's, are not among them.
    for old in read_xattrs(parent_fd):
        with suppress(OSError):
            os.removexattr(parent_fd, old)
    os.fchown(parent_fd, status.st_uid, status.st_gid)
    os.fchmod(parent_fd, stat.S_IMODE(status.st_mode))
    if hasattr(os, "listxattr"):
        for attribute in os.listxattr(fd):
            os.setxattr(parent_fd, attribute, os.getxattr(fd, attribute))
    if sync:
        os.fsync(parent_fd)
    with _writable(parent_fd):
        os.rmdir(name, dir_fd=parent_fd)
        if sync:
            os.fsync(parent_fd)
        drop_list(parent_fd, name)
    # Last, since each step before changes the time.
    os.utime(parent_fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def moved_names(fd: int, parent_fd: int, name: str) -> set[str]:
    """Return the names that a killed process moved from ``fd`` to the target and that can be moved back."""
    looks = _read_list(parent_fd, name)
    moved = set()
    for each, look in looks.items():
        above, below = _look_at(each, parent_fd), _look_at(each, fd)
        if above is None or (below is not None and os.fsdecode(each) in TOLERATED_IN_MOUNT):
            continue
        if below is not None or above != look:
            return set()  # changed by another program
        moved.add(os.fsdecode(each))
    return moved


def take_back(fd: int, parent_fd: int, name: str) -> None:
    """Move the moved files back down, if all of them are unchanged.

    Raises:
        OSError: some files may have been moved back; another call continues.
    """
    names = moved_names(fd, parent_fd, name)
    if names:
        with _writable(fd), _writable(parent_fd):
            for each in names:
                _move(os.fsencode(each), parent_fd, fd)


def drop_list(parent_fd: int, name: str) -> None:
    """Remove the list and its seal, if they exist and belong to this user; the built directory is already removed."""
    for suffix in (LIST_SUFFIX, SEAL_SUFFIX):
        fd = _open_ours(parent_fd, name + suffix)
        if fd is not None:
            os.close(fd)
            os.unlink(name + suffix, dir_fd=parent_fd)


def _write_list(fd: int, parent_fd: int, name: str, names: list[str]) -> None:
    list_fd = os.open(name + LIST_SUFFIX, _CREATE_FILE, 0o600, dir_fd=parent_fd)
    with open(list_fd, "wb") as file:
        for each in names:
            status = os.stat(each, dir_fd=fd, follow_symlinks=False)
            record = b"%o %d %b\0" % (stat.S_IFMT(status.st_mode), status.st_mtime_ns, os.fsencode(each))
            file.write(record)
        file.write(b"\0")
        file.flush()
        # Otherwise moved names could reach the disk before this list.
        os.fsync(list_fd)
        seal = _seal_of(list_fd)
    seal_fd = os.open(name + SEAL_SUFFIX, _CREATE_FILE, 0o600, dir_fd=parent_fd)
    with open(seal_fd, "wb") as file:
        file.write(seal)
        file.flush()
        os.fsync(seal_fd)


def _seal_of(list_fd: int) -> bytes:
    status = os.fstat(list_fd)
    return b"%d %d\n" % (status.st_ino, status.st_ctime_ns)


def _read_list(parent_fd: int, name: str) -> dict[bytes, _Look]:
    """Return type and time of each listed name; empty if the list is missing or can't be trusted."""
    list_fd, seal_fd = _open_ours(parent_fd, name + LIST_SUFFIX), _open_ours(parent_fd, name + SEAL_SUFFIX)
    if list_fd is None or seal_fd is None:
        for fd in (list_fd, seal_fd):
            if fd is not None:
                os.close(fd)
        return {}
    with open(list_fd, "rb") as file, open(seal_fd, "rb") as seal_file:
        seal = _seal_of(list_fd)
        if seal_file.read(len(seal) + 1) != seal:
            return {}
        content = file.read()
    if not content.endswith(_END):
        return {}
    records = [_RECORD.fullmatch(record) for record in content.removesuffix(_END).split(b"\0")]
    return {match[3]: (int(match[1], 8), int(match[2])) for match in records if match and match[3] not in (b".", b"..")}


def _open_ours(parent_fd: int, name: str) -> int | None:
    """Return a descriptor of a list or seal; None if it is missing or another user may have written it."""
    try:
        fd = os.open(name, OPEN_FILE, dir_fd=parent_fd)
    except OSError:
        return None
    status = os.fstat(fd)
    is_own = status.st_uid == os.geteuid() and status.st_nlink == 1 and not status.st_mode & 0o022
    if stat.S_ISREG(status.st_mode) and is_own:
        return fd
    os.close(fd)
    return None


def _look_at(name: bytes, directory_fd: int) -> _Look | None:
    try:
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return stat.S_IFMT(status.st_mode), status.st_mtime_ns


def _move(name: bytes, from_fd: int, to_fd: int) -> None:
    """Move ``name`` from one directory to another."""
    try:
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    except PermissionError:
        mode = os.stat(name, dir_fd=from_fd, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode) or mode & stat.S_IWUSR:
            raise
        # The move changes the directory's "..", so the directory must be writable.
        change_mode(from_fd, name, stat.S_IMODE(mode) | stat.S_IWUSR)
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        change_mode(to_fd, name, stat.S_IMODE(mode))


@contextmanager
def _writable(fd: int) -> Iterator[None]:
    """Make this user's own directory writable for the ``with`` block if its mode, from the image, is not.

    Modes bind root too if it lacks CAP_DAC_OVERRIDE.
    """
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if os.fstat(fd).st_uid == os.geteuid() and mode & 0o300 != 0o300:
        os.fchmod(fd, mode | 0o300)
        try:
            yield
        finally:
            os.fchmod(fd, mode)
    else:
        yield
