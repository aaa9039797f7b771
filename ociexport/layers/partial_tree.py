"""A tree of names of which only the upper layers are known: it answers what is certain without those below.

Lower layers may hold anything, so a name that no layer read so far has written is not known to be absent: not in a
directory that a lower layer may have filled too. Whoever asks for it gets an `UnreadLayerError` and reads one more.

An entry may even stand at an unknown place: ``lib/x`` in a layer that has no entry for ``lib`` leads to ``usr/lib/x``
where a lower layer has a link at ``lib``. From such a floating entry on,

1. whatever has its last name, anywhere, is not known, since that is what it may have replaced or hidden;
2. unless it is a whiteout, nothing is known to be absent, since directories on its way may have been made anywhere;
3. nor is any file of a layer below, since those give way to such directories;
4. after an opaque whiteout at an unknown place, nothing is known at all.

What is left is certain by induction: the place of an entry is known or it floats, and one whose place is known does to
the tree what it does to `MemoryTree`. An entry that can't be applied is an error only when all layers are known.

Spec: image-spec 1.1 layer.md, "Applying Changesets", "Whiteouts".
"""

from __future__ import annotations

from ociexport.errors import OciexportError
from ociexport.layers.limits import MAX_DEPTH, MAX_STEPS, NameBudget
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, MemoryTree, Node
from ociexport.layers.paths import ImagePath
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, Entry

# In the place of a file that a hard link shares with a layer below.
_UNKNOWN = MemoryFile(IMPLIED_DIRECTORY, 0)


class UnreadLayerError(OciexportError):
    """What was asked for is in a layer that was not read, or may be; it never leaves the package.

    Attributes:
        directory: that it is in.
        name: of what is not known; None where it is what else the directory holds.
    """

    def __init__(self, directory: MemoryDirectory, name: bytes | None) -> None:
        super().__init__("not known without the layers below")
        self.directory = directory
        self.name = name


class _OpenDirectory(MemoryDirectory):
    """A directory that layers which were not read may have filled too.

    Attributes:
        is_open: whether that is so still.
        gone: names that are hidden from them.
    """

    __slots__ = ("gone", "is_open")

    def __init__(self, name: bytes, parent: MemoryDirectory | None) -> None:
        super().__init__(name, parent)
        self.is_open = True
        self.gone: set[bytes] = set()


class PartialTree(MemoryTree):
    """The tree that the upper layers are applied to, lowest of them first.

    Args:
        budget: bounds the memory.
        lowest: number of that one; with 1, everything is known.
        max_depth: directories within directories.
        max_steps: names that links lead over, for all paths together.

    Attributes:
        unsettled: names at places that are not known and made entries float.
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
            # Where the link stands may be known all the same.
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
            self._is_lost = True
            self._unsettle(error)

    def verify_is_whole(self, directory: MemoryDirectory) -> None:
        """Return if all that is in ``directory`` is known.

        Raises:
            UnreadLayerError: layers below may have more.
        """
        is_open = isinstance(directory, _OpenDirectory) and directory.is_open
        if is_open or self._floating_layer or self._is_lost:
            raise UnreadLayerError(directory, None)
        for name in directory.children:
            self._child(directory, name)

    def verify_is_described(self, directory: MemoryDirectory) -> None:
        """Return if it is known what layers say of ``directory`` itself.

        Raises:
            UnreadLayerError: a layer below may say it; so it can be of the root only.
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
        """Take note that an entry of ``path`` stands at an unknown place; ``makes`` if it needs directories."""
        self._shaken.add(path.rpartition(b"/")[2])
        if makes:
            self._floating_layer = self._layer
        self._unsettle(error)

    def _unsettle(self, error: UnreadLayerError) -> None:
        if error.name is not None:
            self.unsettled.add(error.name)
