"""What one layer is in overlayfs's form: the nodes that it has, its whiteouts and its opaque directories.

- A directory has all its metadata, since overlayfs shows those of the highest layer that has the directory. So where a
  layer writes into a directory that it does not describe, the metadata come from the layers below.
- A file of a layer below that gets another name is here with all its names, since overlayfs shows files of different
  layers as different files.
- A whiteout is where a name of the layers below is gone. Below an opaque directory there is none.

Spec: Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ociexport.layers.limits import NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile, Node
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.rootfs.outputs.flat_image import NODE_BYTES, FlatNode, SpooledFile, stored_entry
from ociexport.rootfs.outputs.layers.index import WHITEOUT, LayerIndex, Place
from ociexport.rootfs.outputs.layers.tree import LayerDirectory, LayerTree
from ociexport.spec.lazy_dataclass import dataclass, field

# A device 0:0.
WHITEOUT_ENTRY = Entry(EntryType.CHARACTER_DEVICE, b"", b"", 0, 0, 0, 0, 0, None, None, (0, 0), None)


@dataclass(slots=True)
class LayerForm:
    """A layer in overlayfs's form.

    Args:
        index: of the nodes.
        nodes: as in `FlatImage`; whiteouts are among them, and each is a node of its own.
        whiteouts: numbers of the nodes that are whiteouts.
        opaque: numbers of the directories that are opaque.
        over_others: numbers of the nodes whose names layers below have too.
        borrowed: the files whose data is in a layer below, by number: the numbers of its index and of the file in it.
        describes_root: whether the layer itself has an entry for the root.
    """

    index: LayerIndex
    nodes: list[FlatNode] = field(default_factory=list)
    whiteouts: set[int] = field(default_factory=set)
    opaque: set[int] = field(default_factory=set)
    over_others: set[int] = field(default_factory=set)
    borrowed: dict[int, tuple[int, int]] = field(default_factory=dict)
    describes_root: bool = False


# A node, or None for a whiteout; the directory that it is in, its name, and what layers below have there.
_Waiting: TypeAlias = tuple[Node | None, FlatNode, bytes, Node | None]


def form_of(tree: LayerTree, budget: NameBudget, losses: Losses, diff_id: str) -> LayerForm:
    """Return what the layer applied to ``tree`` is in overlayfs's form.

    Args:
        losses: counts the attributes that are left out.
        diff_id: of the layer.
    """
    return _Forming(tree, budget, losses, diff_id).form


class _Forming:
    """Finds what a layer has; see `form_of`."""

    def __init__(self, tree: LayerTree, budget: NameBudget, losses: Losses, diff_id: str) -> None:
        self._tree = tree
        self._budget = budget
        self._losses = losses
        self._diff_id = diff_id
        self.form = LayerForm(LayerIndex(diff_id), describes_root=tree.root.layer == tree.own_layer)
        # By id of a directory: names of files of layers below that are written again.
        self._written_again: dict[int, set[bytes]] = {}
        self._find_written_again()
        # By id of a directory: the names in it that are here; of those whose content the layer does not change, none.
        self._here = self._find_here()
        self._files: dict[int, FlatNode] = {}
        # Emptied directories; they stay in memory, so that no other directory gets their ids.
        self._emptied: list[LayerDirectory] = []
        # By number of a node: its number in the index.
        self._numbers: list[int] = []
        self._write_all()

    def _find_written_again(self) -> None:
        for file in self._tree.linked_below:
            for directory, name in self._tree.names_of(file):
                self._written_again.setdefault(id(directory), set()).add(name)

    def _loaded_directories(self) -> Sequence[LayerDirectory]:
        """Return the directories whose names were asked for, each before those in it."""
        found: list[LayerDirectory] = []
        waiting: list[LayerDirectory] = [self._tree.root]
        while waiting:
            directory = waiting.pop()
            if directory.is_loaded:
                found.append(directory)
                waiting += [node for node in directory.children.values() if isinstance(node, LayerDirectory)]
        return found

    def _find_here(self) -> dict[int, set[bytes]]:
        here: dict[int, set[bytes]] = {}
        for directory in reversed(self._loaded_directories()):
            below, names = directory.below, directory.children
            own = {name for name, node in names.items() if below.get(name) is not node}
            own.update(name for name in below if name not in names)
            own.update(name for name, node in names.items() if isinstance(node, LayerDirectory) and self._is_own(node))
            own.update(name for name, node in names.items() if isinstance(node, LayerDirectory) and id(node) in here)
            own.update(self._written_again.get(id(directory), ()))
            if own or directory.is_opaque:
                here[id(directory)] = own
        return here

    def _is_own(self, directory: LayerDirectory) -> bool:
        """Whether the layer has an entry for a directory, or hides what layers below have in it."""
        return directory.layer == self._tree.own_layer or directory.is_opaque

    def _write_all(self) -> None:
        tree = self._tree
        root = self._add_directory(tree.root, None, is_opaque=False)
        waiting = self._inside(tree.root, root, is_merged=bool(tree.root.sources))
        while waiting:
            node, parent, name, other = waiting.pop()
            if node is None:
                self._add_whiteout(parent, name)
                continue
            if isinstance(node, LayerDirectory):
                is_over = isinstance(other, MemoryDirectory)
                flat = self._add_directory(node, parent, is_opaque=node.is_opaque or (is_over and other is not node))
                waiting += self._inside(node, flat, is_merged=other is node and not node.is_opaque)
            elif isinstance(node, MemoryFile):
                flat = self._file(node, parent)
            if other is not None:
                self.form.over_others.add(flat.number)
            self._name(parent, name, flat)

    def _inside(self, directory: LayerDirectory, flat: FlatNode, *, is_merged: bool) -> list[_Waiting]:
        """Return what is in a directory, the last name first.

        Args:
            is_merged: whether overlayfs shows what the layers below have in the directory too.
        """
        children = directory.children
        below = directory.below if is_merged else {}
        names = self._here.get(id(directory), set()) if is_merged else children.keys()
        inside = [(children.get(name), flat, name, below.get(name)) for name in sorted(names, reverse=True)]
        # The tree's nodes are freed while those of the form are made.
        directory.children, directory.below = {}, {}
        self._emptied.append(directory)
        return inside

    def _name(self, parent: FlatNode, name: bytes, node: FlatNode) -> None:
        if parent.children is not None:
            parent.children.append((name, node))
        if node.is_directory:
            parent.links += 1
        reference = -self._numbers[node.number] if node.is_directory else self._numbers[node.number] + 1
        self.form.index.name(self._numbers[parent.number], name, reference)

    def _add(self, entry: Entry, parent: FlatNode | None) -> FlatNode:
        self._budget.take(2 * NODE_BYTES)
        flat = FlatNode(len(self.form.nodes), entry, parent)
        self.form.nodes.append(flat)
        self._numbers.append(0)
        return flat

    def _add_directory(self, node: LayerDirectory, parent: FlatNode | None, *, is_opaque: bool) -> FlatNode:
        entry = stored_entry(node.described, self._losses)
        flat = self._add(entry, parent)
        flat.children, flat.links = [], 2
        if is_opaque:
            self.form.opaque.add(flat.number)
        described = None if node.entry is None else entry
        self._numbers[flat.number] = self.form.index.add_directory(described, is_opaque=is_opaque)
        return flat

    def _add_whiteout(self, parent: FlatNode, name: bytes) -> None:
        flat = self._add(WHITEOUT_ENTRY, parent)
        self.form.whiteouts.add(flat.number)
        if parent.children is not None:
            parent.children.append((name, flat))
        self.form.index.name(self._numbers[parent.number], name, WHITEOUT)

    def _file(self, node: MemoryFile, parent: FlatNode) -> FlatNode:
        known = self._files.get(id(node))
        if known is not None:
            known.links += 1
            return known
        flat = self._add(stored_entry(node.entry, self._losses), parent)
        if id(node) in self._tree.linked:
            self._files[id(node)] = flat
        place = None
        if node.entry.type is EntryType.FILE:
            place = self._tree.data_below(node)
            below = self._tree.place_below(node)
            if below is not None:
                self.form.borrowed[flat.number] = below
            elif node.place is not None:
                flat.extents = node.extents if isinstance(node, SpooledFile) else ()
                place = Place(self._diff_id, node.place[1])
            if flat.extents is None:
                flat.extents = ()
        self._numbers[flat.number] = self.form.index.add_file(flat.entry, place)
        return flat
