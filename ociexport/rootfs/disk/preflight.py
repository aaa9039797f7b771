"""Checks before the first layer is applied: free space for the tree, and features that the file system lacks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from ociexport.errors import counted
from ociexport.rootfs.disk.rights import is_in_user_namespace
from ociexport.spec.config import Layer
from ociexport.system.progress.protocol import format_bytes

# A file system that folds case takes the second for the first; the third always differs.
_PROBE, _FOLDED_PROBE, _OTHER_PROBE = b"probe", b"PROBE", b"other"
# Debian's base image, Python's and the benchmark image have one file per 7 to 10 KB of gzip layers.
_STORED_BYTES_PER_FILE = 10_000
# Errors of a full disk, which don't show what the file system supports.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# An empty set of capabilities (capabilities(7), VFS_CAP_REVISION_2).
_NO_CAPABILITIES = b"\0\0\0\2" + bytes(16)
# For root that may not give files away; see `rights`.
NO_OWNERS = "owners can't be changed here: all files belong to this user, as with --rootless"
# In 2100: small inodes of ext4 end in 2038 and have no nanoseconds, and FAT stores only even seconds.
_FINE_LATE_TIME_NS = 4_102_444_800_123_456_789
_NULL = os.makedev(1, 3)
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def verify_room(fd: int, layers: tuple[Layer, ...], target: str, *, copies: int = 1) -> None:
    """Return if the layers may fit on the file system of ``fd``: they need at least their size as stored.

    The number of inodes that they need is not known beforehand; see `scarce_inodes` and `explain_full_disk`.

    Args:
        copies: how many times their content is there at the same time.

    Raises:
        OSError: they don't fit (ENOSPC); nothing was written.
    """
    status = os.statvfs(fd)
    free = (status.f_bfree if os.geteuid() == 0 else status.f_bavail) * status.f_frsize
    needed = copies * sum(layer.descriptor.size for layer in layers)
    # ramfs and some network file systems don't know their size, and report 0 of 0.
    if status.f_blocks and needed > free:
        raise OSError(
            errno.ENOSPC,
            f"expected room for at least {format_bytes(needed)}, got {format_bytes(free)} free"
            " (--no-preflight skips this check)",
            target,
        )


def scarce_inodes(fd: int, layers: tuple[Layer, ...]) -> Iterator[str]:
    """Yield a line if images of this size usually have more files than ``fd``'s file system has free inodes.

    This is not an error, since a layer may contain just one large file.
    """
    status = os.statvfs(fd)
    expected = sum(layer.descriptor.size for layer in layers) // _STORED_BYTES_PER_FILE
    if status.f_files and status.f_ffree < expected:
        yield (
            f"only {counted(status.f_ffree, 'free inode')} here: "
            f"images of this size have about {expected} files and directories"
        )


def explain_full_disk(fd: int, error: OSError) -> None:
    """Add to "No space left on device" that all inodes are in use, if that is so on the file system of ``fd``."""
    if error.errno != errno.ENOSPC:
        return
    status = os.statvfs(fd)
    if status.f_files and not status.f_ffree:
        error.strerror = f"{error.strerror}: all {status.f_files} inodes are in use"


def missing_features(fd: int, *, with_xattrs: bool = True, as_root: bool = True) -> Iterator[str]:
    """Yield a line for each feature that the file system of the empty directory ``fd`` lacks; no file remains.

    A feature that can't be tried because the disk is full counts as present.

    Args:
        fd: open; no other process uses the directory.
        with_xattrs: whether extended attributes are checked.
        as_root: whether root's tree is made; otherwise the tree of an ordinary user, who reports devices and file
            capabilities as losses. Without effect for an ordinary user.
    """
    is_root = as_root and os.geteuid() == 0
    # In a user namespace no devices can be made, as for an ordinary user: those of the image are reported as losses.
    makes_devices = is_root and not is_in_user_namespace()
    probe_fd = os.open(_PROBE, _CREATE_FILE, 0o600, dir_fd=fd)
    try:
        if not _can_make(fd, _FOLDED_PROBE, lambda name: os.close(os.open(name, _CREATE_FILE, 0o600, dir_fd=fd))):
            yield "names that differ only in case are one file here: such files of the image replace each other"
        if not _can_make(fd, _OTHER_PROBE, lambda name: os.symlink("x", name, dir_fd=fd)):
            yield "symbolic links can't be made here: an image that has one can't be unpacked"
        if not _can_make(fd, _OTHER_PROBE, lambda name: os.link(_PROBE, name, src_dir_fd=fd, dst_dir_fd=fd)):
            yield "hard links can't be made here: an image that has one can't be unpacked"
        if makes_devices and not _can_make(fd, _OTHER_PROBE, lambda name: os.mknod(name, 0o020600, _NULL, dir_fd=fd)):
            yield "devices can't be made here: those of the image are left out, or become empty files (see --devices)"
        if with_xattrs:
            yield from _missing_xattrs(probe_fd, is_root=is_root)
        if not _can(lambda: os.fchmod(probe_fd, 0o640)) or os.fstat(probe_fd).st_mode & 0o7777 != 0o640:
            yield "modes can't be set here: all files have the same one"
        if not _keeps_times(probe_fd):
            yield "times are not stored exactly here: they are cut to the precision and range of the file system"
    finally:
        os.close(probe_fd)
        os.unlink(_PROBE, dir_fd=fd)


def _keeps_times(probe_fd: int) -> bool:
    time_ns = _FINE_LATE_TIME_NS
    return _can(lambda: os.utime(probe_fd, ns=(time_ns, time_ns))) and os.fstat(probe_fd).st_mtime_ns == time_ns


def _missing_xattrs(probe_fd: int, *, is_root: bool) -> Iterator[str]:
    """Yield a line for missing attributes: file systems support both kinds, one, or neither."""
    has_user = _can(lambda: os.setxattr(probe_fd, b"user.ociexport", b"1"))
    if not is_root:
        if not has_user:
            yield "extended attributes can't be set here: those of the image are lost, and owners are not recorded"
        return
    has_capabilities = _can(lambda: os.setxattr(probe_fd, b"security.capability", _NO_CAPABILITIES))
    if not (has_user or has_capabilities):
        yield "extended attributes can't be set here: file capabilities and ACLs are lost"
    elif not has_user:
        yield "user.* attributes can't be set here: those of the image are lost"
    elif not has_capabilities:
        yield "file capabilities can't be set here: those of the image are lost"


def _can_make(fd: int, name: bytes, make: Callable[[bytes], object]) -> bool:
    """Whether ``make`` can create ``name``, which is then removed."""
    can_make = _can(lambda: make(name))
    if not can_make and name == _FOLDED_PROBE:
        return False  # the name is that of `_PROBE`
    # Also after a failure: exFAT through FUSE makes a file before it refuses to make a device.
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
