"""Owners, modes, times and extended attributes, set on what was just made; what can't be set is counted and told."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from ociexport.errors import UsageError, quoted, quoted_path
from ociexport.layers.losses import HAS_XATTRS, Losses, count_xattr, is_foreign_xattr
from ociexport.layers.tar.reader import DEVICE_TYPES, Entry
from ociexport.rootfs.disk.inode_record import InodeRecord
from ociexport.rootfs.disk.linux import change_mode, name_in

# What umoci, runrootless and proot read a file's owner from where it could not be set.
ROOTLESS_XATTR = b"user.rootlesscontainers"
_NO_CHANGE_ID = 2**32 - 1
# What a file system or kernel says to an attribute that it does not take.
_XATTR_REFUSALS = frozenset(
    {
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EACCES,
        errno.ERANGE,
        errno.E2BIG,
        errno.EINVAL,
        errno.ENOSPC,
        errno.ENOSYS,
    }
)


class XattrMode(Enum):
    """What becomes of extended attributes that the file system refuses."""

    STRICT = "strict"
    WARN = "warn"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class IdMap:
    """Ranges of ids in the image and what they are on the host, as umoci's ``--uid-map`` has them.

    Args:
        ranges: (first id in the image, first id on the host, how many).
    """

    ranges: tuple[tuple[int, int, int], ...]

    @classmethod
    def parse(cls, texts: tuple[str, ...]) -> IdMap:
        """Return the map that texts of the form ``container:host[:size]`` mean.

        Raises:
            UsageError: one is of another form.
        """
        ranges = []
        for text in texts:
            parts = text.split(":")
            if not 2 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() for part in parts):
                raise UsageError(
                    f"id map {quoted(text)}: expected container:host[:size], all numbers",
                    hint="for example --uid-map 0:100000:65536",
                )
            first, host, size = (*map(int, parts), 1)[:3]
            if not size or max(first, host) + size > 2**32 - 1:
                raise UsageError(f"id map {quoted(text)}: expected ids from 0 to {2**32 - 2}")
            ranges.append((first, host, size))
        return cls(tuple(ranges))

    def to_host(self, image_id: int) -> int | None:
        """Return the host's id for one in the image; None where no range has it."""
        for first, host, size in self.ranges:
            if first <= image_id < first + size:
                return host + image_id - first
        return None


@dataclass(frozen=True, slots=True)
class MetadataPolicy:
    """How owners and attributes are to be treated.

    Args:
        set_owners: whether this process may; False for an ordinary user.
        xattrs: what a refused attribute means.
        uid_map: None for ids as they are.
        gid_map: the same for groups.
    """

    set_owners: bool
    xattrs: XattrMode = XattrMode.WARN
    uid_map: IdMap | None = None
    gid_map: IdMap | None = None

    @property
    def keeps_owners(self) -> bool:
        """Whether all files get the owners that the image says."""
        return self.set_owners and self.uid_map is None and self.gid_map is None


class MetadataWriter:
    """Sets what an entry says about itself on what was made of it.

    The order is that of the kernel's side effects: writing drops file capabilities, chown drops setuid and
    capabilities, so they go data, owner, mode, attributes, times.

    Args:
        policy: how owners and attributes are to be treated.
        natural_owner: uid and gid that a new file here gets by itself, so that most files need no chown.
        masked_bits: mode bits that a new file here does not get by itself (the umask), so that most need no chmod.
        losses: counts what could not be set.
        record: notes what the image says of all that is no directory; None where nobody asks.
    """

    def __init__(
        self,
        policy: MetadataPolicy,
        *,
        natural_owner: tuple[int, int],
        masked_bits: int,
        losses: Losses,
        record: InodeRecord | None = None,
    ) -> None:
        self._policy = policy
        self._natural_owner = natural_owner
        self._natural_bits = 0o777 & ~masked_bits
        self._losses = losses
        self._record = record
        # With maps, the image's ids say nothing about the host's; an ordinary user's tree is read as root's where it is
        # not remembered otherwise, so what belongs to this very user in the image is remembered too.
        self._owners_are_others = not policy.keeps_owners

    def apply_to_file(self, fd: int, entry: Entry, created_mode: int) -> None:
        """Set everything on an open file or directory that was made with ``created_mode``."""
        if self._owners_are_others or (entry.uid, entry.gid) != self._natural_owner:
            self._change_owner(fd, entry)
        # Setuid and its like are never in created_mode, so a mode that chown took them from is set again here.
        if entry.mode != created_mode & self._natural_bits:
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            self._set_xattrs(fd, entry.xattrs)
        mtime_ns, atime_ns = entry.mtime_ns, entry.atime_ns
        os.utime(fd, ns=(mtime_ns if atime_ns is None else atime_ns, mtime_ns))
        if self._record is not None:
            self._record.note(os.fstat(fd).st_ino, entry)

    def apply_to_name(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        """Set everything on a device or fifo, which can't be opened without side effects."""
        self._chown_name(parent_fd, name, entry)
        change_mode(parent_fd, name, entry.mode)
        self._apply_to_closed_name(parent_fd, name, entry)

    def apply_to_symlink(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        """Set owner, attributes and times on a link itself; links have no mode of their own."""
        self._chown_name(parent_fd, name, entry)
        self._apply_to_closed_name(parent_fd, name, entry)

    def _apply_to_closed_name(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        if entry.xattrs:
            # There is no setxattrat before Linux 6.13; the kernel's own name of the open parent serves as well.
            self._set_xattrs(name_in(parent_fd, name), entry.xattrs)
        self.set_times(parent_fd, name, entry)
        if self._record is not None:
            self._record.note(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_ino, entry)

    def needs_only_times(self, entry: Entry, created_mode: int) -> bool:
        """Whether something made with ``created_mode`` lacks nothing but its times."""
        return (
            entry.mode == created_mode & self._natural_bits
            and (entry.uid, entry.gid) == self._natural_owner
            and not (entry.xattrs or self._owners_are_others)
        )

    def set_times(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        """Set the times of something that is not open."""
        atime_ns = entry.mtime_ns if entry.atime_ns is None else entry.atime_ns
        os.utime(name, ns=(atime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _chown_name(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        owner = self._host_owner(entry)
        if owner is not None and owner != self._natural_owner:
            with _naming_owner(owner, entry):
                os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)

    def _change_owner(self, fd: int, entry: Entry) -> None:
        owner = self._host_owner(entry)
        if owner is None:
            self._remember_owner(fd, entry)
        elif owner != self._natural_owner:
            with _naming_owner(owner, entry):
                os.fchown(fd, *owner)

    def _host_owner(self, entry: Entry) -> tuple[int, int] | None:
        """Return the owner on the host; None, and counted, where it can't be set."""
        if not self._policy.set_owners:
            # A device, for which an empty file stands in, is counted as such.
            self._losses.owners += (entry.uid, entry.gid) != (0, 0) and entry.type not in DEVICE_TYPES
            return None
        return (
            _mapped(self._policy.uid_map, entry.uid, "uid", entry),
            _mapped(self._policy.gid_map, entry.gid, "gid", entry),
        )

    def _remember_owner(self, fd: int, entry: Entry) -> None:
        if (entry.uid, entry.gid) == (0, 0) or self._policy.xattrs is XattrMode.NONE or not HAS_XATTRS:
            return
        try:
            _set_xattr(fd, ROOTLESS_XATTR, encode_rootless_owner(entry.uid, entry.gid))
        except OSError as error:
            if error.errno not in _XATTR_REFUSALS:
                raise
            count_xattr(self._losses.refused_xattrs, ROOTLESS_XATTR)

    def _set_xattrs(self, target: int | bytes, xattrs: dict[bytes, bytes]) -> None:
        if self._policy.xattrs is XattrMode.NONE:
            return
        for name, value in xattrs.items():
            if is_foreign_xattr(name):
                count_xattr(self._losses.skipped_xattrs, name)
                continue
            if not HAS_XATTRS:
                count_xattr(self._losses.refused_xattrs, name)
                continue
            try:
                _set_xattr(target, name, value)
            except OSError as error:
                if self._policy.xattrs is XattrMode.STRICT or error.errno not in _XATTR_REFUSALS:
                    error.filename = b"xattr " + name
                    raise
                count_xattr(self._losses.refused_xattrs, name)


def _set_xattr(target: int | bytes, name: bytes, value: bytes) -> None:
    """Set an attribute on what is open, or on a name that is no link to be followed."""
    if not isinstance(target, int):
        os.setxattr(target, name, value, follow_symlinks=False)
        return
    try:
        os.setxattr(target, name, value)
    except PermissionError as error:
        mode = stat.S_IMODE(os.fstat(target).st_mode)
        if error.errno != errno.EACCES or mode & stat.S_IWUSR:
            raise
        # The kernel asks for the right to write, which an ordinary user's read-only file does not give its owner.
        os.fchmod(target, mode | stat.S_IWUSR)
        try:
            os.setxattr(target, name, value)
        finally:
            os.fchmod(target, mode)


@contextmanager
def _naming_owner(owner: tuple[int, int], entry: Entry) -> Iterator[None]:
    """Tell what EINVAL means where an owner is set: ids that the user namespace of this process does not have."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UsageError(
            f"{quoted_path(entry.name)}: owner {owner[0]}:{owner[1]}: expected ids that this user namespace has",
            hint="give this user more subordinate ids, or map these with --uid-map and --gid-map",
        ) from error


def _mapped(id_map: IdMap | None, image_id: int, kind: str, entry: Entry) -> int:
    if id_map is None:
        return image_id
    host_id = id_map.to_host(image_id)
    if host_id is None:
        raise UsageError(
            f"{kind} map: expected a range with {kind} {image_id} of {quoted_path(entry.name)}, got none",
            hint=f"widen --{kind}-map",
        )
    return host_id


def encode_rootless_owner(uid: int, gid: int) -> bytes:
    """Return the value of `ROOTLESS_XATTR`: a protocol buffer with uid as field 1 and gid as field 2.

    Root's id is written as "no change" (2**32 - 1), as umoci does: to whoever reads it, the user is root.

    Spec: rootlesscontainers.proto, "Resource".
    """
    return b"".join(bytes([number << 3]) + _varint(value or _NO_CHANGE_ID) for number, value in ((1, uid), (2, gid)))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
