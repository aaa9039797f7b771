"""Sets owners, modes, times and extended attributes of new files, and counts what can't be set."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from ociexport.errors import UsageError, quoted, quoted_path
from ociexport.layers.losses import HAS_XATTRS, Losses, count_xattr, is_foreign_xattr
from ociexport.layers.tar.reader import DEVICE_TYPES, Entry
from ociexport.rootfs.disk.inode_record import InodeRecord
from ociexport.rootfs.disk.linux import change_mode, name_in
from ociexport.rootfs.disk.xattrs import confirm_owner
from ociexport.spec.lazy_dataclass import dataclass

# Holds a file's owner where it could not be set; umoci, runrootless and proot read it.
ROOTLESS_XATTR = b"user.rootlesscontainers"
_NO_CHANGE_ID = 2**32 - 1
# Errors with which a file system or kernel refuses an attribute.
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
    """How extended attributes that the file system refuses are handled."""

    STRICT = "strict"
    WARN = "warn"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class IdMap:
    """Ranges of ids in the image and their ids on the host, as in umoci's ``--uid-map``.

    Args:
        ranges: (first id in the image, first id on the host, size).
    """

    ranges: tuple[tuple[int, int, int], ...]

    @classmethod
    def parse(cls, texts: tuple[str, ...]) -> IdMap:
        """Return the map for texts of the form ``container:host[:size]``.

        Raises:
            UsageError: a text has another form.
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
        """Return the host's id for an id in the image; None if no range contains it."""
        for first, host, size in self.ranges:
            if first <= image_id < first + size:
                return host + image_id - first
        return None


@dataclass(frozen=True, slots=True)
class MetadataPolicy:
    """How owners and attributes are handled.

    Args:
        set_owners: whether owners are set; see `may_set_owners`. Otherwise they are recorded in attributes.
        xattrs: how a refused attribute is handled.
        uid_map: None to keep the image's ids.
        gid_map: the same for groups.
    """

    set_owners: bool
    xattrs: XattrMode = XattrMode.WARN
    uid_map: IdMap | None = None
    gid_map: IdMap | None = None

    @property
    def keeps_owners(self) -> bool:
        """Whether all files get the owners that the image declares."""
        return self.set_owners and self.uid_map is None and self.gid_map is None


class MetadataWriter:
    """Sets an entry's metadata on the file that was created from it.

    The order follows from the kernel's side effects: writing drops file capabilities, and chown drops setuid and
    capabilities. So it is data, owner, mode, attributes, times.

    Args:
        policy: how owners and attributes are handled.
        natural_owner: uid and gid that a new file gets by default; a file with this owner needs no chown.
        masked_bits: mode bits that a new file does not get by default (the umask); a file without them needs no chmod.
        losses: counts what could not be set.
        record: notes the image's metadata of all files; None if no record is needed.
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
        # With maps, the image's ids are not the host's. In an ordinary user's tree, a file without a recorded owner
        # counts as root's, so a file that the image gives to this same uid needs a recorded owner too.
        self._owners_are_others = not policy.keeps_owners

    def apply_to_file(self, fd: int, entry: Entry, created_mode: int) -> None:
        """Set all metadata of an open file or directory that was created with ``created_mode``."""
        if self._owners_are_others or (entry.uid, entry.gid) != self._natural_owner:
            self._change_owner(fd, entry)
        if entry.xattrs:
            confirm_owner(fd)
        # created_mode never contains setuid, setgid or sticky, so a mode that has them is set here, after the chown.
        if entry.mode != created_mode & self._natural_bits:
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            self._set_xattrs(fd, entry.xattrs)
        mtime_ns, atime_ns = entry.mtime_ns, entry.atime_ns
        os.utime(fd, ns=(mtime_ns if atime_ns is None else atime_ns, mtime_ns))
        if self._record is not None:
            self._record.note(os.fstat(fd).st_ino, entry)

    def apply_to_name(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        """Set all metadata of a device or fifo, which can't be opened without side effects."""
        self._chown_name(parent_fd, name, entry)
        change_mode(parent_fd, name, entry.mode)
        self._apply_to_closed_name(parent_fd, name, entry)

    def apply_to_symlink(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        """Set owner, attributes and times of a link itself; links have no mode of their own."""
        self._chown_name(parent_fd, name, entry)
        self._apply_to_closed_name(parent_fd, name, entry)

    def _apply_to_closed_name(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        if entry.xattrs:
            # Linux before 6.13 has no setxattrat; a path through /proc to the open parent works as well.
            self._set_xattrs(name_in(parent_fd, name), entry.xattrs)
        self.set_times(parent_fd, name, entry)
        if self._record is not None:
            self._record.note(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_ino, entry)

    def copied(self, inode: int, copy_inode: int) -> None:
        """Count a copy that was made in place of a hard link; its owner and attributes are recorded as the file's."""
        self._losses.copied_links += 1
        if self._record is not None:
            self._record.copy(inode, copy_inode)

    def needs_only_times(self, entry: Entry, created_mode: int) -> bool:
        """Whether a file created with ``created_mode`` lacks only its times."""
        return (
            entry.mode == created_mode & self._natural_bits
            and (entry.uid, entry.gid) == self._natural_owner
            and not (entry.xattrs or self._owners_are_others)
        )

    def set_times(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        """Set the times of a file that is not open."""
        atime_ns = entry.mtime_ns if entry.atime_ns is None else entry.atime_ns
        os.utime(name, ns=(atime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _chown_name(self, parent_fd: int, name: bytes, entry: Entry) -> None:
        owner = self._host_owner(entry)
        if owner is None:
            self._losses.owners += (entry.uid, entry.gid) != (0, 0)
        elif owner != self._natural_owner:
            with _naming_owner(owner, entry):
                os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
        if entry.xattrs:
            confirm_owner(name, dir_fd=parent_fd)

    def _change_owner(self, fd: int, entry: Entry) -> None:
        owner = self._host_owner(entry)
        if owner is None:
            # A placeholder for a device is counted as that already.
            self._losses.owners += (entry.uid, entry.gid) != (0, 0) and entry.type not in DEVICE_TYPES
            self._remember_owner(fd, entry)
        elif owner != self._natural_owner:
            with _naming_owner(owner, entry):
                os.fchown(fd, *owner)

    def _host_owner(self, entry: Entry) -> tuple[int, int] | None:
        """Return the owner on the host; None if owners are not set."""
        if not self._policy.set_owners:
            return None
        return (
            _mapped(self._policy.uid_map, entry.uid, "uid", entry),
            _mapped(self._policy.gid_map, entry.gid, "gid", entry),
        )

    def _remember_owner(self, fd: int, entry: Entry) -> None:
        if (entry.uid, entry.gid) == (0, 0) or self._policy.xattrs is XattrMode.NONE or not HAS_XATTRS:
            return
        confirm_owner(fd)
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


def with_mapped_owner(entry: Entry, uid_map: IdMap | None, gid_map: IdMap | None) -> Entry:
    """Return ``entry`` with the owner that it has on the host.

    Raises:
        UsageError: a map has no range with its owner.
    """
    uid, gid = _mapped(uid_map, entry.uid, "uid", entry), _mapped(gid_map, entry.gid, "gid", entry)
    return entry._replace(uid=uid, gid=gid)


def _set_xattr(target: int | bytes, name: bytes, value: bytes) -> None:
    """Set an attribute of an open file, or of a name, without following a link."""
    if not isinstance(target, int):
        os.setxattr(target, name, value, follow_symlinks=False)
        return
    try:
        os.setxattr(target, name, value)
    except PermissionError as error:
        mode = stat.S_IMODE(os.fstat(target).st_mode)
        if error.errno != errno.EACCES or mode & stat.S_IWUSR:
            raise
        # The kernel requires write permission, which the owner of a read-only file does not have.
        os.fchmod(target, mode | stat.S_IWUSR)
        try:
            os.setxattr(target, name, value)
        finally:
            os.fchmod(target, mode)


@contextmanager
def _naming_owner(owner: tuple[int, int], entry: Entry) -> Iterator[None]:
    """Explain EINVAL from chown: the ids are not mapped in this process's user namespace."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UsageError(
            f"{quoted_path(entry.name)}: owner {owner[0]}:{owner[1]}: expected ids that this user namespace has",
            hint="give this user more subordinate ids, map these with --uid-map and --gid-map, or use --rootless",
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

    Root's id is written as "no change" (2**32 - 1), as umoci does: readers take an unchanged owner for root.

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
