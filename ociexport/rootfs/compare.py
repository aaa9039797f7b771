"""Compares a tree on disk with an image, to show what changed since it was unpacked, without making a second tree.

The layers are read once, into a tree of names with a digest for each file's content. Then everything but the content is
compared, and last the content of the files that have the right size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing

from ociexport.errors import counted
from ociexport.images.resolve import read_layers, resolve_manifest
from ociexport.images.source import ImageSource
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.losses import is_foreign_xattr
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, MemoryTree
from ociexport.layers.tar.reader import DEVICE_TYPES, FILE_FORMATS, Entry, EntryType
from ociexport.rootfs.changes import Change
from ociexport.rootfs.contents import ContentTree
from ociexport.rootfs.disk.linux import name_in
from ociexport.rootfs.disk.metadata import ROOTLESS_XATTR, encode_rootless_owner
from ociexport.rootfs.disk.readable import FilesBelow, TreeReadError, made_readable, naming_path
from ociexport.rootfs.disk.trial import MetadataTrial, TriedMetadata, may_make_devices
from ociexport.rootfs.disk.walk import Descent
from ociexport.rootfs.disk.xattrs import read_xattrs
from ociexport.rootfs.kept_contents import RecordedTree, apply_layers
from ociexport.spec.descriptor import Platform
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.progress.protocol import SILENT, Progress

# Memory for a file whose content is to be compared, apart from its path: measured, rounded up.
_CANDIDATE_BYTES = 250
# NTFS allows 1,024 names for a file, fewer than other file systems; `unpack` makes a copy for the names beyond a limit.
_MANY_LINKS = 1000


class _FoundMetadata(NamedTuple):
    """What a file on disk has: status, and attributes without the record of its owner; and its directory."""

    status: os.stat_result
    xattrs: dict[bytes, bytes]
    directory_fd: int


def compare_tree(
    root: str,
    source: ImageSource,
    *,
    platform: Platform,
    limits: Limits,
    owners: bool = True,
    progress: Progress = SILENT,
) -> list[Change]:
    """Return the differences between the tree at ``root`` and ``source``, sorted by path.

    Times of directories are not compared: adding a file changes its directory's time too, and the file is listed.
    What `unpack` leaves out here is no difference: attributes that this process or the file system refuses, times that
    are cut, devices where none can be made, links beyond the limit of the file system, which become copies.

    Args:
        root: a directory, unpacked from the image or not.
        owners: whether owners are compared. For an ordinary user, a file of their own counts as its recorded owner's,
            or as root's if none is recorded. So it does for root in a tree with recorded owners, which a rootless
            unpacking made.

    Raises:
        as `unpack` does; TreeReadError: something in the tree can't be read; OSError: ``root`` can't be opened.
    """
    _, layers = read_layers(source, resolve_manifest(source, platform), platform, progress)
    budget = NameBudget(limits)
    tree = RecordedTree(budget, max_depth=limits.max_depth, max_steps=limits.max_steps)
    apply_layers(tree, source, layers, limits, progress)
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        comparison = _Comparison(tree, budget, root, root_fd, owners=owners)
        comparison.compare()
        changed = [*_changed_contents(root, root_fd, tree, comparison.candidates, progress)]
    finally:
        os.close(root_fd)
    changes = comparison.changes
    for path in changed:
        known = changes.get(path, Change(path, "M"))
        changes[path] = Change(path, "M", ("content", *known.what))
    return [changes[path] for path in sorted(changes)]


class _Comparison:
    """Compares everything except the content of files of the right size.

    Attributes:
        changes: by path.
        candidates: files whose content is still to be compared: place in the layers, and path.
    """

    def __init__(self, tree: MemoryTree, budget: NameBudget, root_path: str, root_fd: int, *, owners: bool) -> None:
        self._budget = budget
        self.changes: dict[bytes, Change] = {}
        self.candidates: list[tuple[tuple[int, int], bytes]] = []
        self._root = tree.root
        self._root_path = root_path
        self._root_fd = root_fd
        self._trial = MetadataTrial(root_fd)
        self._owners = owners
        # The owner of files that `unpack` creates where it does not set the image's owners.
        self._natural_owner = (os.geteuid(), os.getegid())
        self._is_root = os.geteuid() == 0
        # Root's tree has the image's owners, unless owners are recorded in it. Until one is found, it is unknown
        # whether these files, which can't have a record, changed their owner.
        self._has_recorded_owners = False
        self._unrecorded: list[bytes] = []
        # Devices of the image that the tree does not have, or has as empty files.
        self._missing_devices: list[bytes] = []
        # The inode on disk of each file of the image, unless that has very many names, and the reverse: with hard links
        # they must match one to one.
        self._inodes: dict[int, tuple[int, int]] = {}
        self._seen: dict[tuple[int, int], int] = {}

    def compare(self) -> None:
        self._compare_node(b".", self._root_fd, b".", self._root)
        with closing(Descent(self._root_fd, opens_own=True)) as descent:
            levels = [self._compare_children(b"", descent.fd, self._root)]
            while levels:
                entered = next(levels[-1], None)
                if entered is not None:
                    path, name, child = entered
                    with naming_path(self._root_path, path):
                        descent.enter(name)
                    levels.append(self._compare_children(path + b"/", descent.fd, child))
                    continue
                levels.pop()
                if levels:
                    descent.leave()
        if self._has_recorded_owners:
            for path in self._unrecorded:
                self._drop_owner(path)
        if self._missing_devices and self._has_no_devices():
            for path in self._missing_devices:
                del self.changes[path]

    def _compare_children(
        self, prefix: bytes, fd: int, node: MemoryDirectory
    ) -> Iterator[tuple[bytes, bytes, MemoryDirectory]]:
        """Compare the entries of a directory; return its subdirectories: path, name and expected content."""
        with naming_path(self._root_path, prefix[:-1] or b"."):
            names = set(map(os.fsencode, os.listdir(fd)))
        directories = []
        for name in sorted(names | node.children.keys()):
            path = prefix + name
            child = node.children.get(name)
            if child is None:
                self.changes[path] = Change(path, "A")
            elif name not in names:
                self.changes[path] = Change(path, "D")
                if child.described.type in DEVICE_TYPES:
                    self._missing_devices.append(path)
            elif self._compare_node(path, fd, name, child) and isinstance(child, MemoryDirectory):
                directories.append((path, name, child))
        return iter(directories)

    def _compare_node(self, path: bytes, fd: int, name: bytes, node: MemoryDirectory | MemoryFile) -> bool:
        """Compare one path; return whether it has the right type."""
        entry = node.described
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_IFMT(status.st_mode) != FILE_FORMATS[entry.type]:
                self.changes[path] = Change(path, "T")
                if self._is_placeholder(entry, status, fd, name):
                    self._missing_devices.append(path)
                return False
            what = self._differences(entry, status, fd, name)
        except OSError as error:
            raise TreeReadError(self._root_path, path, error) from error
        if self._is_root and "owner" in what and self._is_unrecorded(entry, status):
            self._unrecorded.append(path)
        if isinstance(node, MemoryFile):
            is_first_name = (status.st_dev, status.st_ino) not in self._seen
            if not self._is_paired(node, status):
                what.append("links")
                is_first_name = True  # its content may be that of another file of the image
            if node.place is not None and entry.size == status.st_size and is_first_name:
                self._budget.take(_CANDIDATE_BYTES + len(path))
                self.candidates.append((node.place, path))
        if what:
            self.changes[path] = Change(path, "M", tuple(what))
        return True

    def _is_placeholder(self, entry: Entry, status: os.stat_result, fd: int, name: bytes) -> bool:
        """Whether a file is what `unpack` makes of a device, if that is requested: an empty file with its metadata."""
        if entry.type not in DEVICE_TYPES or not stat.S_ISREG(status.st_mode) or status.st_size:
            return False
        return not self._differences(entry._replace(type=EntryType.FILE, size=0), status, fd, name)

    def _has_no_devices(self) -> bool:
        """Whether this process would have unpacked the image without its devices."""
        if self._is_root:
            return self._has_recorded_owners or not may_make_devices()
        return os.fstat(self._root_fd).st_uid == os.geteuid()

    def _differences(self, entry: Entry, status: os.stat_result, fd: int, name: bytes) -> list[str]:
        """Return what differs, apart from content of the right size and from what `unpack` leaves out here."""
        kind = entry.type
        what = []
        if kind is EntryType.FILE and entry.size != status.st_size:
            what.append("content")
        if kind is EntryType.SYMLINK and os.readlink(name, dir_fd=fd) != entry.link_name:
            what.append("target")
        if kind in DEVICE_TYPES and (os.major(status.st_rdev), os.minor(status.st_rdev)) != entry.device:
            what.append("device")
        with made_readable(fd, name, status):
            xattrs = _xattrs_of(fd, name)
        remembered = None
        if not self._is_root or self._is_recorded(entry, status, xattrs):
            remembered = xattrs.pop(ROOTLESS_XATTR, None)
        found = _FoundMetadata(status, xattrs, fd)
        metadata = _metadata_differences(entry, found)
        if self._owners and not self._is_owner(entry, status, remembered):
            metadata.insert(metadata[:1] == ["mode"], "owner")
        if metadata:
            metadata = self._without_losses(metadata, entry, found, remembered)
        return what + metadata

    def _without_losses(
        self, what: list[str], entry: Entry, found: _FoundMetadata, remembered: bytes | None
    ) -> list[str]:
        """Return those of the differences that the file would not have if it was just unpacked here."""
        status = found.status
        if not self._is_root and status.st_uid != os.geteuid():
            return what  # another user has unpacked it
        is_natural = (status.st_uid, status.st_gid) == self._natural_owner
        records_owner = is_natural and (not self._is_root or remembered is not None)
        tried = self._trial.of(entry, found.directory_fd, records_owner=records_owner)
        if tried is None:
            return what
        kept = {*_metadata_differences(entry, found, tried)}
        if not is_natural or self._is_root or remembered != tried.xattrs.get(ROOTLESS_XATTR):
            kept.add("owner")
        return [item for item in what if item in kept]

    def _is_owner(self, entry: Entry, status: os.stat_result, remembered: bytes | None) -> bool:
        owner = (status.st_uid, status.st_gid)
        if owner == (entry.uid, entry.gid):
            return True
        if owner != self._natural_owner:
            return False
        if self._is_unrecorded(entry, status):
            return not self._is_root
        return remembered == (None if entry.uid == entry.gid == 0 else encode_rootless_owner(entry.uid, entry.gid))

    def _is_unrecorded(self, entry: Entry, status: os.stat_result) -> bool:
        """Whether a file belongs to this user and can't have user.* attributes: a link, a pipe or a device."""
        is_own = (status.st_uid, status.st_gid) == self._natural_owner
        return is_own and entry.type not in (EntryType.FILE, EntryType.DIRECTORY)

    def _is_recorded(self, entry: Entry, status: os.stat_result, xattrs: dict[bytes, bytes]) -> bool:
        """Whether a file of root's has the record of another owner, the one that the image declares."""
        is_own = (status.st_uid, status.st_gid) == self._natural_owner != (entry.uid, entry.gid)
        is_recorded = is_own and xattrs.get(ROOTLESS_XATTR) == encode_rootless_owner(entry.uid, entry.gid)
        self._has_recorded_owners |= is_recorded
        return is_recorded

    def _drop_owner(self, path: bytes) -> None:
        what = tuple(item for item in self.changes[path].what if item != "owner")
        if what:
            self.changes[path] = Change(path, "M", what)
        else:
            del self.changes[path]

    def _is_paired(self, node: MemoryFile, status: os.stat_result) -> bool:
        """Whether all names of one file of the image are names of the same file on disk, and of no other.

        A file on disk that has very many names may be one of several: see `link_copies`.
        """
        inode = (status.st_dev, status.st_ino)
        if self._seen.setdefault(inode, id(node)) != id(node):
            return False
        return status.st_nlink >= _MANY_LINKS or self._inodes.setdefault(id(node), inode) == inode


def _changed_contents(
    root: str, root_fd: int, tree: ContentTree, candidates: Sequence[tuple[tuple[int, int], bytes]], progress: Progress
) -> Iterator[bytes]:
    """Yield the path of each candidate whose content differs."""
    wanted = [(path, tree.contents[place]) for place, path in candidates if place in tree.contents]
    if not wanted:
        return
    total_bytes = sum(content.size for _, content in wanted)
    title = f"comparing {counted(len(wanted), 'file')}"
    with (
        closing(FilesBelow(root_fd)) as files,
        progress.phase("comparing", total_bytes),
        progress.task(title, total_bytes) as task,
    ):
        for path, content in wanted:
            with naming_path(root, path):
                fd = files.open(path)
                try:
                    is_same = content.is_in(fd, task)
                finally:
                    os.close(fd)
            if not is_same:
                yield path


def _metadata_differences(entry: Entry, found: _FoundMetadata, tried: TriedMetadata | None = None) -> list[str]:
    """Return which of mode, attributes and time are neither as in the image nor as ``tried``."""
    status, xattrs = found.status, found.xattrs
    own = _own_xattrs(entry)
    here = own if tried is None else {name: value for name, value in tried.xattrs.items() if name != ROOTLESS_XATTR}
    modes, times = {entry.mode}, {entry.mtime_ns}
    if tried is not None:
        modes.add(tried.mode)
        times.add(tried.mtime_ns)
    what = []
    if entry.type is not EntryType.SYMLINK and stat.S_IMODE(status.st_mode) not in modes:
        what.append("mode")
    if any(xattrs.get(name) not in (own.get(name), here.get(name)) for name in {*xattrs, *own}):
        what.append("xattrs")
    if entry.type is not EntryType.DIRECTORY and status.st_mtime_ns not in times:
        what.append("mtime")
    return what


def _xattrs_of(fd: int, name: bytes) -> dict[bytes, bytes]:
    path = name_in(fd, name)
    try:
        return read_xattrs(path)
    except OSError:
        return {}


def _own_xattrs(entry: Entry) -> dict[bytes, bytes]:
    return {name: value for name, value in (entry.xattrs or {}).items() if not is_foreign_xattr(name)}
