"""Where the tree for a target is built, whether the target is free, and what a killed process left there.

A tree is built beside its target and renamed. In some targets it is built in place: the target stays the same
directory, and the tree is built in a directory inside it and moved up; see `mount_move`. These targets are

- a mount point, which can't be renamed;
- the working directory, since after a rename the user's shell would stand in a removed directory;
- a directory of this user below a parent that they may not write;
- a directory with leftovers of a killed process that built in place, unless it is to be replaced.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ociexport.errors import UsageError, counted, quoted
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, names_in
from ociexport.rootfs.disk.mount_move import (
    LIST_SUFFIX,
    SEAL_SUFFIX,
    TOLERATED_IN_MOUNT,
    drop_list,
    moved_names,
    take_back,
)
from ociexport.rootfs.disk.removal import is_mount_point, remove_tree, verify_no_mounts
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.partial_names import STAGED_MARK as _MARK

MARK_BYTES = 4
_LEFTOVER_PATTERN = re.compile(rf"[0-9a-f]{{{2 * MARK_BYTES}}}(-old|{LIST_SUFFIX}|{SEAL_SUFFIX})?")
# For the target and its parent, in whose paths links are followed.
OPEN_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tree for a target is built.

    Args:
        target: its real path.
        in_place: whether the tree is built inside the target; otherwise beside it.
        is_mount: whether the target is a mount point.
        is_working_directory: whether it is the process's working directory.
    """

    target: str
    in_place: bool = False
    is_mount: bool = False
    is_working_directory: bool = False

    @property
    def parent(self) -> str:
        """The directory that the tree is built in."""
        return self.target if self.in_place else os.path.dirname(self.target)

    @property
    def prefix(self) -> str:
        """The prefix of the names of staged directories, cut so that the names are within the limit in bytes."""
        return os.fsdecode(os.fsencode(os.path.basename(self.target))[:200]) + _MARK

    def is_leftover(self, name: str) -> bool:
        """Whether a name has the exact form of a staged directory's: a user's ``rootfs.partial-backup`` has not."""
        return name.startswith(self.prefix) and _LEFTOVER_PATTERN.fullmatch(name, len(self.prefix)) is not None

    def is_vacant(self, fd: int) -> bool:
        """Whether the open target has only the file system's own names and those of unfinished trees."""
        return all(self.is_leftover(name) for name in names_in(fd) if not self._is_tolerated(name))

    def foreign_names(self, fd: int) -> set[str]:
        """Return the names in the open target, except the file system's own and leftovers of killed processes."""
        names = set(names_in(fd))
        leftovers = set(filter(self.is_leftover, names))
        names = {name for name in names - leftovers if not self._is_tolerated(name)}
        for name in leftovers if names and self.in_place else ():
            with suppress(OSError), _locked(fd, name) as leftover_fd:
                names -= moved_names(leftover_fd, fd, name)
        return names

    def _is_tolerated(self, name: str) -> bool:
        return self.is_mount and name in TOLERATED_IN_MOUNT


def find_place(target: str, *, replace: bool = False) -> Place:
    """Return where the tree for ``target``, a real path, is built.

    Args:
        replace: whether the tree may replace another one, with which it then exchanges its name.
    """
    try:
        status = os.stat(target)
        names = os.listdir(target)
    except OSError:
        return Place(target)
    is_mount, is_here = is_mount_point(target), _is_working_directory(status)
    beside = Place(target)
    in_place = (
        is_mount
        or is_here
        or (status.st_uid == os.geteuid() and not _may_write(beside.parent))
        or (not replace and any(map(beside.is_leftover, names)))
    )
    return Place(target, in_place, is_mount, is_here)


def verify_is_vacant(target: str, *, replace: bool = False) -> None:
    """Return if ``target`` is absent or an empty directory, or with ``replace`` any directory that can be renamed.

    Raises:
        UsageError: it is neither, or something is mounted in the directory that would be replaced.
    """
    try:
        os.listdir(target)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UsageError(f"{quoted(target)}: expected no file or an empty directory, got a file") from error
    place = find_place(target, replace=replace)
    if replace and not place.in_place:
        verify_no_mounts(target)
        return
    with _opened(target) as fd:
        names = place.foreign_names(fd)
    if names:
        entries = counted(len(names), "entry")
        if not place.in_place:
            hint = "choose another directory, empty this one, or have it replaced with --replace"
        elif place.is_working_directory and not place.is_mount:
            hint = "choose another directory, empty this one, or replace it from another directory with --replace"
        else:
            hint = "choose another directory or empty this one"
        raise UsageError(f"{quoted(target)}: expected no file or an empty directory, got one with {entries}", hint=hint)


def remove_leftovers(place: Place, parent_fd: int) -> None:
    """Remove what killed processes left in the directory that the tree is built in, and beside the target.

    What a running process has locked is kept, and so is what another user owns.
    """
    _remove_leftovers_in(parent_fd, place, are_moved=place.in_place)
    if place.in_place and not place.is_mount:
        with suppress(OSError), _opened(os.path.dirname(place.target)) as fd:
            _remove_leftovers_in(fd, place, are_moved=False)


def _remove_leftovers_in(parent_fd: int, place: Place, *, are_moved: bool) -> None:
    for name in filter(place.is_leftover, names_in(parent_fd)):
        with suppress(OSError):  # another user's, or just removed by its owner
            _remove_leftover(parent_fd, name, are_moved=are_moved)


def _remove_leftover(parent_fd: int, name: str, *, are_moved: bool) -> None:
    """Remove a staged directory with the files that were moved out of it, and then its list."""
    staged_name = name.removesuffix(LIST_SUFFIX).removesuffix(SEAL_SUFFIX)
    with suppress(FileNotFoundError), _locked(parent_fd, staged_name) as fd:
        if are_moved:
            take_back(fd, parent_fd, staged_name)
        remove_tree(parent_fd, os.fsencode(staged_name))
    drop_list(parent_fd, staged_name)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Yield a descriptor of a directory, in whose path links are followed."""
    fd = os.open(path, OPEN_PLACE)
    try:
        yield fd
    finally:
        os.close(fd)


def lock_where_possible(fd: int) -> None:
    """Lock a directory, unless its file system has no locks, as some NFS; the user then keeps processes apart.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


@contextmanager
def _locked(parent_fd: int, name: str) -> Iterator[int]:
    """Yield a descriptor of a directory, locked.

    Raises:
        OSError: another process has locked it, it is not a directory, or its file system has no locks.
    """
    fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def _is_working_directory(status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, os.stat("."))
    except OSError:  # it was removed, or is closed to this user
        return False


def _may_write(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
