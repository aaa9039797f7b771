"""Compares a tree on disk with an image, to show what changed since it was unpacked, without making a second tree.

The layers are read once, into a tree of names with a digest for each file's content. Then everything but the content is
compared, and last the content of the files that have the right size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from ociexport.errors import counted
from ociexport.images.resolve import read_layers, resolve_manifest
from ociexport.images.source import ImageSource
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.losses import Losses, is_foreign_xattr
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, MemoryTree
from ociexport.layers.tar.reader import FILE_FORMATS, Entry, EntryType
from ociexport.rootfs.contents import ContentTree
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, OPEN_FILE, name_in
from ociexport.rootfs.disk.metadata import ROOTLESS_XATTR, encode_rootless_owner
from ociexport.rootfs.disk.walk import Descent
from ociexport.rootfs.disk.xattrs import read_xattrs
from ociexport.spec.descriptor import Platform
from ociexport.system.progress.protocol import SILENT, Progress

# Memory for a file whose content is to be compared, apart from its path: measured, rounded up.
_CANDIDATE_BYTES = 250


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One path that differs from the image.

    Args:
        path: in the root filesystem.
        kind: ``A`` added, ``D`` deleted, ``T`` another type, ``M`` modified, the letters that git uses.
        what: for a modified path, what differs: ``content``, ``mode``, ``owner``, ``target``, ``device``, ``links``,
            ``xattrs``, ``mtime``.
    """

    path: bytes
    kind: str
    what: tuple[str, ...] = ()


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

    Args:
        root: a directory, unpacked from the image or not.
        owners: whether owners are compared. For an ordinary user, a file of their own counts as its recorded owner's,
            or as root's if none is recorded. So it does for root in a tree with recorded owners, which a rootless
            unpacking made.

    Raises:
        as `unpack` does; OSError: something can't be read.
    """
    _, layers = read_layers(source, resolve_manifest(source, platform), platform, progress)
    budget = NameBudget(limits)
    tree = ContentTree(budget, max_depth=limits.max_depth, max_steps=limits.max_steps)
    LayerApplier(tree, limits, Losses()).apply_all(source, layers, progress, doing="reading")
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        comparison = _Comparison(tree, budget, owners=owners)
        comparison.compare(root_fd)
        changed = [*_changed_contents(root_fd, tree, comparison.candidates, progress)]
    finally:
        os.close(root_fd)
    changes = comparison.changes
    for path in changed:
        known = changes.get(path, Change(path, "M"))
        changes[path] = Change(path, "M", ("content", *known.what))
    return sorted(changes.values())


class _Comparison:
    """Compares everything except the content of files of the right size.

    Attributes:
        changes: by path.
        candidates: files whose content is still to be compared: place in the layers → path.
    """

    def __init__(self, tree: MemoryTree, budget: NameBudget, *, owners: bool) -> None:
        self._budget = budget
        self.changes: dict[bytes, Change] = {}
        self.candidates: dict[tuple[int, int], bytes] = {}
        self._root = tree.root
        self._owners = owners
        # The owner of files that `unpack` creates where it does not set the image's owners.
        self._natural_owner = (os.geteuid(), os.getegid())
        self._is_root = os.geteuid() == 0
        # Root's tree has the image's owners, unless owners are recorded in it. Until one is found, it is unknown
        # whether these files, which can't have a record, changed their owner.
        self._has_recorded_owners = False
        self._unrecorded: list[bytes] = []
        # The inode on disk of each file of the image, and the reverse: with hard links they must match one to one.
        self._inodes: dict[int, tuple[int, int]] = {}
        self._seen: dict[tuple[int, int], int] = {}

    def compare(self, root_fd: int) -> None:
        self._compare_node(b".", root_fd, b".", self._root)
        with closing(Descent(root_fd)) as descent:
            levels = [self._compare_children(b"", descent.fd, self._root)]
            while levels:
                entered = next(levels[-1], None)
                if entered is not None:
                    path, name, child = entered
                    descent.enter(name)
                    levels.append(self._compare_children(path + b"/", descent.fd, child))
                    continue
                levels.pop()
                if levels:
                    descent.leave()
        if self._has_recorded_owners:
            for path in self._unrecorded:
                self._drop_owner(path)

    def _compare_children(
        self, prefix: bytes, fd: int, node: MemoryDirectory
    ) -> Iterator[tuple[bytes, bytes, MemoryDirectory]]:
        """Compare the entries of a directory; return its subdirectories: path, name and expected content."""
        names = set(map(os.fsencode, os.listdir(fd)))
        directories = []
        for name in sorted(names | node.children.keys()):
            path = prefix + name
            child = node.children.get(name)
            if child is None:
                self.changes[path] = Change(path, "A")
            elif name not in names:
                self.changes[path] = Change(path, "D")
            elif self._compare_node(path, fd, name, child) and isinstance(child, MemoryDirectory):
                directories.append((path, name, child))
        return iter(directories)

    def _compare_node(self, path: bytes, fd: int, name: bytes, node: MemoryDirectory | MemoryFile) -> bool:
        """Compare one path; return whether it has the right type."""
        entry = node.described
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_IFMT(status.st_mode) != FILE_FORMATS[entry.type]:
            self.changes[path] = Change(path, "T")
            return False
        what = [*self._differences(entry, status, fd, name)]
        if self._is_root and "owner" in what and self._is_unrecorded(entry, status):
            self._unrecorded.append(path)
        if isinstance(node, MemoryFile):
            if not self._is_paired(node, status):
                what.append("links")
            if node.place is not None and entry.size == status.st_size:
                self._budget.take(_CANDIDATE_BYTES + len(path))
                self.candidates.setdefault(node.place, path)
        if what:
            self.changes[path] = Change(path, "M", tuple(what))
        return True

    def _differences(self, entry: Entry, status: os.stat_result, fd: int, name: bytes) -> Iterator[str]:
        kind = entry.type
        if kind is EntryType.FILE and entry.size != status.st_size:
            yield "content"
        if kind is EntryType.SYMLINK and os.readlink(name, dir_fd=fd) != entry.link_name:
            yield "target"
        is_device = kind in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE)
        if is_device and (os.major(status.st_rdev), os.minor(status.st_rdev)) != entry.device:
            yield "device"
        if kind is not EntryType.SYMLINK and stat.S_IMODE(status.st_mode) != entry.mode:
            yield "mode"
        xattrs = _xattrs_of(fd, name)
        remembered = None
        if not self._is_root or self._is_recorded(entry, status, xattrs):
            remembered = xattrs.pop(ROOTLESS_XATTR, None)
        if self._owners and not self._is_owner(entry, status, remembered):
            yield "owner"
        if xattrs != _own_xattrs(entry):
            yield "xattrs"
        if kind is not EntryType.DIRECTORY and status.st_mtime_ns != entry.mtime_ns:
            yield "mtime"

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
        """Whether all names of one file of the image are names of the same file on disk, and of no other."""
        inode = (status.st_dev, status.st_ino)
        return self._inodes.setdefault(id(node), inode) == inode and self._seen.setdefault(inode, id(node)) == id(node)


def _changed_contents(
    root_fd: int, tree: ContentTree, candidates: dict[tuple[int, int], bytes], progress: Progress
) -> Iterator[bytes]:
    """Yield the path of each candidate whose content differs."""
    wanted = [(path, tree.contents[place]) for place, path in candidates.items() if place in tree.contents]
    if not wanted:
        return
    total_bytes = sum(content.size for _, content in wanted)
    title = f"comparing {counted(len(wanted), 'file')}"
    with progress.phase("comparing", total_bytes), progress.task(title, total_bytes) as task:
        for path, content in wanted:
            fd = _open_below(root_fd, path)
            try:
                if not content.is_in(fd, task):
                    yield path
            finally:
                os.close(fd)


def _open_below(root_fd: int, path: bytes) -> int:
    """Return a descriptor of a file in the tree; the first pass found no link on its path, and none is followed."""
    *parents, name = path.split(b"/")
    fd = os.dup(root_fd)
    for part, flags in [*((parent, OPEN_DIRECTORY) for parent in parents), (name, OPEN_FILE)]:
        try:
            child_fd = os.open(part, flags, dir_fd=fd)
        finally:
            os.close(fd)
        fd = child_fd
    return fd


def _xattrs_of(fd: int, name: bytes) -> dict[bytes, bytes]:
    path = name_in(fd, name)
    try:
        return read_xattrs(path)
    except OSError:
        return {}


def _own_xattrs(entry: Entry) -> dict[bytes, bytes]:
    return {name: value for name, value in (entry.xattrs or {}).items() if not is_foreign_xattr(name)}
