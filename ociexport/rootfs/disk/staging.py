"""Builds a root filesystem beside its destination and renames it into place: the destination is absent or complete."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ociexport.errors import NotFoundError, UnsafeEntryError, UsageError, counted, quoted
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, exchange_names, names_in, sync_file_system
from ociexport.rootfs.disk.mount_move import (
    LIST_SUFFIX,
    SEAL_SUFFIX,
    TOLERATED_IN_MOUNT,
    drop_list,
    move_up,
    moved_names,
    take_back,
)
from ociexport.rootfs.disk.preflight import explain_full_disk
from ociexport.rootfs.disk.removal import is_mount_point, is_overlay, remove_tree, verify_no_mounts
from ociexport.system.host_paths import real_path, real_target
from ociexport.system.partial_names import STAGED_MARK as _MARK

_MARK_BYTES = 4
_LEFTOVER_PATTERN = re.compile(rf"[0-9a-f]{{{2 * _MARK_BYTES}}}(-old|{LIST_SUFFIX}|{SEAL_SUFFIX})?")
# For the target and its parent, in whose paths links are followed.
_OPEN_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class StagedDirectory:
    """The directory that a tree is built in.

    Args:
        fd: its descriptor.
        natural_owner: uid and gid that new files in the directory get.
        masked_bits: mode bits that new files in the directory do not get.
    """

    fd: int
    natural_owner: tuple[int, int]
    masked_bits: int


@contextmanager
def staged_directory(target: str, *, replace: bool = False, sync: bool = False) -> Iterator[StagedDirectory]:
    """Yield an empty directory that becomes ``target`` when the ``with`` block succeeds, and is removed if it fails.

    ``target`` is absent or an empty directory. With ``replace`` it may be any directory: the two are exchanged in one
    step, and the old one is removed. A mount point can't be renamed: the tree is then built in a directory inside it,
    and its parts are moved up one by one; see `mount_move`.

    With ``sync`` this holds on disk too, even if the machine loses power.

    Leftovers of a killed process beside ``target`` are removed; a directory that a running process has locked is kept.

    Raises:
        UsageError: ``target`` is in use, or is a link to nothing or of another user; it was not touched.
        NotFoundError: its parent directory does not exist.
        OSError: the disk failed; or ``target`` is the new tree, but the old one beside it can't be removed.
    """
    target = real_target(target)
    verify_is_vacant(target, replace=replace)
    is_mount = is_mount_point(target)
    parent = target if is_mount else os.path.dirname(target)
    try:
        parent_fd = os.open(parent, _OPEN_PLACE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{quoted(parent)}: expected a directory, got none", hint="create it first") from error
    prefix = _prefix_of(target)
    try:
        _remove_leftovers(parent_fd, prefix, is_mount=is_mount)
        name = os.fsencode(prefix + secrets.token_hex(_MARK_BYTES))
        is_made = True
        try:
            try:
                # A signal may arrive as soon as the directory exists, so it is made where it is removed again.
                with _placing_errors(target, parent_fd):
                    os.mkdir(name, 0o700, dir_fd=parent_fd)
            except OSError:
                is_made = False
                raise
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent_fd)
            try:
                _lock_where_possible(fd)
                with _placing_errors(target, parent_fd):
                    prepared = _prepared(fd)
                if replace and not is_mount:
                    _verify_is_renamable(fd, parent_fd, name, target)
                yield prepared
                if sync:
                    sync_file_system(fd)
                if is_mount:
                    _verify_brings_no_leftovers(fd, prefix)
                    _verify_is_still_vacant(parent_fd, prefix, target)
                    with _placing_errors(target, parent_fd):
                        _move_up(fd, parent_fd, name, sync=sync)
                elif replace:
                    _replace(parent_fd, name, os.fsencode(os.path.basename(target)))
                else:
                    _rename(parent_fd, name, target)
                if sync:
                    os.fsync(parent_fd)
            finally:
                os.close(fd)
        except BaseException:
            if is_made:
                remove_tree(parent_fd, name)
                drop_list(parent_fd, os.fsdecode(name))
            raise
        if not is_mount:
            _remove_rest(parent_fd, name, parent)
    finally:
        os.close(parent_fd)


def verify_is_vacant(target: str, *, replace: bool = False) -> None:
    """Return if ``target`` is absent or an empty directory, or with ``replace`` any directory that can be renamed.

    Raises:
        UsageError: it is neither, or something is mounted in the directory that would be replaced.
    """
    try:
        names = set(os.listdir(target))
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UsageError(f"{quoted(target)}: expected no file or an empty directory, got a file") from error
    is_mount = is_mount_point(target)
    if replace and not is_mount:
        verify_no_mounts(real_path(target))
        return
    prefix = _prefix_of(target)
    if is_mount:
        fd = os.open(target, _OPEN_PLACE)
        try:
            names = _foreign_names(fd, prefix)
        finally:
            os.close(fd)
    else:
        names = {name for name in names if not _is_leftover(name, prefix)}
    if names:
        entries = counted(len(names), "entry")
        # A mount point can't be renamed.
        replaced = "" if is_mount else ", or have it replaced with --replace"
        raise UsageError(
            f"{quoted(target)}: expected no file or an empty directory, got one with {entries}",
            hint=f"choose another directory{' or' if is_mount else ','} empty this one{replaced}",
        )


def _verify_is_still_vacant(parent_fd: int, prefix: str, target: str) -> None:
    """Return if the mount point is still empty after the build; its lock then keeps other unpackings out."""
    try:
        _lock_where_possible(parent_fd)
        is_vacant = all(name in TOLERATED_IN_MOUNT or _is_leftover(name, prefix) for name in names_in(parent_fd))
    except BlockingIOError:
        is_vacant = False  # another process is moving
    if not is_vacant:
        raise UsageError(f"{quoted(target)}: expected no file or an empty directory, got one that was just filled")


def _verify_brings_no_leftovers(fd: int, prefix: str) -> None:
    """Return if no name in the tree's root looks like a leftover of an unpacking into the mount point.

    Raises:
        UnsafeEntryError: a name does.
    """
    for name in names_in(fd):
        if _is_leftover(name, prefix):
            raise UnsafeEntryError(
                f"{quoted(name)}: expected a name that no unfinished unpacking uses, got one in the image's root",
                hint="unpack the image to another directory",
            )


def _foreign_names(mount_fd: int, prefix: str) -> set[str]:
    """Return the names in a mount point, except the file system's own and leftovers of killed processes."""
    names = set(names_in(mount_fd))
    leftovers = {name for name in names if _is_leftover(name, prefix)}
    names -= leftovers | TOLERATED_IN_MOUNT
    for name in leftovers if names else ():
        with suppress(OSError), _locked(mount_fd, name) as fd:
            names -= moved_names(fd, mount_fd, name)
    return names


def _prefix_of(target: str) -> str:
    """Return the prefix of the names of staged directories, cut so that the names are within the limit in bytes."""
    return os.fsdecode(os.fsencode(os.path.basename(target))[:200]) + _MARK


@contextmanager
def _placing_errors(target: str, parent_fd: int) -> Iterator[None]:
    """Make errors of the disk name ``target`` instead of names internal to this module."""
    try:
        yield
    except OSError as error:
        error.filename = target
        explain_full_disk(parent_fd, error)
        raise


def _prepared(fd: int) -> StagedDirectory:
    """Remove what the directory inherits from its parent, and find out owner and mode bits of new files in it."""
    with suppress(OSError, AttributeError):
        os.removexattr(fd, "system.posix_acl_default")
    os.fchmod(fd, 0o700)
    probe_fd = os.open("probe", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o777, dir_fd=fd)
    try:
        status = os.fstat(probe_fd)
    finally:
        os.close(probe_fd)
        os.unlink("probe", dir_fd=fd)
    if (own := os.fstat(fd)).st_gid != status.st_gid or own.st_uid != status.st_uid:
        # The parent gave its group to this directory (setgid), but new files in this one do not get that group.
        os.fchown(fd, status.st_uid, status.st_gid)
    return StagedDirectory(fd, (status.st_uid, status.st_gid), 0o777 & ~stat.S_IMODE(status.st_mode))


def _verify_is_renamable(fd: int, parent_fd: int, name: bytes, target: str) -> None:
    """Return if the old tree can be renamed, which a directory of an overlay's lower layer can't.

    The rename is tried onto a directory that is not empty. It always fails, so nothing is ever changed.

    Raises:
        UsageError: the old tree can't be renamed; this is known before the layers are fetched.

    Spec: Documentation/filesystems/overlayfs.rst, "redirect_dir".
    """
    if not is_overlay(fd):
        return
    os.mkdir("probe", dir_fd=fd)
    try:
        os.rename(os.path.basename(target), name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except OSError as error:
        # An empty old tree need not be renamed: a rename replaces it.
        if error.errno == errno.EXDEV and os.listdir(target):
            raise UsageError(
                f"{quoted(target)}: expected a directory that can be renamed, got one of a lower layer of an overlay",
                hint=f"remove it first: ociexport rm {shlex.quote(target)}",
            ) from error
    finally:
        os.rmdir("probe", dir_fd=fd)


def _remove_leftovers(parent_fd: int, prefix: str, *, is_mount: bool) -> None:
    for name in names_in(parent_fd):
        if not _is_leftover(name, prefix):
            continue
        with suppress(OSError):  # another user's, or just removed by its owner
            _remove_leftover(parent_fd, name, is_mount=is_mount)


def _remove_leftover(parent_fd: int, name: str, *, is_mount: bool) -> None:
    """Remove a staged directory with the files that were moved out of it, and then its list."""
    staged_name = name.removesuffix(LIST_SUFFIX).removesuffix(SEAL_SUFFIX)
    with suppress(FileNotFoundError), _locked(parent_fd, staged_name) as fd:
        if is_mount:  # only there are files moved out
            take_back(fd, parent_fd, staged_name)
        remove_tree(parent_fd, os.fsencode(staged_name))
    drop_list(parent_fd, staged_name)


def _lock_where_possible(fd: int) -> None:
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


def _is_leftover(name: str, prefix: str) -> bool:
    """Whether a name has the exact form of a staged directory's: a user's own ``rootfs.partial-backup`` has not."""
    return name.startswith(prefix) and _LEFTOVER_PATTERN.fullmatch(name, len(prefix)) is not None


def _move_up(fd: int, parent_fd: int, name: bytes, *, sync: bool) -> None:
    try:
        move_up(fd, parent_fd, os.fsdecode(name), sync=sync)
    except BaseException:
        take_back(fd, parent_fd, os.fsdecode(name))
        raise


def _rename(parent_fd: int, name: bytes, target: str) -> None:
    try:
        os.rename(name, os.path.basename(target), src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise UsageError(
            f"{quoted(target)}: expected no file or an empty directory, got one that was just created"
        ) from error


def _replace(parent_fd: int, name: bytes, target_name: bytes) -> None:
    """Put the new tree in the old one's place; the old one then has the staged name."""
    try:
        if exchange_names(parent_fd, name, target_name):
            return
        # The old tree is first renamed to a leftover's name: a kill here leaves the target absent, never mixed.
        aside = name + b"-old"
        os.rename(target_name, aside, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except OSError as error:
        # The target is absent, or an empty directory of an overlay's lower layer.
        if error.errno not in (errno.ENOENT, errno.EXDEV):
            raise
        os.rename(name, target_name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
        return
    os.rename(name, target_name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    os.rename(aside, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)


def _remove_rest(parent_fd: int, name: bytes, parent: str) -> None:
    """Remove the old tree, if one was replaced: it now has the staged directory's name."""
    try:
        remove_tree(parent_fd, name)
    except PermissionError as error:
        raise OSError(
            errno.EPERM,
            "replaced, but not removed: it has files of other users (try ociexport rm)",
            os.path.join(parent, os.fsdecode(name)),
        ) from error
