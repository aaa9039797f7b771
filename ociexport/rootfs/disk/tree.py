"""Rootfs: makes all changes to the tree and can't reach outside it.

Confinement is by descriptor, not by string. Each directory is opened from its parent's descriptor with O_NOFOLLOW, and
every file is created in it by a single name, so no path can lead out, whatever links it contains. Links in parents are
resolved within the root: by the kernel (openat2 with RESOLVE_IN_ROOT) where possible, otherwise by reading them one by
one.

The tree begins empty and no other process uses it meanwhile, so all its directories were created here. They are kept
as nodes: the files of a directory share its descriptor, and metadata is set when all layers are applied, since every
file that is written changes its directory's time. This is one long file on purpose: it contains everything that can
change the tree.

Spec: image-spec 1.1 layer.md, "Applying Changesets", "Whiteouts".
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator

from ociexport.errors import InvalidImageError, UnsafeEntryError, quoted_path
from ociexport.layers.apply import DeviceRefusedError
from ociexport.layers.kept_names import MarkedDirectory
from ociexport.layers.limits import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_STEPS,
    NameBudget,
    verify_copies,
    verify_depth,
    verify_steps,
    weight_of,
)
from ociexport.layers.paths import ROOT, ImagePath, verify_parent_name
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.rootfs.disk.file_data import write_all, write_segments, write_with_holes
from ociexport.rootfs.disk.link_copies import copy_file
from ociexport.rootfs.disk.linux import OPEN_DIRECTORY, is_openat2_available, names_in, resolve_in_root
from ociexport.rootfs.disk.metadata import MetadataWriter
from ociexport.rootfs.disk.removal import remove_tree
from ociexport.system.open_files import keepable_files

# As many as Linux follows (path_resolution(7)).
_MAX_LINKS_FOLLOWED = 40
# Directories that are kept open, if the process may open so many files.
_MAX_OPEN_DIRECTORIES = 256
# How many paths are cached, and how long each may be: a layer may name one directory by any number of paths.
_MAX_KNOWN_PATHS, _MAX_KNOWN_PATH_BYTES = 65_536, 1024
# The kernel does not report how many names it walked. With no link target longer than this, a resolution takes at most
# a tenth of a millisecond and counts as this many names. With a longer target, links are resolved here, name by name.
_MAX_KERNEL_TARGET_BYTES, _KERNEL_STEPS = 256, 64
# Entries that alternate between deep directories make each of these be opened again, with its closed ancestors. At
# depths beyond those of honest images this counts as steps: opening one directory takes as long as this many names.
_MAX_FREE_OPENS, _STEPS_PER_OPEN = 64, 20
# Memory for a directory, apart from its name and its entry; and for a name that the current layer wrote, which
# whiteouts spare: measured, rounded up.
_DIRECTORY_BYTES, _MARK_BYTES = 450, 120
# Directories that no layer describes but that contain other entries.
_IMPLIED_MODE = 0o755
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Errors for a device that this process may not make, or that this file system does not have (mknod(2)).
_DEVICE_REFUSALS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_DEVICE_TYPES = {EntryType.CHARACTER_DEVICE: 0o020000, EntryType.BLOCK_DEVICE: 0o060000}


class _Directory(MarkedDirectory):
    """A directory of the tree: its parent, its descriptor while open, and the entry whose metadata `finish` sets."""

    __slots__ = ("children", "created_mode", "entry", "fd")

    parent: _Directory | None

    def __init__(self, name: bytes, parent: _Directory | None, created_mode: int) -> None:
        super().__init__(name, parent)
        self.fd: int | None = None
        self.children: dict[bytes, _Directory] = {}
        self.created_mode = created_mode
        self.entry: Entry | None = None


class Rootfs:
    """The tree that layers are applied to.

    Args:
        root_fd: descriptor of an empty directory that no other process uses; closed by the caller.
        metadata: sets owners, modes, times and attributes.
        budget: bounds the memory for directories and for names that a layer writes; removed ones still count.
        keep_dirlinks: a directory entry over a link to a directory keeps the link, as umoci's option does.
        holes: blocks of zeros in files become holes.
        devices: whether devices are made; otherwise each is refused, as for an ordinary user.
        max_depth: of nested directories.
        max_steps: names that are walked to resolve links, for all paths together.
        max_copied_bytes: of files that are copied because the file system allows no more hard links to them.
        use_openat2: None to use it if the kernel has it.
    """

    def __init__(
        self,
        root_fd: int,
        metadata: MetadataWriter,
        *,
        budget: NameBudget,
        keep_dirlinks: bool = False,
        holes: bool = False,
        devices: bool = True,
        max_depth: int = MAX_DEPTH,
        max_steps: int = MAX_STEPS,
        max_copied_bytes: int = MAX_BYTES,
        use_openat2: bool | None = None,
    ) -> None:
        self._metadata = metadata
        self._budget = budget
        self._keep_dirlinks = keep_dirlinks
        self._holes = holes
        self._devices = devices
        self._max_depth = max_depth
        self._max_steps = max_steps
        self._steps = 0
        self._use_openat2 = is_openat2_available() if use_openat2 is None else use_openat2
        self._root = _Directory(b"", None, 0o700)
        self._root.fd = root_fd
        self._open: deque[_Directory] = deque()
        self._max_open = keepable_files(_MAX_OPEN_DIRECTORIES)
        # Paths as written in the tar; emptied when a directory or link on one of them is replaced.
        self._known: dict[bytes, _Directory] = {ROOT: self._root}
        self._has_followed_links = False
        # Inode number of each file that has all its names → where its last copy is.
        self._copies: dict[int, tuple[_Directory, bytes]] = {}
        self._copied_bytes = 0
        self._max_copied_bytes = max_copied_bytes
        self._layer = 0
        self._has_lower_layers = False

    def begin_layer(self) -> None:
        """Make whiteouts hide everything written before this call."""
        self._layer += 1
        # The first layer's whiteouts have nothing to hide, so its files need no marks.
        self._has_lower_layers = self._layer > 1

    def close(self) -> None:
        """Close the descriptors of all directories except the root's."""
        while self._open:
            self._close_directory(self._open.popleft())

    # Applying entries.

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        """Make a directory, or replace the metadata of an existing one."""
        if path == ROOT:
            self._describe(self._root, entry)
            return
        parent, name = self._locate(path)
        node = parent.children.get(name)
        if node is None:
            node = self._make_directory(parent, name, path, entry.mode)
        self._describe(node, entry)

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Write a file, replacing anything with its name; other hard links to a replaced file keep their content."""
        parent, name = self._locate(path)
        created_mode = entry.mode & 0o777
        parent_fd = self._descriptor(parent)
        try:
            fd = os.open(name, _CREATE_FILE, created_mode, dir_fd=parent_fd)
        except FileExistsError:
            self._remove(parent, name)
            fd = os.open(name, _CREATE_FILE, created_mode, dir_fd=parent_fd)
        try:
            if entry.segments is not None:
                write_segments(fd, entry, data)
            elif self._holes:
                write_with_holes(fd, data)
            else:
                for chunk in data:
                    write_all(fd, chunk)
            self._metadata.apply_to_file(fd, entry, created_mode)
        finally:
            os.close(fd)

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        """Make a symbolic link; its target is stored unchanged, wherever it points."""
        if len(entry.link_name) > _MAX_KERNEL_TARGET_BYTES:
            self._use_openat2 = False
        parent, name = self._locate(path)
        parent_fd = self._descriptor(parent)
        try:
            os.symlink(entry.link_name, name, dir_fd=parent_fd)
        except FileExistsError:
            self._remove(parent, name)
            os.symlink(entry.link_name, name, dir_fd=parent_fd)
        self._metadata.apply_to_symlink(parent_fd, name, entry)

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        """Give the file at ``target`` another name; if it is a symbolic link, the link itself gets the name."""
        source_path, _, source_name = target.rpartition(b"/")
        source = self._directory(source_path, create=False)
        parent, name = self._locate(path)
        if source is None or not source_name:
            raise InvalidImageError(f"hard link: expected a file at {quoted_path(target)}, got none")
        if source is parent and source_name == name:
            return
        # Duplicated, since opening the second directory may close the first.
        source_fd = os.dup(self._descriptor(source))
        try:
            self._link(source_fd, source_name, parent, name)
        except FileNotFoundError as error:
            raise InvalidImageError(f"hard link: expected a file at {quoted_path(target)}, got none") from error
        except PermissionError as error:
            if source_name not in source.children:
                raise
            raise InvalidImageError(f"hard link: expected a file at {quoted_path(target)}, got a directory") from error
        finally:
            os.close(source_fd)

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        """Make a device node or a fifo.

        Raises:
            DeviceRefusedError: devices can't be made here; what had the name is removed all the same.
        """
        parent, name = self._locate(path)
        if entry.type is EntryType.FIFO:
            mode, device = 0o010000, 0
        else:
            mode, device = _DEVICE_TYPES[entry.type], os.makedev(*entry.device)
        try:
            self._make_node(parent, name, mode | 0o600, device)
        except OSError as error:
            if error.errno not in _DEVICE_REFUSALS:
                raise
            # Also what was just made: exFAT through FUSE makes a file before it refuses to make a device.
            self._remove(parent, name)
            raise DeviceRefusedError(f"{quoted_path(path)}: {error.strerror}") from error
        self._metadata.apply_to_name(self._descriptor(parent), name, entry)

    def copy_file(self, path: ImagePath, source_fd: int, source_name: bytes) -> None:
        """Write a copy of a regular file of another tree, with all its metadata."""
        parent, name = self._locate(path)
        copy_file(source_fd, source_name, self._descriptor(parent), name)

    def make_whiteout(self, path: ImagePath, attribute: bytes) -> bool:
        """Make a whiteout of overlayfs: a device 0:0, which any user may make; where it is refused, a file.

        Args:
            attribute: of such a file.

        Returns:
            False if it is a file: overlayfs then takes it for a whiteout if the directory is marked.

        Spec: Linux, Documentation/filesystems/overlayfs.rst; mknod(2), since Linux 5.8 for all users.
        """
        parent, name = self._locate(path)
        parent_fd = self._descriptor(parent)
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent_fd)
        except OSError as error:
            if error.errno not in _DEVICE_REFUSALS:
                raise
        else:
            return True
        self._remove(parent, name)
        fd = os.open(name, _CREATE_FILE, 0o600, dir_fd=parent_fd)
        try:
            _mark(fd, path, attribute, b"y")
        finally:
            os.close(fd)
        return False

    def mark(self, path: ImagePath, attribute: bytes, value: bytes) -> None:
        """Set an attribute of overlayfs's own, which no image can set, on a directory."""
        node = self._directory(path, create=False)
        if node is None:
            raise AssertionError("only directories of this tree are marked")
        _mark(self._descriptor(node), path, attribute, value)

    def hide(self, path: ImagePath) -> None:
        """Remove what lower layers wrote at ``path``; what this layer wrote there stays."""
        parent_path, _, name = path.rpartition(b"/")
        parent = self._directory(parent_path, create=False)
        if parent is not None and self._has_lower_layers:
            self._hide(parent, name)

    def hide_children(self, path: ImagePath) -> None:
        """Remove what lower layers wrote in the directory ``path``; what this layer wrote there stays."""
        node = self._directory(path, create=False)
        if node is not None and self._has_lower_layers:
            self._hide_children(node)

    def finish(self) -> None:
        """Set the metadata of all directories, children first, since a parent's mode may deny access to its owner."""
        for node in self._children_first():
            entry = node.entry
            if entry is None:
                # No layer describes it; a fixed time makes the same image give the same tree.
                os.fchmod(self._descriptor(node), _IMPLIED_MODE)
                os.utime(self._descriptor(node), ns=(0, 0))
            elif node.parent is not None and self._metadata.needs_only_times(entry, node.created_mode):
                self._metadata.set_times(self._descriptor(node.parent), node.name, entry)
            else:
                self._metadata.apply_to_file(self._descriptor(node), entry, node.created_mode)

    # Listing the tree, before `finish`.

    def walk(self) -> Iterator[tuple[bytes, Entry | None]]:
        """Yield path and entry of each directory, starting with the root, whose path is empty.

        The entry is None where no layer describes the directory. Subdirectories follow their parent, sorted by name.
        `files_of` yields everything else.
        """
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            yield self._path_of_directory(node), node.entry
            waiting += [node.children[name] for name in sorted(node.children, reverse=True)]

    def files_of(self, directory: bytes) -> Iterator[tuple[bytes, os.stat_result, bytes]]:
        """Yield name, status and link target (or ``b""``) of all non-directories in a directory, sorted by name."""
        node = self._directory(directory, create=False)
        if node is None:
            return
        for name in sorted(map(os.fsencode, names_in(self._descriptor(node)))):
            if name in node.children:
                continue
            status = os.stat(name, dir_fd=self._descriptor(node), follow_symlinks=False)
            is_link = stat.S_ISLNK(status.st_mode)
            yield name, status, os.readlink(name, dir_fd=self._descriptor(node)) if is_link else b""

    def remove_file(self, directory: bytes, name: bytes) -> None:
        """Remove a file that `files_of` yielded."""
        node = self._directory(directory, create=False)
        if node is not None:
            os.unlink(name, dir_fd=self._descriptor(node))

    # Finding directories.

    def _locate(self, path: ImagePath) -> tuple[_Directory, bytes]:
        """Return the parent directory of ``path``, made if missing, and the name in it, marked as written."""
        parent_path, _, name = path.rpartition(b"/")
        if not name:
            raise UnsafeEntryError("the root itself: expected a directory, got another type of entry")
        parent = self._known.get(parent_path)
        if parent is None:
            parent = self._directory(parent_path, create=True)
            if parent is None:
                raise AssertionError("create=True always returns a directory")
        if self._has_lower_layers:
            self._budget.take(_MARK_BYTES + len(name))
            parent.mark(name, self._layer)
        return parent, name

    def _directory(self, path: bytes, *, create: bool) -> _Directory | None:
        """Return the directory at ``path``, with links resolved within the root; None if missing and not created."""
        known = self._known.get(path)
        if known is not None:
            return known
        node = self._root
        remaining = deque(path.split(b"/"))
        links_followed = 0
        while remaining:
            part = remaining.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                node = node.parent or node
                continue
            child = node.children.get(part)
            if child is None:
                if create:
                    verify_parent_name(part, path)
                target = self._read_link(node, part)
                if target is not None:
                    links_followed += 1
                    if links_followed > _MAX_LINKS_FOLLOWED:
                        raise InvalidImageError(f"{quoted_path(path)}: expected at most {_MAX_LINKS_FOLLOWED} links")
                    self._has_followed_links = True
                    real = self._resolve_by_kernel(node, part)
                    if real is not None:
                        node, target = self._root, real
                    elif target.startswith(b"/"):
                        node = self._root
                    steps = target.split(b"/")
                    self._count_steps(len(steps) if real is None else _KERNEL_STEPS)
                    remaining.extendleft(reversed(steps))
                    continue
                if not create:
                    return None
                child = self._make_implied(node, part)
            node = child
        if len(path) <= _MAX_KNOWN_PATH_BYTES:
            if len(self._known) >= _MAX_KNOWN_PATHS:
                self._known = {ROOT: self._root}
            self._known[path] = node
        return node

    def _count_steps(self, count: int) -> None:
        self._steps += count
        verify_steps(self._steps, self._max_steps)

    def _resolve_by_kernel(self, node: _Directory, name: bytes) -> bytes | None:
        """Return the real path of the directory that a link leads to; None if it must be resolved name by name."""
        if not self._use_openat2 or self._root.fd is None:
            return None
        try:
            return resolve_in_root(self._root.fd, self._path_of(node, name))
        except OSError:
            # Too long for one system call, not a directory, or a loop of links: resolving name by name works or
            # raises the proper error.
            return None

    def _read_link(self, node: _Directory, name: bytes) -> bytes | None:
        """Return the target of a link; None if the name does not exist or is not a link."""
        try:
            return os.readlink(name, dir_fd=self._descriptor(node))
        except FileNotFoundError:
            return None
        except OSError as error:
            # A target of a link may contain names that are too long to exist.
            if error.errno not in (errno.EINVAL, errno.ENAMETOOLONG):
                raise
            return None

    def _make_implied(self, node: _Directory, name: bytes) -> _Directory:
        """Make a directory that the tar only implies as a parent, replacing a lower layer's file of that name.

        Raises:
            InvalidImageError: this same layer wrote a file or device there, which can't be a parent.

        Spec: image-spec 1.1 layer.md, "Change Types": an entry implies its parent directories. docker and containerd
            unpack each layer by itself, so overlayfs shows a directory there.
        """
        verify_depth(node.depth + 1, self._max_depth)
        try:
            os.mkdir(name, 0o700, dir_fd=self._descriptor(node))
        except FileExistsError as error:
            if not self._has_lower_layers or node.is_written(name, self._layer):
                path = quoted_path(self._path_of(node, name))
                raise InvalidImageError(f"parent {path}: expected a directory") from error
            self._remove(node, name)
            os.mkdir(name, 0o700, dir_fd=self._descriptor(node))
        if self._has_lower_layers:
            node.mark(name, self._layer)
        return self._add_directory(node, name, 0o700)

    def _path_of_directory(self, node: _Directory) -> bytes:
        return b"" if node.parent is None else self._path_of(node.parent, node.name)

    def _path_of(self, node: _Directory, name: bytes) -> bytes:
        parts = [name]
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts))

    def _descriptor(self, node: _Directory) -> int:
        """Return an open descriptor of ``node``, valid until the next call."""
        if node.fd is not None:
            return node.fd
        closed = [node]
        while (parent := closed[-1].parent) is not None and parent.fd is None:
            closed.append(parent)
        if parent is None:
            raise AssertionError("the root is always open")
        if len(closed) > _MAX_FREE_OPENS:
            self._count_steps(_STEPS_PER_OPEN * len(closed))
        fd = parent.fd
        while closed:
            node = closed.pop()
            node.fd = fd = os.open(node.name, OPEN_DIRECTORY, dir_fd=fd)
            self._open.append(node)
            if len(self._open) > self._max_open:
                self._close_directory(self._open.popleft())
        if fd is None:
            raise AssertionError("the last of the closed directories was opened")
        return fd

    @staticmethod
    def _close_directory(node: _Directory) -> None:
        if node.fd is not None:
            os.close(node.fd)
            node.fd = None

    # Changing directories.

    def _make_directory(self, parent: _Directory, name: bytes, path: ImagePath, mode: int) -> _Directory:
        verify_depth(parent.depth + 1, self._max_depth)
        created_mode = mode & 0o777 | 0o700
        parent_fd = self._descriptor(parent)
        try:
            os.mkdir(name, created_mode, dir_fd=parent_fd)
        except FileExistsError:
            if self._keep_dirlinks and (linked := self._linked_directory(parent, name, path)) is not None:
                return linked
            self._remove(parent, name)
            os.mkdir(name, created_mode, dir_fd=self._descriptor(parent))
        return self._add_directory(parent, name, created_mode)

    def _add_directory(self, parent: _Directory, name: bytes, created_mode: int) -> _Directory:
        self._budget.take(_DIRECTORY_BYTES + len(name))
        node = parent.children[name] = _Directory(name, parent, created_mode)
        return node

    def _describe(self, node: _Directory, entry: Entry) -> None:
        """Keep a directory's entry until all layers are applied."""
        self._budget.take(weight_of(entry) - (weight_of(node.entry) if node.entry is not None else 0))
        node.entry = entry

    def _linked_directory(self, parent: _Directory, name: bytes, path: ImagePath) -> _Directory | None:
        try:
            os.readlink(name, dir_fd=self._descriptor(parent))
        except OSError:
            return None
        try:
            return self._directory(path, create=False)
        except InvalidImageError:
            return None

    def _make_node(self, parent: _Directory, name: bytes, mode: int, device: int) -> None:
        if not (self._devices or stat.S_ISFIFO(mode)):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
        parent_fd = self._descriptor(parent)
        try:
            os.mknod(name, mode, device, dir_fd=parent_fd)
        except FileExistsError:
            self._remove(parent, name)
            os.mknod(name, mode, device, dir_fd=parent_fd)

    def _link(self, source_fd: int, source_name: bytes, parent: _Directory, name: bytes) -> None:
        parent_fd = self._descriptor(parent)
        try:
            os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        except FileExistsError:
            if _is_same_file(source_fd, source_name, parent_fd, name):
                return
            os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
            self._remove(parent, name)
            self._link(source_fd, source_name, parent, name)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            status = os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise
            self._link_to_copy(source_fd, source_name, status, parent, name)

    def _link_to_copy(
        self, source_fd: int, source_name: bytes, status: os.stat_result, parent: _Directory, name: bytes
    ) -> None:
        """Give the last copy of a file another name, or copy the file if that copy has all its names too."""
        directory_and_name = self._copies.get(status.st_ino)
        if directory_and_name is not None:
            # Duplicated, since opening the second directory may close the first.
            copy_fd = os.dup(self._descriptor(directory_and_name[0]))
            try:
                parent_fd = self._descriptor(parent)
                os.link(directory_and_name[1], name, src_dir_fd=copy_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
            else:
                return
            finally:
                os.close(copy_fd)
        self._copied_bytes += status.st_size
        verify_copies(self._copied_bytes, self._max_copied_bytes)
        copy_inode = copy_file(source_fd, source_name, self._descriptor(parent), name)
        self._metadata.copied(status.st_ino, copy_inode)
        self._copies[status.st_ino] = (parent, name)

    def _remove(self, parent: _Directory, name: bytes) -> None:
        """Remove the file or directory of this name, with everything in it."""
        # A copy may be removed, or an inode number be used again for another file.
        self._copies.clear()
        node = parent.children.pop(name, None)
        if node is not None:
            self._forget(node)
        elif self._has_followed_links:
            # This may be a link that is part of known paths.
            self._forget_paths()
        remove_tree(self._descriptor(parent), name)

    def _forget(self, node: _Directory) -> None:
        nodes = [node]
        while nodes:
            gone = nodes.pop()
            nodes.extend(gone.children.values())
            if gone.fd is not None:
                self._open.remove(gone)
                self._close_directory(gone)
        self._forget_paths()

    def _forget_paths(self) -> None:
        self._known = {ROOT: self._root}
        self._has_followed_links = False

    # Applying whiteouts.

    def _hide(self, parent: _Directory, name: bytes) -> None:
        if not parent.is_written(name, self._layer):
            self._remove(parent, name)
        elif (node := parent.children.get(name)) is not None:
            self._hide_children(node)

    def _hide_children(self, node: _Directory) -> None:
        nodes = [node]
        while nodes:
            node = nodes.pop()
            if not node.may_hold_lower(self._layer):
                continue
            for name in map(os.fsencode, names_in(self._descriptor(node))):
                if not node.is_written(name, self._layer):
                    self._remove(node, name)
                elif (child := node.children.get(name)) is not None:
                    nodes.append(child)

    def _children_first(self) -> Iterator[_Directory]:
        # Depth first: a directory's ancestors are still open when it is processed.
        order, waiting = [], [self._root]
        while waiting:
            node = waiting.pop()
            order.append(node)
            waiting.extend(node.children.values())
        return reversed(order)


def _is_same_file(first_fd: int, first_name: bytes, second_fd: int, second_name: bytes) -> bool:
    first = os.stat(first_name, dir_fd=first_fd, follow_symlinks=False)
    return os.path.samestat(first, os.stat(second_name, dir_fd=second_fd, follow_symlinks=False))


def _mark(fd: int, path: bytes, attribute: bytes, value: bytes) -> None:
    try:
        os.setxattr(fd, attribute, value)
    except OSError as error:
        error.filename = path + b": xattr " + attribute
        raise
