"""Builds a root filesystem beside its destination, or inside it, and puts it in place when it is complete."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ociexport.errors import NotFoundError, UnsafeEntryError, UsageError, quoted
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, exchange_names, names_in, sync_file_system
from ociexport.rootfs.disk.mount_move import drop_list, move_up, take_back
from ociexport.rootfs.disk.place import (
    MARK_BYTES,
    OPEN_PLACE,
    Place,
    find_place,
    lock_where_possible,
    remove_leftovers,
    verify_is_vacant,
)
from ociexport.rootfs.disk.preflight import explain_full_disk
from ociexport.rootfs.disk.removal import is_overlay, remove_tree
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.host_paths import real_target


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
    step, and the old one is removed. In a target that must stay the same directory, the tree is built in a directory
    inside it, and its parts are moved up one by one; `place` lists these targets, and `mount_move` moves.

    With ``sync`` this holds on disk too, even if the machine loses power.

    Leftovers of a killed process are removed; a directory that a running process has locked is kept.

    Raises:
        UsageError: ``target`` is in use, or is a link to nothing or of another user; it was not touched.
        NotFoundError: its parent directory does not exist.
        OSError: the disk failed; or ``target`` is the new tree, but the old one beside it can't be removed.
    """
    target = real_target(target)
    verify_is_vacant(target, replace=replace)
    place = find_place(target, replace=replace)
    with _opened_parent(place) as parent_fd:
        remove_leftovers(place, parent_fd)
        name = os.fsencode(place.prefix + os.urandom(MARK_BYTES).hex())
        with _new_directory(place, parent_fd, name) as fd:
            with _placing_errors(target, parent_fd):
                prepared = _prepared(fd)
            if place.in_place:
                _verify_is_owned(place, parent_fd)
            elif replace:
                _verify_is_renamable(fd, parent_fd, name, target)
            yield prepared
            if sync:
                sync_file_system(fd)
            _verify_brings_no_leftovers(fd, place)
            if place.in_place:
                _move_up(place, fd, parent_fd, name, sync=sync)
            elif replace:
                _replace(parent_fd, name, os.fsencode(os.path.basename(target)))
            else:
                _rename(parent_fd, name, target)
            if sync:
                os.fsync(parent_fd)
        if not place.in_place:
            _remove_rest(parent_fd, name, place.parent)


@contextmanager
def _opened_parent(place: Place) -> Iterator[int]:
    """Yield a descriptor of the directory that the tree is built in."""
    try:
        fd = os.open(place.parent, OPEN_PLACE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"{quoted(place.parent)}: expected a directory, got none", hint="create it first"
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _new_directory(place: Place, parent_fd: int, name: bytes) -> Iterator[int]:
    """Yield a descriptor of a new directory, locked; if the ``with`` block fails, it is removed with its content."""
    is_made = True
    try:
        try:
            # A signal may arrive as soon as the directory exists, so it is made where it is removed again.
            with _placing_errors(place.target, parent_fd):
                os.mkdir(name, 0o700, dir_fd=parent_fd)
        except OSError:
            is_made = False
            raise
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=parent_fd)
        try:
            lock_where_possible(fd)
            yield fd
        finally:
            os.close(fd)
    except BaseException:
        if is_made:
            remove_tree(parent_fd, name)
            drop_list(parent_fd, os.fsdecode(name))
        raise


def _verify_is_owned(place: Place, target_fd: int) -> None:
    """Return if this process may give the open target the metadata of the tree's root, as `move_up` does at the end.

    Raises:
        UsageError: only its owner may.
    """
    status = os.fstat(target_fd)
    try:
        os.utime(target_fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    except PermissionError as error:
        raise UsageError(
            f"{quoted(place.target)}: expected a directory of this user, got one of user {status.st_uid}",
            hint="choose another directory",
        ) from error


def _verify_brings_no_leftovers(fd: int, place: Place) -> None:
    """Return if no name in the tree's root looks like a leftover of an unpacking into the same target.

    Raises:
        UnsafeEntryError: a name does.
    """
    for name in filter(place.is_leftover, names_in(fd)):
        raise UnsafeEntryError(
            f"{quoted(name)}: expected a name that no unfinished unpacking uses, got one in the image's root",
            hint="unpack the image to another directory",
        )


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
    for acl in ("system.posix_acl_default", "system.posix_acl_access"):
        with suppress(OSError, AttributeError):
            os.removexattr(fd, acl)
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
            import shlex  # noqa: PLC0415 - start-up: only an error needs it

            raise UsageError(
                f"{quoted(target)}: expected a directory that can be renamed, got one of a lower layer of an overlay",
                hint=f"remove it first: ociexport rm {shlex.quote(target)}",
            ) from error
    finally:
        os.rmdir("probe", dir_fd=fd)


def _move_up(place: Place, fd: int, target_fd: int, name: bytes, *, sync: bool) -> None:
    """Move the tree up into its target, which the lock keeps other unpackings out of."""
    try:
        lock_where_possible(target_fd)
        is_vacant = place.is_vacant(target_fd)
    except BlockingIOError:
        is_vacant = False  # another process is moving
    if not is_vacant:
        raise UsageError(
            f"{quoted(place.target)}: expected no file or an empty directory, got one that was just filled"
        )
    with _placing_errors(place.target, target_fd):
        try:
            move_up(fd, target_fd, os.fsdecode(name), sync=sync)
        except BaseException:
            take_back(fd, target_fd, os.fsdecode(name))
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
