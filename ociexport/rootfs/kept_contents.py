"""The layers of an image as a tree of names with contents, where possible from the indexes that a layout keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ociexport.errors import LimitExceededError, locating
from ociexport.images.source import ImageSource
from ociexport.layers.apply import LayerApplier
from ociexport.layers.change_index import LayerIndex, dump_index, load_index
from ociexport.layers.file_notes import FileNotes
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.paths import ImagePath
from ociexport.layers.record import ChangeRecorder
from ociexport.layers.tar.reader import Entry
from ociexport.rootfs.contents import ContentTree
from ociexport.spec.config import Layer
from ociexport.storage.layout.layer_indexes import LayerIndexes, NewIndex, indexes_for
from ociexport.storage.layout.stamps import BlobStamp
from ociexport.system.access_points import AccessPoints
from ociexport.system.progress.protocol import Progress

# Of no bytes.
_EMPTY_DIGEST = hashlib.sha256().digest()


def apply_layers(
    tree: RecordedTree, source: ImageSource, layers: Sequence[Layer], limits: Limits, progress: Progress
) -> None:
    """Apply all layers of an image; a layer whose index has the segments of sparse files is not read, others get one.

    Raises:
        InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
    """
    indexes = indexes_for(source, limits)
    applier = LayerApplier(tree, limits, Losses(), locator=tree)

    def read(layers: Sequence[Layer]) -> None:
        if not layers:
            return
        before = [indexes.look(layer) if indexes is not None else None for layer in layers]
        tree.begin_record(iter([stamp is not None for stamp in before]))
        applier.apply_some(source, layers, progress, doing="reading")
        made = tree.end_record()
        if indexes is not None:
            _write(indexes, layers, before, made)

    waiting: list[Layer] = []
    for layer in layers:
        content = indexes.read(layer) if indexes is not None else None
        index = load_index(content) if content is not None else None
        if index is None or index.segments is None:
            waiting.append(layer)
            continue
        read(waiting)
        waiting = []
        index.count_in(applier)
        limits.verify_totals(applier.entries, applier.tar_bytes)
        with locating(str(layer)):
            tree.replay(index)
    read(waiting)
    applier.finish(tree)


def _write(
    indexes: LayerIndexes,
    layers: Sequence[Layer],
    before: Sequence[BlobStamp | None],
    made: Sequence[tuple[bytes, AccessPoints] | None],
) -> None:
    indexes.write(
        NewIndex(layer, stamp, *index)
        for layer, stamp, index in zip(layers, before, made, strict=True)
        if stamp is not None and index is not None
    )


class RecordedTree(ContentTree):
    """A `ContentTree` that also makes an index of each layer that is read."""

    def __init__(self, budget: NameBudget, **limits: int) -> None:
        super().__init__(budget, **limits)
        self._wanted: Iterator[bool] = iter(())
        self._record: _Record | None = None
        self._made: list[tuple[bytes, AccessPoints] | None] | None = None
        self._points = AccessPoints()

    def new_points(self) -> AccessPoints:
        """Return an object for the access points of a layer."""
        return AccessPoints()

    def begin_tar(self, points: AccessPoints) -> None:
        """Take the access points of the next layer."""
        self._points = points

    def begin_record(self, wanted: Iterator[bool]) -> None:
        """From now on record the layers for which ``wanted`` says so."""
        self._wanted, self._made = wanted, []

    def end_record(self) -> list[tuple[bytes, AccessPoints] | None]:
        """Return the index and access points of each layer since `begin_record`.

        Returns:
            None for a layer that is not wanted, or too large.
        """
        self._finish_layer()
        made, self._made = self._made or [], None
        return made[1:]

    def begin_layer(self) -> None:
        self._finish_layer()
        super().begin_layer()
        if self._made is not None and next(self._wanted, False):
            self._record = _Record(self._points)

    def _finish_layer(self) -> None:
        if self._made is not None:
            self._made.append(self._record.index() if self._record is not None else None)
        self._record = None

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        super().make_directory(path, entry)
        self._note(ChangeRecorder.make_directory, path, entry)

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        super().write_file(path, entry, data)
        if self._record is not None:
            content = self.contents.get((self._layer, self._files))
            self._record.notes.add(content.digest if content is not None else _EMPTY_DIGEST, entry.segments)
            self._note(ChangeRecorder.write_file, path, entry, data)

    def locate_file(self, offset: int) -> None:
        """Take the offset of the next file's data in the tar."""
        if self._record is not None:
            self._record.notes.locate_file(offset)

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        super().make_symlink(path, entry)
        self._note(ChangeRecorder.make_symlink, path, entry)

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        super().make_device(path, entry)
        self._note(ChangeRecorder.make_device, path, entry)

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        super().make_hard_link(path, target)
        self._note(ChangeRecorder.make_hard_link, path, target)

    def hide(self, path: ImagePath) -> None:
        super().hide(path)
        self._note(ChangeRecorder.hide, path)

    def hide_children(self, path: ImagePath) -> None:
        super().hide_children(path)
        self._note(ChangeRecorder.hide_children, path)

    def _note(self, change: Callable[..., None], *arguments: Any) -> None:
        """Record a change, unless the layer's changes take too much memory: then it gets no index."""
        if self._record is None:
            return
        try:
            change(self._record.changes, *arguments)
        except LimitExceededError:
            self._record = None


class _Record:
    """What becomes the index of one layer. Its names are counted apart, so that no image exceeds a limit by it."""

    def __init__(self, points: AccessPoints) -> None:
        self.changes = ChangeRecorder(NameBudget(Limits()))
        self.changes.begin_layer()
        self.notes = FileNotes(points)

    def index(self) -> tuple[bytes, AccessPoints] | None:
        """Return the index; None if it can't have one of the numbers."""
        content = dump_index(LayerIndex.of(self.changes.changes[0], self.notes))
        return (content, self.notes.points) if content is not None else None
