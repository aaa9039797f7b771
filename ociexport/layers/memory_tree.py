"""A tree of names in memory: the result of applying layers, without files on disk.

It follows exactly the same rules as `Rootfs`; a test applies random layers to both and compares the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

from ociexport.errors import InvalidImageError, UnsafeEntryError, quoted_path
from ociexport.layers.kept_names import MarkedDirectory
from ociexport.layers.limits import MAX_DEPTH, MAX_STEPS, NameBudget, verify_depth, verify_steps, weight_of
from ociexport.layers.paths import ROOT, ImagePath, verify_parent_name
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, Entry, EntryType

_MAX_LINKS_FOLLOWED = 40
# Memory that a node takes beside the bytes of its name: measured, rounded up.
_FILE_BYTES = 300
_DIRECTORY_BYTES = 650


class MemoryFile:
    """Anything but a directory; several names may refer to the same file.

    Attributes:
        entry: its entry in the layer.
        layer: number of that layer, from 1.
        place: numbers of the layer and of the file in it, both from 1, for finding its data again; None without data.
        is_linked: whether a hard link gave it another name.
    """

    __slots__ = ("entry", "is_linked", "layer", "place")

    def __init__(self, entry: Entry, layer: int, place: tuple[int, int] | None = None) -> None:
        self.entry = entry
        self.layer = layer
        self.place = place
        self.is_linked = False

    @property
    def described(self) -> Entry:
        """The entry that describes it."""
        return self.entry

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.entry.type is EntryType.SYMLINK


class MemoryDirectory(MarkedDirectory):
    """A directory.

    Attributes:
        entry: its entry in the last layer that has one; None for a directory that is only part of others' paths.
        layer: number of that layer, or of the layer whose paths imply it; 0 for a root that no layer has an entry for.
        children: the nodes in it, by name.
    """

    __slots__ = ("children", "entry", "layer")

    parent: MemoryDirectory | None

    def __init__(self, name: bytes, parent: MemoryDirectory | None) -> None:
        super().__init__(name, parent)
        self.entry: Entry | None = None
        self.layer = 0
        self.children: dict[bytes, Node] = {}

    @property
    def described(self) -> Entry:
        """The entry that describes it; `IMPLIED_DIRECTORY` if no layer has an entry for it."""
        return self.entry if self.entry is not None else IMPLIED_DIRECTORY

    @property
    def path(self) -> bytes:
        """Its path; ``b""`` for the root."""
        parts = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts))


Node: TypeAlias = MemoryDirectory | MemoryFile


class MemoryTree:
    """A `LayerTarget` that keeps the names; `Rootfs` documents the calls.

    Args:
        budget: bounds the memory. Removed nodes still count, which saves a walk over each removed tree.
        keep_dirlinks: a directory entry over a link to a directory keeps the link.
        max_depth: greatest depth of nested directories.
        max_steps: greatest number of names walked through links, for all paths together.
    """

    def __init__(
        self,
        budget: NameBudget,
        *,
        keep_dirlinks: bool = False,
        max_depth: int = MAX_DEPTH,
        max_steps: int = MAX_STEPS,
    ) -> None:
        self.root = MemoryDirectory(b"", None)
        self._budget = budget
        self._taken_bytes = 0
        self._keep_dirlinks = keep_dirlinks
        self._max_depth = max_depth
        self._max_steps = max_steps
        self._steps = 0
        self._layer = 0
        self._files = 0
        # The directory of the last entry, since most entries follow another in the same directory. It is forgotten when
        # its path may have come to mean something else.
        self._near_path: bytes | None = None
        self._near = self.root
        self._links_followed = 0

    def copy(self) -> MemoryTree:
        """Return an independent copy; both share the files, which do not change."""
        twin = MemoryTree(
            self._budget,
            keep_dirlinks=self._keep_dirlinks,
            max_depth=self._max_depth,
            max_steps=self._max_steps,
        )
        twin._layer, twin._steps = self._layer, self._steps
        twin._take(self._taken_bytes)
        waiting = [(self.root, twin.root)]
        while waiting:
            node, copied = waiting.pop()
            copied.entry, copied.layer = node.entry, node.layer
            for name, child in node.children.items():
                if isinstance(child, MemoryDirectory):
                    copied.children[name] = below = MemoryDirectory(name, copied)
                    waiting.append((child, below))
                else:
                    copied.children[name] = child
        return twin

    def release(self) -> None:
        """Return the tree's memory to the budget; the tree is not used after that."""
        self._budget.take(-self._taken_bytes)
        self._taken_bytes = 0

    def begin_layer(self) -> None:
        """Start the next layer; its whiteouts hide what was written so far."""
        self._layer += 1
        self._files = 0
        self._near_path = None

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        """Make a directory, or give an existing one new metadata."""
        if path == ROOT:
            self.root.entry, self.root.layer = entry, self._layer
            return
        parent, name = self._locate(path)
        there = parent.children.get(name)
        if not isinstance(there, MemoryDirectory):
            linked = self._linked_directory(path) if self._keep_dirlinks and _is_symlink(there) else None
            there = linked or self._new_directory(parent, name)
        self._take(weight_of(entry) - (weight_of(there.entry) if there.entry is not None else 0))
        there.entry, there.layer = entry, self._layer

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Record a file; its data is not read."""
        self._files += 1
        # The segments are not needed here: they come with the data, and a million of them take much memory.
        if entry.segments is not None:
            entry = entry._replace(segments=None)
        self._put(path, self._file_for(entry, (self._layer, self._files)))

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        """Record a symbolic link."""
        self._put(path, MemoryFile(entry, self._layer))

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        """Record a device or fifo."""
        self._put(path, MemoryFile(entry, self._layer))

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        """Give the file at ``target`` one more name."""
        source_path, _, source_name = target.rpartition(b"/")
        source = self._directory(source_path, create=False)
        parent, name = self._locate(path)
        if source is parent and source_name == name:
            return
        there = self._child(source, source_name) if source is not None else None
        # If the new name replaces a directory that contains the file, the file is removed with the directory.
        if there is None or (source is not None and _is_within(source, parent.children.get(name))):
            raise InvalidImageError(f"hard link: expected a file at {quoted_path(target)}, got none")
        if isinstance(there, MemoryDirectory):
            raise InvalidImageError(f"hard link: expected a file at {quoted_path(target)}, got a directory")
        replaced = parent.children.get(name)
        if replaced is None:
            self._take(_FILE_BYTES + len(name))
        elif isinstance(replaced, MemoryDirectory):
            self._near_path = None
        parent.children[name] = there
        there.is_linked = True

    def hide(self, path: ImagePath) -> None:
        """Remove the entries of lower layers at ``path``."""
        parent_path, _, name = path.rpartition(b"/")
        self._near_path = None
        parent = self._directory(parent_path, create=False)
        if parent is None or self._layer <= 1:
            return
        if not parent.is_written(name, self._layer):
            self._drop(parent, name)
        elif isinstance(node := parent.children.get(name), MemoryDirectory):
            self._hide_children(node)

    def hide_children(self, path: ImagePath) -> None:
        """Remove the entries of lower layers in the directory ``path``."""
        self._near_path = None
        node = self._directory(path, create=False)
        if node is not None and self._layer > 1:
            self._hide_children(node)

    def find(self, path: bytes, *, follow: bool) -> Node | None:
        """Return the node at ``path``, with links resolved within the root; None if the path does not exist.

        Args:
            path: as people write it; ``..`` stops at the root, and a slash at the end requires a directory.
            follow: whether a link at the end of the path is resolved too.

        Raises:
            InvalidImageError: the path leads through more links than Linux follows.
        """
        return self._walk(path, create=False, follow=follow)

    def walk(self, top: MemoryDirectory | None = None) -> Iterator[tuple[bytes, Node]]:
        """Yield path and node of everything below ``top``, sorted by name, each directory before its children.

        Args:
            top: the directory that paths are relative to; None for the root.
        """
        waiting: list[tuple[bytes, Node]] = [(b"", top or self.root)]
        while waiting:
            path, node = waiting.pop()
            if path:
                yield path, node
            if isinstance(node, MemoryDirectory):
                prefix = path + b"/" if path else b""
                waiting += [(prefix + name, node.children[name]) for name in sorted(node.children, reverse=True)]

    def _put(self, path: ImagePath, file: MemoryFile) -> None:
        parent, name = self._locate(path)
        replaced = parent.children.get(name)
        if isinstance(replaced, MemoryFile):
            self._take(weight_of(file.entry) - weight_of(replaced.entry))
        else:
            if replaced is not None:
                self._near_path = None
            self._take(_FILE_BYTES + len(name) + weight_of(file.entry))
        parent.children[name] = file

    def _take(self, count: int) -> None:
        self._budget.take(count)
        self._taken_bytes += count

    def _locate(self, path: ImagePath) -> tuple[MemoryDirectory, bytes]:
        parent_path, _, name = path.rpartition(b"/")
        if not name:
            raise UnsafeEntryError("the root itself: expected a directory, got another type of entry")
        if parent_path == self._near_path:
            parent = self._near
        else:
            self._near_path = None
            found = self._directory(parent_path, create=True)
            if found is None:
                raise AssertionError("_directory(create=True) returns a directory")
            parent = found
            if not self._links_followed:
                self._near_path, self._near = parent_path, parent
        parent.mark(name, self._layer)
        return parent, name

    def _directory(self, path: bytes, *, create: bool) -> MemoryDirectory | None:
        node = self._walk(path, create=create, follow=True)
        return node if isinstance(node, MemoryDirectory) else None

    def _walk(self, path: bytes, *, create: bool, follow: bool) -> Node | None:
        """Return the node at ``path``; with ``create``, make missing directories on the way and at its end."""
        node = self.root
        remaining = deque(path.split(b"/"))
        links_followed = 0
        while remaining:
            part = remaining.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                node = node.parent or node
                continue
            child = self._child(node, part)
            if isinstance(child, MemoryDirectory):
                node = child
            elif child is not None and child.is_symlink and (follow or remaining):
                links_followed += 1
                if links_followed > _MAX_LINKS_FOLLOWED:
                    raise InvalidImageError(f"{quoted_path(path)}: expected at most {_MAX_LINKS_FOLLOWED} links")
                target = child.entry.link_name
                if target.startswith(b"/"):
                    node = self.root
                steps = target.split(b"/")
                self._steps += len(steps)
                verify_steps(self._steps, self._max_steps)
                remaining.extendleft(reversed(steps))
            elif not create:
                return None if remaining else child
            elif child is not None and (self._layer <= 1 or node.is_written(part, self._layer)):
                raise InvalidImageError(f"parent {quoted_path(_path_of(node, part))}: expected a directory")
            else:
                verify_parent_name(part, path)
                node.mark(part, self._layer)
                node = self._new_directory(node, part)
                node.layer = self._layer
        self._links_followed = links_followed
        return node

    def _child(self, node: MemoryDirectory, name: bytes) -> Node | None:
        return node.children.get(name)

    def _new_directory(self, parent: MemoryDirectory, name: bytes) -> MemoryDirectory:
        verify_depth(parent.depth + 1, self._max_depth)
        self._take(_DIRECTORY_BYTES + len(name))
        node = parent.children[name] = self._directory_for(parent, name)
        return node

    def _file_for(self, entry: Entry, place: tuple[int, int]) -> MemoryFile:
        return MemoryFile(entry, self._layer, place)

    def _directory_for(self, parent: MemoryDirectory, name: bytes) -> MemoryDirectory:
        return MemoryDirectory(name, parent)

    def _close(self, node: MemoryDirectory) -> None:
        """Record that ``node`` no longer contains entries of lower layers."""

    def _drop(self, parent: MemoryDirectory, name: bytes) -> None:
        parent.children.pop(name, None)

    def _linked_directory(self, path: ImagePath) -> MemoryDirectory | None:
        try:
            return self._directory(path, create=False)
        except InvalidImageError:
            return None

    def _hide_children(self, node: MemoryDirectory) -> None:
        nodes = [node]
        while nodes:
            node = nodes.pop()
            self._close(node)
            if not node.may_hold_lower(self._layer):
                continue
            for name in list(node.children):
                if not node.is_written(name, self._layer):
                    self._drop(node, name)
                elif isinstance(child := node.children[name], MemoryDirectory):
                    nodes.append(child)


def _is_within(directory: MemoryDirectory, node: Node | None) -> bool:
    """Whether ``node`` is ``directory`` or a directory above it."""
    if not isinstance(node, MemoryDirectory):
        return False
    above: MemoryDirectory | None = directory
    while above is not None and above is not node:
        above = above.parent
    return above is not None


def _is_symlink(node: Node | None) -> bool:
    return isinstance(node, MemoryFile) and node.is_symlink


def _path_of(directory: MemoryDirectory, name: bytes) -> bytes:
    return directory.path + b"/" + name if directory.path else name
