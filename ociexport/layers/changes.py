"""What a layer says, kept whole in memory: it is read once, and can then be applied as often as needed.

`outline` keeps the names alone, on disk, for those who apply many layers of many images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from ociexport.errors import InvalidImageError
from ociexport.layers.apply import LayerTarget
from ociexport.layers.limits import NameBudget, weight_of
from ociexport.layers.paths import ROOT, ImagePath, quoted_path
from ociexport.layers.tar.reader import Entry

# What one takes of memory beside its path and its entry: measured, rounded up.
_CHANGE_BYTES = 150


class ChangeKind(Enum):
    """What a layer does with a path."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    DEVICE = "device"
    WHITEOUT = "whiteout"
    OPAQUE = "opaque"


class LayerChange(NamedTuple):
    """One entry of a layer, whiteouts understood.

    Args:
        kind: what it does; a fifo counts as a device, as it does for those who make one.
        path: where, as the layer writes it, links not followed; of a whiteout, what it hides.
        entry: what the tar says; None for hard links, which share what they are linked to, and for whiteouts.
        target: of a hard link.
    """

    kind: ChangeKind
    path: ImagePath
    entry: Entry | None = None
    target: ImagePath = ROOT


class ChangeRecorder:
    """A target of layers that keeps what each says; see `Rootfs` for what each call means.

    Args:
        budget: bounds the memory.

    Attributes:
        changes: of the layers so far, one list for each.
    """

    def __init__(self, budget: NameBudget) -> None:
        self._budget = budget
        self.changes: list[list[LayerChange]] = []

    def begin_layer(self) -> None:
        """Begin the list of a layer."""
        self.changes.append([])

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        """Keep that there is a directory."""
        self._add(LayerChange(ChangeKind.DIRECTORY, path, entry))

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Keep that there is a file; neither its data nor where that has holes."""
        if entry.segments is not None:
            entry = entry._replace(segments=None)
        self._add(LayerChange(ChangeKind.FILE, path, entry))

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        """Keep that there is a link."""
        self._add(LayerChange(ChangeKind.SYMLINK, path, entry))

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        """Keep that there is one more name."""
        self._add(LayerChange(ChangeKind.HARD_LINK, path, target=target))

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        """Keep that there is a device or fifo."""
        self._add(LayerChange(ChangeKind.DEVICE, path, entry))

    def hide(self, path: ImagePath) -> None:
        """Keep that what lower layers have there is hidden."""
        self._add(LayerChange(ChangeKind.WHITEOUT, path))

    def hide_children(self, path: ImagePath) -> None:
        """Keep that what lower layers have in a directory is hidden."""
        self._add(LayerChange(ChangeKind.OPAQUE, path))

    def _add(self, change: LayerChange) -> None:
        entry_bytes = weight_of(change.entry) if change.entry is not None else 0
        self._budget.take(_CHANGE_BYTES + len(change.path) + len(change.target) + entry_bytes)
        self.changes[-1].append(change)


def replay(changes: Iterable[LayerChange], target: LayerTarget) -> Iterator[LayerChange]:
    """Apply the changes of one layer to ``target``, and yield each when that is done; there is no data of files."""
    target.begin_layer()
    for change in changes:
        try:
            _apply(change, target)
        except InvalidImageError as error:
            error.add_place(f"entry {quoted_path(change.path)}")
            raise
        yield change


def _apply(change: LayerChange, target: LayerTarget) -> None:
    kind, path, entry = change.kind, change.path, change.entry
    if kind is ChangeKind.HARD_LINK:
        target.make_hard_link(path, change.target)
    elif kind is ChangeKind.WHITEOUT:
        target.hide(path)
    elif kind is ChangeKind.OPAQUE:
        target.hide_children(path)
    elif entry is None:
        raise AssertionError("what is made has an entry")
    elif kind is ChangeKind.FILE:
        target.write_file(path, entry, iter(()))
    elif kind is ChangeKind.DIRECTORY:
        target.make_directory(path, entry)
    elif kind is ChangeKind.SYMLINK:
        target.make_symlink(path, entry)
    else:
        target.make_device(path, entry)
