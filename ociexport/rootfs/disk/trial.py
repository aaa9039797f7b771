"""What this process and this file system make of the metadata in an image: `unpack` tries it on a file without a name.

A file system may refuse an attribute, cut a time, or store an attribute in another form; and an ordinary user may not
set all of them. No list of such cases is kept: the code of `unpack` sets the metadata on a nameless file in the same
file system, and what it then has is what `unpack` made of it. The tree is not changed.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from ociexport.errors import OciexportError
from ociexport.layers.losses import Losses
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.rootfs.disk.metadata import MetadataPolicy, MetadataWriter
from ociexport.rootfs.disk.rights import is_in_user_namespace
from ociexport.rootfs.disk.xattrs import read_xattrs
from ociexport.spec.lazy_dataclass import dataclass

_CREATED_MODE = 0o600
# An attribute that only directories have, so that it can't be tried.
_DEFAULT_ACL = b"system.posix_acl_default"
# capabilities(7), CAP_MKNOD = 27: the third bit of the fourth byte from the end.
_MKNOD_BYTE, _MKNOD_BIT = -4, 0x08


@dataclass(frozen=True, slots=True)
class TriedMetadata:
    """What a file has after its metadata was set."""

    mode: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]


class MetadataTrial:
    """Tries metadata on the file system of a tree.

    Args:
        root_fd: the tree's directory.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd

    def of(self, entry: Entry, directory_fd: int, *, records_owner: bool) -> TriedMetadata | None:
        """Return what `unpack` makes of the metadata in ``entry``; None if that can't be tried here.

        Args:
            directory_fd: another directory in the file system, where a file may be made if the root does not allow it.
            records_owner: whether the owner is recorded in an attribute, since it is not set.
        """
        fd = self._nameless_file(directory_fd)
        if fd is None:
            return None
        try:
            os.fchmod(fd, _CREATED_MODE)
            # Without a change of owner, which can't be tried here: the file has the owner that the image declares.
            writer = MetadataWriter(
                MetadataPolicy(set_owners=not records_owner),
                natural_owner=(entry.uid, entry.gid),
                masked_bits=0,
                losses=Losses(),
            )
            writer.apply_to_file(fd, _as_file(entry), _CREATED_MODE)
            status = os.fstat(fd)
            if not status.st_mode & stat.S_IRUSR:
                os.fchmod(fd, status.st_mode | stat.S_IRUSR)  # user.* attributes can be read then
            xattrs = read_xattrs(fd)
        except (OSError, OciexportError):
            return None
        finally:
            os.close(fd)
        if entry.type is EntryType.DIRECTORY and (acl := (entry.xattrs or {}).get(_DEFAULT_ACL)) is not None:
            xattrs[_DEFAULT_ACL] = acl
        return TriedMetadata(stat.S_IMODE(status.st_mode), status.st_mtime_ns, xattrs)

    def _nameless_file(self, directory_fd: int) -> int | None:
        """Return a new file without a name, which goes when it is closed; None if none can be made here."""
        nameless = getattr(os, "O_TMPFILE", 0)
        # A root that its owner may not write to is nothing unusual (Fedora: mode 0555), so the one above is tried too.
        for fd, name in ((self._root_fd, "."), (directory_fd, "."), (self._root_fd, "..")) if nameless else ():
            with suppress(OSError):
                file_fd = os.open(name, nameless | os.O_RDWR | os.O_CLOEXEC, _CREATED_MODE, dir_fd=fd)
                if os.fstat(file_fd).st_dev == os.fstat(self._root_fd).st_dev:
                    return file_fd
                os.close(file_fd)
        return None


def _as_file(entry: Entry) -> Entry:
    """Return ``entry`` without the attributes that only files and directories can have (xattr(7))."""
    if entry.type in (EntryType.FILE, EntryType.DIRECTORY) or not entry.xattrs:
        return entry
    return entry._replace(xattrs={name: value for name, value in entry.xattrs.items() if not name.startswith(b"user.")})


def may_make_devices() -> bool:
    """Whether this process has the right to make devices: CAP_MKNOD outside of user namespaces (mknod(2))."""
    if os.geteuid() != 0 or is_in_user_namespace():
        return False
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            effective = next((line.split()[1] for line in file if line.startswith("CapEff:")), None)
    except OSError:
        effective = None
    return effective is None or bool(bytes.fromhex(effective)[_MKNOD_BYTE] & _MKNOD_BIT)
