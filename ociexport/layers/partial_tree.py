"""A tree of names built from the upper layers only; it answers questions whose answer no lower layer can change.

Lower layers may contain anything. So a name is not known to be absent if no layer read so far has written it and its
directory may have entries from lower layers. A lookup of such a name raises `UnreadLayerError`, and the caller reads
one more layer.

Even the place of an entry may be unknown. In a layer without an entry for ``lib``, ``lib/x`` leads to ``usr/lib/x`` if
a lower layer has a link at ``lib``. Such an entry is called floating. After a floating entry:

1. A node with the same last name is unknown everywhere, since the entry may have replaced or hidden it.
2. Unless the entry is a whiteout, no name is known to be absent, since the entry may have made directories anywhere.
3. Unless the entry is a whiteout, no file of a lower layer is known, since such directories may have replaced it.
4. If the entry is an opaque whiteout, nothing is known.

Everything else is certain, by induction: either an entry floats, or its place is known and it changes this tree as it
changes `MemoryTree`. An entry that can't be applied is an error only when all layers are known.

Spec: image-spec 1.1 layer.md, "Applying Changesets", "Whiteouts".
"""

from __future__ import annotations

from ociexport.errors import OciexportError
from ociexport.layers.limits import MAX_DEPTH, MAX_STEPS, NameBudget
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, MemoryTree, Node
from ociexport.layers.paths import ImagePath
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, Entry

# Stands for the file of a hard link whose target is in a layer below.
_UNKNOWN = MemoryFile(IMPLIED_DIRECTORY, 0)


class UnreadLayerError(OciexportError):
    """The answer may depend on a layer that was not read; this error never leaves the package.

    Attributes:
        directory: the directory that the question is about.
        name: the unknown name in it; None if the unknown is which other names it has.
    """

    def __init__(self, directory: MemoryDirectory, name: bytes | None) -> None:
        super().__init__("not known without the layers below")
        self.directory = directory
        self.name = name


class _OpenDirectory(MemoryDirectory):
    """A directory that may have entries from layers that were not read.

    Attributes:
        is_open: False once an opaque whiteout has hidden those entries.
        gone: names in it that whiteouts have hidden.
    """

    __slots__ = ("gone", "is_open")

    def __init__(self, name: bytes, parent: MemoryDirectory | None) -> None:
        super().__init__(name, parent)
        self.is_open = True
        self.gone: set[bytes] = set()


class PartialTree(MemoryTree):
    """A `LayerTarget` for the upper layers of an image, the lowest of them first.

    Args:
        budget: bounds the memory.
        lowest: number of the lowest layer that is applied; with 1, everything is known.
        max_depth: greatest depth of nested directories.
        max_steps: greatest number of names walked through links, for all paths together.

    Attributes:
        unsettled: the unknown names that made entries float.
    """

    def __init__(
        self, budget: NameBudget, lowest: int, *, max_depth: int = MAX_DEPTH, max_steps: int = MAX_STEPS
    ) -> None:
        super().__init__(budget, max_depth=max_depth, max_steps=max_steps)
        self._layer = lowest - 1
        if lowest > 1:
            self.root = _OpenDirectory(b"", None)
        self._shaken: set[bytes] = set()
        self._is_lost = False
        # The last layer with a floating entry that may have made directories; 0 for none.
        self._floating_layer = 0
        self.unsettled: set[bytes] = set()

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        try:
            super().make_directory(path, entry)
        except UnreadLayerError as error:
            self._float(path, error)

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        try:
            super().make_hard_link(path, target)
        except UnreadLayerError:
            # The place of the link itself may still be known.
            self._put(path, _UNKNOWN)

    def hide(self, path: ImagePath) -> None:
        try:
            super().hide(path)
        except UnreadLayerError as error:
            self._float(path, error, makes=False)

    def hide_children(self, path: ImagePath) -> None:
        try:
            super().hide_children(path)
        except UnreadLayerError as error:
            self._is_lost, self._near_path = True, None
            self._unsettle(error)

    def verify_is_whole(self, directory: MemoryDirectory) -> None:
        """Return if everything in ``directory`` is known.

        Raises:
            UnreadLayerError: layers below may have more names in it.
        """
        is_open = isinstance(directory, _OpenDirectory) and directory.is_open
        if is_open or self._floating_layer or self._is_lost:
            raise UnreadLayerError(directory, None)
        for name in directory.children:
            self._child(directory, name)

    def verify_is_described(self, directory: MemoryDirectory) -> None:
        """Return if the metadata of ``directory`` itself is known.

        Raises:
            UnreadLayerError: a layer below may have the entry with it.
        """
        if directory.entry is None and isinstance(directory, _OpenDirectory):
            raise UnreadLayerError(directory, b"")

    def _child(self, node: MemoryDirectory, name: bytes) -> Node | None:
        child = node.children.get(name)
        if self._is_lost or name in self._shaken or child is _UNKNOWN:
            raise UnreadLayerError(node, name)
        if child is None and (
            self._floating_layer or (isinstance(node, _OpenDirectory) and node.is_open and name not in node.gone)
        ):
            raise UnreadLayerError(node, name)
        if isinstance(child, MemoryFile) and not child.is_symlink and child.layer < self._floating_layer:
            raise UnreadLayerError(node, name)
        return child

    def _put(self, path: ImagePath, file: MemoryFile) -> None:
        try:
            super()._put(path, file)
        except UnreadLayerError as error:
            self._float(path, error)

    def _directory_for(self, parent: MemoryDirectory, name: bytes) -> MemoryDirectory:
        is_open = (
            isinstance(parent, _OpenDirectory)
            and parent.is_open
            and name not in parent.gone
            and name not in parent.children
        )
        return _OpenDirectory(name, parent) if is_open else MemoryDirectory(name, parent)

    def _drop(self, parent: MemoryDirectory, name: bytes) -> None:
        super()._drop(parent, name)
        if isinstance(parent, _OpenDirectory):
            parent.gone.add(name)

    def _close(self, node: MemoryDirectory) -> None:
        if isinstance(node, _OpenDirectory):
            node.is_open = False

    def _float(self, path: ImagePath, error: UnreadLayerError, *, makes: bool = True) -> None:
        """Record that the place of the entry ``path`` is unknown; ``makes`` if it may make directories."""
        self._near_path = None
        self._shaken.add(path.rpartition(b"/")[2])
        if makes:
            self._floating_layer = self._layer
        self._unsettle(error)

    def _unsettle(self, error: UnreadLayerError) -> None:
        if error.name is not None:
            self.unsettled.add(error.name)
