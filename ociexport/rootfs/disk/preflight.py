"""What is looked at before the first layer is applied: room for the tree, and what the file system can't keep."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from ociexport.spec.config import Layer
from ociexport.system.progress.protocol import format_bytes

# The second is the same name as the first to a file system that folds case; the third is another one in any case.
_PROBE, _FOLDED_PROBE, _OTHER_PROBE = b"probe", b"PROBE", b"other"
# Debian's base, Python and the bench image have one file for each 7 to 10 KB of their layers in gzip.
_STORED_BYTES_PER_FILE = 10_000
# Says nothing of what the file system could keep.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# A set of capabilities with none in it (capabilities(7), VFS_CAP_REVISION_2).
_NO_CAPABILITIES = b"\0\0\0\2" + bytes(16)
# In 2100: small inodes of ext4 end in 2038 and have no nanoseconds, and FAT knows even seconds only.
_FINE_LATE_TIME_NS = 4_102_444_800_123_456_789
_NULL = os.makedev(1, 3)
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def verify_room(fd: int, layers: tuple[Layer, ...], target: str) -> None:
    """Return if the layers can fit on the file system of ``fd``: their bytes as stored are the least that they need.

    How many inodes they need nobody knows before; see `scarce_inodes` and `explain_full_disk`.

    Raises:
        OSError: they can't (ENOSPC); nothing was written.
    """
    status = os.statvfs(fd)
    free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
    needed = sum(layer.descriptor.size for layer in layers)
    # ramfs and some network file systems tell nothing, and say 0 of 0.
    if status.f_blocks and needed > free:
        raise OSError(
            errno.ENOSPC,
            f"expected room for {format_bytes(needed)} at least, got {format_bytes(free)} free"
            " (--no-preflight goes on all the same)",
            target,
        )


def scarce_inodes(fd: int, layers: tuple[Layer, ...]) -> Iterator[str]:
    """Yield a line if images of this size have more files than ``fd``'s file system has inodes left.

    It is no error, for one large file may be all that there is in a layer.
    """
    status = os.statvfs(fd)
    expected = sum(layer.descriptor.size for layer in layers) // _STORED_BYTES_PER_FILE
    if status.f_files and status.f_ffree < expected:
        yield f"{status.f_ffree} inodes are free here: images of this size have about {expected} files and directories"


def explain_full_disk(fd: int, error: OSError) -> None:
    """Make "No space left on device" say it, where it is inodes that are used up on the file system of ``fd``."""
    if error.errno != errno.ENOSPC:
        return
    status = os.statvfs(fd)
    if status.f_files and not status.f_ffree:
        error.strerror = f"{error.strerror}: all {status.f_files} inodes are in use"


def missing_features(fd: int, *, with_xattrs: bool = True) -> Iterator[str]:
    """Yield a line for each thing that the file system of the empty directory ``fd`` can't keep; nothing is left.

    What can't be tried, since the disk is full, counts as there.

    Args:
        fd: open, and the caller's alone.
        with_xattrs: whether attributes are wanted at all.
    """
    is_root = os.geteuid() == 0
    # In a user namespace nobody makes devices, as no ordinary user does: those that the image has are counted and told.
    makes_devices = is_root and not _is_in_user_namespace()
    probe_fd = os.open(_PROBE, _CREATE_FILE, 0o600, dir_fd=fd)
    try:
        if not _can_make(fd, _FOLDED_PROBE, lambda name: os.close(os.open(name, _CREATE_FILE, 0o600, dir_fd=fd))):
            yield "names that differ in case only are one file here: such files of the image replace each other"
        if not _can_make(fd, _OTHER_PROBE, lambda name: os.symlink("x", name, dir_fd=fd)):
            yield "there are no symbolic links here: an image that has one can't be unpacked"
        if not _can_make(fd, _OTHER_PROBE, lambda name: os.link(_PROBE, name, src_dir_fd=fd, dst_dir_fd=fd)):
            yield "there are no hard links here: an image that has one can't be unpacked"
        if makes_devices and not _can_make(fd, _OTHER_PROBE, lambda name: os.mknod(name, 0o020600, _NULL, dir_fd=fd)):
            yield "devices can't be made here: those of the image are left out, or empty files as --devices says"
        if with_xattrs:
            yield from _missing_xattrs(probe_fd, is_root=is_root)
        if is_root and not _can(lambda: os.fchown(probe_fd, 1, 1)):
            yield "files can't be given to others here: an image that has files of others than root can't be unpacked"
        if not _can(lambda: os.fchmod(probe_fd, 0o640)) or os.fstat(probe_fd).st_mode & 0o7777 != 0o640:
            yield "there are no modes here: all files have the same"
        if not _keeps_times(probe_fd):
            yield "times are not kept whole here: finer and later ones than the file system has are cut"
    finally:
        os.close(probe_fd)
        os.unlink(_PROBE, dir_fd=fd)


def _keeps_times(probe_fd: int) -> bool:
    time_ns = _FINE_LATE_TIME_NS
    return _can(lambda: os.utime(probe_fd, ns=(time_ns, time_ns))) and os.fstat(probe_fd).st_mtime_ns == time_ns


def _is_in_user_namespace() -> bool:
    """Whether ids here are others outside (user_namespaces(7), "User and group ID mappings")."""
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return file.read().split() != [b"0", b"0", b"4294967295"]
    except FileNotFoundError:
        return False


def _missing_xattrs(probe_fd: int, *, is_root: bool) -> Iterator[str]:
    """Yield what the file can't have: file systems have both kinds of attributes, one, or none."""
    has_user = _can(lambda: os.setxattr(probe_fd, b"user.ociexport", b"1"))
    if not is_root:
        if not has_user:
            yield "there are no extended attributes here: those of the image are lost, and owners are not remembered"
        return
    has_capabilities = _can(lambda: os.setxattr(probe_fd, b"security.capability", _NO_CAPABILITIES))
    if not (has_user or has_capabilities):
        yield "there are no extended attributes here: file capabilities and ACLs are lost"
    elif not has_user:
        yield "there are no user.* attributes here: those of the image are lost"
    elif not has_capabilities:
        yield "file capabilities can't be set here: those of the image are lost"


def _can_make(fd: int, name: bytes, make: Callable[[bytes], object]) -> bool:
    """Whether ``name`` can be made so; it is gone afterwards."""
    can_make = _can(lambda: make(name))
    if not can_make and name == _FOLDED_PROBE:
        return False  # it is `_PROBE`
    # Also after a failure: exFAT by FUSE makes a file, and then says that it can't be a device.
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=fd)
    return can_make


def _can(action: Callable[[], object]) -> bool:
    try:
        action()
    except OSError as error:
        return error.errno in _FULL
    except AttributeError:
        return False
    return True
