"""A tree of names in memory, which layers are applied to as to `Rootfs`: what would be where, with no file made.

It follows the same rules to the letter; a test applies random layers to both and compares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

from ociexport.errors import InvalidImageError, UnsafeEntryError, quoted_path
from ociexport.layers.kept_names import MarkedDirectory
from ociexport.layers.limits import MAX_DEPTH, MAX_STEPS, NameBudget, verify_depth, verify_steps, weight_of
from ociexport.layers.paths import ROOT, ImagePath
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, Entry, EntryType

_MAX_LINKS_FOLLOWED = 40
# What a node takes of memory beside the bytes of its name: measured, rounded up.
_FILE_BYTES = 300
_DIRECTORY_BYTES = 650


class MemoryFile:
    """Anything but a directory; several names may have the same one.

    Attributes:
        entry: what the layer says of it.
        layer: number of that layer, from 1.
        place: layer and number of the file in it (both from 1), for finding its data again; None without data.
    """

    __slots__ = ("entry", "layer", "place")

    def __init__(self, entry: Entry, layer: int, place: tuple[int, int] | None = None) -> None:
        self.entry = entry
        self.layer = layer
        self.place = place

    @property
    def described(self) -> Entry:
        """What is to be seen of it."""
        return self.entry

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.entry.type is EntryType.SYMLINK


class MemoryDirectory(MarkedDirectory):
    """A directory.

    Attributes:
        entry: what the last layer that names it says; None for one that only others are in.
        layer: number of that layer, or of the one that put something in it; 0 for a root that no layer names.
        children: by name.
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
        """What is to be seen of it, also where no layer says anything."""
        return self.entry if self.entry is not None else IMPLIED_DIRECTORY

    @property
    def path(self) -> bytes:
        """Where it is; ``b""`` for the root."""
        parts = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts))


Node: TypeAlias = MemoryDirectory | MemoryFile


class MemoryTree:
    """The tree that layers are applied to; see `Rootfs` for what each call means.

    Args:
        budget: bounds the memory; what was removed again counts on, so that nobody needs to walk it.
        keep_dirlinks: a directory entry over a link to a directory keeps the link.
        max_depth: directories within directories.
        max_steps: names that links lead over, for all paths together.
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

    def copy(self) -> MemoryTree:
        """Return a tree of its own that is like this one; they share files, which do not change."""
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
        """Give back what the tree took of the budget: nobody needs it any more."""
        self._budget.take(-self._taken_bytes)
        self._taken_bytes = 0

    def begin_layer(self) -> None:
        """From here on, whiteouts hide what was written so far."""
        self._layer += 1
        self._files = 0

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        """Make a directory, or give the one that is there new metadata."""
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
        """Take note of a file; its data is not read."""
        self._files += 1
        # Whoever writes the data gets its segments with it; a million of them take more room than they do in a tar.
        if entry.segments is not None:
            entry = entry._replace(segments=None)
        self._put(path, MemoryFile(entry, self._layer, (self._layer, self._files)))

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        """Take note of a link."""
        self._put(path, MemoryFile(entry, self._layer))

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        """Take note of a device or fifo."""
        self._put(path, MemoryFile(entry, self._layer))

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        """Give what is at ``target`` one more name."""
        source_path, _, source_name = target.rpartition(b"/")
        source = self._directory(source_path, create=False)
        parent, name = self._locate(path)
        if source is parent and source_name == name:
            return
        there = self._child(source, source_name) if source is not None else None
        # A directory that gives way to the new name takes the file along if it is in it.
        if there is None or (source is not None and _is_within(source, parent.children.get(name))):
            raise InvalidImageError(f"hard link: expected a file at {quoted_path(target)}, got none")
        if isinstance(there, MemoryDirectory):
            raise InvalidImageError(f"hard link: expected a file at {quoted_path(target)}, got a directory")
        if name not in parent.children:
            self._take(_FILE_BYTES + len(name))
        parent.children[name] = there

    def hide(self, path: ImagePath) -> None:
        """Remove what lower layers left at ``path``."""
        parent_path, _, name = path.rpartition(b"/")
        parent = self._directory(parent_path, create=False)
        if parent is None or self._layer <= 1:
            return
        if not parent.is_written(name, self._layer):
            self._drop(parent, name)
        elif isinstance(node := parent.children.get(name), MemoryDirectory):
            self._hide_children(node)

    def hide_children(self, path: ImagePath) -> None:
        """Remove what lower layers left in the directory ``path``."""
        node = self._directory(path, create=False)
        if node is not None and self._layer > 1:
            self._hide_children(node)

    def find(self, path: bytes, *, follow: bool) -> Node | None:
        """Return what is at ``path``, links in it resolved within the root; None where nothing is.

        Args:
            path: as people write it; ``..`` leads no higher than the root, and a slash at the end to a directory only.
            follow: whether a link at its very end is resolved too.

        Raises:
            InvalidImageError: there are more links on the way than Linux follows.
        """
        return self._walk(path, create=False, follow=follow)

    def walk(self, top: MemoryDirectory | None = None) -> Iterator[tuple[bytes, Node]]:
        """Yield path and node of everything below ``top``, each directory before what is in it, sorted by name.

        Args:
            top: that paths are relative to; None for the root.
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
            self._take(_FILE_BYTES + len(name) + weight_of(file.entry))
        parent.children[name] = file

    def _take(self, count: int) -> None:
        self._budget.take(count)
        self._taken_bytes += count

    def _locate(self, path: ImagePath) -> tuple[MemoryDirectory, bytes]:
        parent_path, _, name = path.rpartition(b"/")
        if not name:
            raise UnsafeEntryError("the root itself: expected a directory, got another type of entry")
        parent = self._directory(parent_path, create=True)
        if parent is None:
            raise AssertionError("a directory that is created when missing is there")
        parent.mark(name, self._layer)
        return parent, name

    def _directory(self, path: bytes, *, create: bool) -> MemoryDirectory | None:
        node = self._walk(path, create=create, follow=True)
        return node if isinstance(node, MemoryDirectory) else None

    def _walk(self, path: bytes, *, create: bool, follow: bool) -> Node | None:
        """Return what is at ``path``; with ``create`` a directory, made with those above it where it is missing."""
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
                node.mark(part, self._layer)
                node = self._new_directory(node, part)
                node.layer = self._layer
        return node

    def _child(self, node: MemoryDirectory, name: bytes) -> Node | None:
        return node.children.get(name)

    def _new_directory(self, parent: MemoryDirectory, name: bytes) -> MemoryDirectory:
        verify_depth(parent.depth + 1, self._max_depth)
        self._take(_DIRECTORY_BYTES + len(name))
        node = parent.children[name] = self._directory_for(parent, name)
        return node

    def _directory_for(self, parent: MemoryDirectory, name: bytes) -> MemoryDirectory:
        return MemoryDirectory(name, parent)

    def _close(self, node: MemoryDirectory) -> None:
        """Take note that ``node`` has nothing any more of what lower layers had in it."""

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
