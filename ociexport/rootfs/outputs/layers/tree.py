"""One layer applied to the layers below it, of which only the directories that it touches are looked at.

The layers below are known by their indexes. A directory's names are merged from them, as overlayfs merges them, when
they are first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ociexport.layers.apply import DeviceRefusedError
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, Node
from ociexport.layers.paths import ROOT, ImagePath
from ociexport.layers.tar.reader import IMPLIED_DIRECTORY, Entry, EntryType
from ociexport.layers.whiteouts import AUFS_LINKS
from ociexport.rootfs.outputs.flat_image import SpoolingTree
from ociexport.rootfs.outputs.layers.index import WHITEOUT, LayerIndex, Place
from ociexport.rootfs.outputs.spool_writer import SpoolWriter

# Memory for a name that is read from an index: measured, rounded up.
_LOADED_BYTES = 600
# Layers below count as one that is complete.
_BELOW, _OWN = 1, 2


class _FileBelow(MemoryFile):
    """A file of a layer below, whose entry is read when it is asked for."""

    __slots__ = ("_entry", "_index")

    def __init__(self, index: LayerIndex, number: int, file: int) -> None:
        self._index = index
        self._entry: Entry | None = None
        self.layer = 0
        self.place = (-number - 1, file)
        self.is_linked = False

    @property
    def entry(self) -> Entry:  # type: ignore[override] # no entry of a file is ever changed
        """Its entry in the layer."""
        if self._entry is None and self.place is not None:
            self._entry = self._index.file_entry(self.place[1])
        return self._entry or IMPLIED_DIRECTORY


class LayerDirectory(MemoryDirectory):
    """A directory, whose names from layers below are read when they are first asked for.

    Attributes:
        sources: numbers of the index and of the directory in it, the highest layer first; empty for a new directory.
        below: what the layers below have in it, by name; empty until it is read.
        is_opaque: whether this layer hides the same directory of all layers below.
    """

    __slots__ = ("_names", "below", "is_opaque", "sources", "tree")

    def __init__(self, name: bytes, parent: MemoryDirectory | None, tree: LayerTree | None = None) -> None:
        self.tree = tree
        self._names: dict[bytes, Node] | None = None
        self.sources: Sequence[tuple[int, int]] = ()
        self.below: dict[bytes, Node] = {}
        self.is_opaque = False
        super().__init__(name, parent)

    @property
    def is_loaded(self) -> bool:
        """Whether its names were asked for."""
        return self._names is not None

    @property
    def children(self) -> dict[bytes, Node]:
        """The nodes in it, by name."""
        if self._names is None:
            self._names = self.tree.load(self) if self.tree is not None else {}
            self.below = dict(self._names)
        return self._names

    @children.setter
    def children(self, names: dict[bytes, Node]) -> None:
        self._names = names

    def read_later(self, tree: LayerTree, sources: Sequence[tuple[int, int]]) -> None:
        """Take the names from layers below when they are first asked for."""
        self.tree, self.sources, self._names = tree, sources, None


class LayerTree(SpoolingTree):
    """A `LayerTarget` for one layer.

    Args:
        budget: bounds the memory.
        writer: takes the data of files.
        limits: of depth and steps.
        below: the indexes of the layers below, lowest first.

    Attributes:
        looks_below: whether what the layer is in overlayfs's form may depend on the layers below it. The metadata of
            the root do not count.
        linked: ids of the files to which this layer has hard links.
        linked_below: those of them that are of layers below.
        refused_devices: number of devices 0:0 that were left out.
    """

    def __init__(self, budget: NameBudget, writer: SpoolWriter, limits: Limits, below: Sequence[LayerIndex]) -> None:
        super().__init__(budget, writer, keep_dirlinks=False, limits=limits)
        self.below = below
        self.looks_below = False
        self.linked: set[int] = set()
        self.linked_below: list[MemoryFile] = []
        self._linked_here: list[MemoryFile] = []
        self.refused_devices = 0
        self._layer = _BELOW if below else 0
        self._files_below: dict[tuple[int, int], MemoryFile] = {}
        self.root: LayerDirectory = LayerDirectory(b"", None)
        self.root.read_later(self, [(number, 0) for number in reversed(range(len(below)))])
        self.root.entry = next((entry for index in reversed(below) if (entry := index.entry_of(0)) is not None), None)

    @property
    def own_layer(self) -> int:
        """The number of this layer, which nodes have that it wrote."""
        return self._layer

    def load(self, directory: LayerDirectory) -> dict[bytes, Node]:
        """Return what the layers below have in a directory."""
        files: dict[str, tuple[int, int]] = {}
        directories: dict[str, list[tuple[int, int]]] = {}
        hidden: set[str] = set()
        for number, place in directory.sources:
            index = self.below[number]
            for name, reference in index.names(place):
                if name in hidden:
                    continue
                if reference < 0:
                    directories.setdefault(name, []).append((number, -reference))
                    if index.is_opaque(-reference):
                        hidden.add(name)
                    continue
                hidden.add(name)
                if reference != WHITEOUT and name not in directories:
                    files[name] = (number, reference - 1)
        self._take(_LOADED_BYTES * (len(files) + len(directories)))
        nodes: dict[bytes, Node] = {name.encode("latin-1"): self._file_below(*place) for name, place in files.items()}
        for name, sources in directories.items():
            own_name = name.encode("latin-1")
            node = LayerDirectory(own_name, directory)
            node.read_later(self, sources)
            node.entry = self.below[sources[0][0]].entry_of(sources[0][1])
            nodes[own_name] = node
        return nodes

    def place_below(self, file: MemoryFile) -> tuple[int, int] | None:
        """Return the numbers of the index and the file in it, for a file of a layer below; None for another."""
        return (-file.place[0] - 1, file.place[1]) if file.place is not None and file.place[0] < 0 else None

    def data_below(self, file: MemoryFile) -> Place | None:
        """Return where the data of a file of a layer below is."""
        place = self.place_below(file)
        return None if place is None else self.below[place[0]].place_of(place[1])

    def names_of(self, file: MemoryFile) -> Iterator[tuple[LayerDirectory, bytes]]:
        """Yield the directories and names in the result that lead to a file of a layer below."""
        place = self.place_below(file)
        if place is None:
            return
        for parts in self.below[place[0]].paths_of(place[1]):
            node: Node | None = self.root
            for part in parts[:-1]:
                node = node.children.get(part) if isinstance(node, MemoryDirectory) else None
            if isinstance(node, LayerDirectory) and node.children.get(parts[-1]) is file:
                yield node, parts[-1]

    def drop_aufs_links(self) -> None:
        """Remove AUFS's directory of linked files, as `LayerApplier.finish` does."""
        self.root.children.pop(AUFS_LINKS, None)

    def forget(self) -> None:
        """Free the memory of all names; the tree is not used after that."""
        waiting = [self.root]
        while waiting:
            directory = waiting.pop()
            if directory.is_loaded:
                waiting += [node for node in directory.children.values() if isinstance(node, LayerDirectory)]
                waiting += [node for node in directory.below.values() if isinstance(node, LayerDirectory)]
            directory.children, directory.below = {}, {}
        self._files_below = {}

    # Calls of a layer's entries.

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        """Record a device, unless overlayfs would take it for a whiteout.

        Raises:
            DeviceRefusedError: its numbers are 0:0; what had its name is removed all the same.
        """
        if entry.type is EntryType.CHARACTER_DEVICE and entry.device == (0, 0):
            parent, name = self._locate(path)
            parent.children.pop(name, None)
            self.refused_devices += 1
            raise DeviceRefusedError("a whiteout of overlayfs")
        super().make_device(path, entry)

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        """Give a file another name."""
        super().make_hard_link(path, target)
        parent_path, _, name = path.rpartition(b"/")
        parent = self._directory(parent_path, create=False)
        node = parent.children.get(name) if parent is not None else None
        if isinstance(node, MemoryFile) and id(node) not in self.linked:
            self.linked.add(id(node))
            # The files stay in memory, so that no other file gets their ids.
            (self.linked_below if self.place_below(node) is not None else self._linked_here).append(node)

    def hide(self, path: ImagePath) -> None:
        """Remove the entries of lower layers at ``path``."""
        # Below a directory that only this layer has, overlayfs would list the whiteout: it is written where it hides.
        self.looks_below = True
        super().hide(path)
        parent_path, _, name = path.rpartition(b"/")
        parent = self._directory(parent_path, create=False)
        if parent is not None and parent.is_written(name, self._layer):
            self._make_opaque(parent.children.get(name))

    def hide_children(self, path: ImagePath) -> None:
        """Remove the entries of lower layers in a directory."""
        super().hide_children(path)
        if path != ROOT:
            self._make_opaque(self._directory(path, create=False))
        else:
            self.looks_below = True

    # How nodes are found and made.

    def _child(self, node: MemoryDirectory, name: bytes) -> Node | None:
        child = super()._child(node, name)
        if child is None or child.layer < self._layer:
            self.looks_below = True
        return child

    def _new_directory(self, parent: MemoryDirectory, name: bytes) -> MemoryDirectory:
        replaced = parent.children.get(name)
        node = super()._new_directory(parent, name)
        if isinstance(replaced, MemoryFile) and replaced.layer == self._layer:
            # The file had hidden a directory of a layer below.
            self._make_opaque(node)
        return node

    def _directory_for(self, parent: MemoryDirectory, name: bytes) -> MemoryDirectory:
        return LayerDirectory(name, parent)

    @staticmethod
    def _make_opaque(node: Node | None) -> None:
        if isinstance(node, LayerDirectory):
            node.is_opaque = True

    def _file_below(self, number: int, file: int) -> MemoryFile:
        """Return a file of a layer below: the same one for all its names."""
        known = self._files_below.get((number, file))
        if known is None:
            known = self._files_below[number, file] = _FileBelow(self.below[number], number, file)
        return known
