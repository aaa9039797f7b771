"""A tree that was built in a mount point, moved up to be its content: what no rename can do in one step.

A list tells what is moved, so that a process that is killed midway leaves nothing that the next one would take for
somebody else's:

1. The list is written beside the built directory, and is on the disk; then its seal is, beside it.
2. What is in that directory is moved up, name by name, and the mount point gets the root's metadata.
3. The directory, empty now, is removed: from here on the tree is complete.
4. The list is removed, and its seal.

While the directory is there, and nobody has locked it, what the list says can be taken back: each name is in the
directory or in the mount point, with the type and time that it was moved with. Where one is not so, somebody has been
at work, and nothing is taken back.

An image may bring files that look like ours, and the next unpacking would remove what they list. So the seal tells the
list's inode number and the time of its last change (ctime), which no image knows beforehand, and nobody can set. An
image that has such names in its root is refused besides; see `staging`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ociexport.rootfs.disk.linux import change_mode, names_in

# A file system's own; where a whole one is the destination, it counts as empty with it.
TOLERATED_IN_MOUNT = frozenset({"lost+found"})
# After the name of the built directory.
LIST_SUFFIX = "-moving"
SEAL_SUFFIX = "-sealed"
_RECORD = re.compile(rb"([0-7]+) (-?[0-9]+) ([^/\0]+)", re.DOTALL)
# Ends the list: a shorter one was not written whole, and then nothing was moved.
_END = b"\0\0"
_OPEN_OURS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_OURS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Type and time of modification, by which what was moved is known again: renaming changes neither.
_Look = tuple[int, int]


def move_up(fd: int, parent_fd: int, name: str, *, sync: bool) -> None:
    """Move what is in the directory ``fd`` up to the mount point that it is in, with its metadata; it is gone then.

    Args:
        fd: the built directory, locked by the caller.
        parent_fd: the mount point, which has nothing of the tree's names.
        name: of the built directory.
        sync: whether each step is on the disk before the next one.

    Raises:
        OSError: some of it may have been moved; see `take_back`.
    """
    names, status = sorted(names_in(fd)), os.fstat(fd)
    _write_list(fd, parent_fd, name, names)
    with _writable(fd):
        for each in names:
            _move(os.fsencode(each), fd, parent_fd)
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
    # Last, since each step before changes it.
    os.utime(parent_fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def moved_names(fd: int, parent_fd: int, name: str) -> set[str]:
    """Return what a process that is no more had moved from ``fd`` to the mount point, and what can be taken back."""
    looks = _read_list(parent_fd, name)
    moved = set()
    for each, look in looks.items():
        above, below = _look_at(each, parent_fd), _look_at(each, fd)
        if above is None or (below is not None and os.fsdecode(each) in TOLERATED_IN_MOUNT):
            continue
        if below is not None or above != look:
            return set()  # somebody else's
        moved.add(os.fsdecode(each))
    return moved


def take_back(fd: int, parent_fd: int, name: str) -> None:
    """Move down again what was moved up, if all of it is still what it was.

    Raises:
        OSError: some of it may have been moved; another call goes on.
    """
    names = moved_names(fd, parent_fd, name)
    if names:
        with _writable(fd), _writable(parent_fd):
            for each in names:
                _move(os.fsencode(each), parent_fd, fd)


def drop_list(parent_fd: int, name: str) -> None:
    """Remove the list and its seal, if there are any of this user: the built directory is gone."""
    for suffix in (LIST_SUFFIX, SEAL_SUFFIX):
        fd = _open_ours(parent_fd, name + suffix)
        if fd is not None:
            os.close(fd)
            os.unlink(name + suffix, dir_fd=parent_fd)


def _write_list(fd: int, parent_fd: int, name: str, names: list[str]) -> None:
    list_fd = os.open(name + LIST_SUFFIX, _CREATE_OURS, 0o600, dir_fd=parent_fd)
    with open(list_fd, "wb") as file:
        for each in names:
            status = os.stat(each, dir_fd=fd, follow_symlinks=False)
            record = b"%o %d %b\0" % (stat.S_IFMT(status.st_mode), status.st_mtime_ns, os.fsencode(each))
            file.write(record)
        file.write(b"\0")
        file.flush()
        # Names would else be on the disk before what this says of them.
        os.fsync(list_fd)
        seal = _seal_of(list_fd)
    seal_fd = os.open(name + SEAL_SUFFIX, _CREATE_OURS, 0o600, dir_fd=parent_fd)
    with open(seal_fd, "wb") as file:
        file.write(seal)
        file.flush()
        os.fsync(seal_fd)


def _seal_of(list_fd: int) -> bytes:
    status = os.fstat(list_fd)
    return b"%d %d\n" % (status.st_ino, status.st_ctime_ns)


def _read_list(parent_fd: int, name: str) -> dict[bytes, _Look]:
    """Return what is to be moved and how it looks; nothing where there is no list, or none that can be trusted."""
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
    """Return a descriptor of a list or seal; None where there is none, or where others may have written it."""
    try:
        fd = os.open(name, _OPEN_OURS, dir_fd=parent_fd)
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
    """Give what is called ``name`` in one directory the same name in another."""
    try:
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    except PermissionError:
        mode = os.stat(name, dir_fd=from_fd, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode) or mode & stat.S_IWUSR:
            raise
        # A directory's ".." changes, for which it must be writable.
        change_mode(from_fd, name, stat.S_IMODE(mode) | stat.S_IWUSR)
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        change_mode(to_fd, name, stat.S_IMODE(mode))


@contextmanager
def _writable(fd: int) -> Iterator[None]:
    """Let an ordinary user write in a directory of their own whose mode, as the image has it, does not."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if os.geteuid() != 0 and mode & 0o300 != 0o300:
        os.fchmod(fd, mode | 0o300)
        try:
            yield
        finally:
            os.fchmod(fd, mode)
    else:
        yield
