"""The layers of an image as a tree of names with contents, where possible from the indexes that a layout keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ociexport.errors import LimitExceededError, locating
from ociexport.images.source import ImageSource
from ociexport.layers.apply import LayerApplier
from ociexport.layers.change_index import DIGEST_BYTES, LayerIndex, dump_index, load_index
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.paths import ImagePath
from ociexport.layers.record import ChangeRecorder, SummedData
from ociexport.layers.tar.reader import Entry
from ociexport.layers.tar.sparse import SparseSegments
from ociexport.rootfs.contents import ContentTree
from ociexport.spec.config import Layer
from ociexport.storage.layout.layer_indexes import LayerIndexes, NewIndex, indexes_for
from ociexport.storage.layout.stamps import BlobStamp
from ociexport.system.progress.protocol import Progress


def apply_layers(
    tree: RecordedTree, source: ImageSource, layers: Sequence[Layer], limits: Limits, progress: Progress
) -> None:
    """Apply all layers of an image; a layer whose index has the digests of its files is not read, others get one.

    Raises:
        InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
    """
    indexes = indexes_for(source, limits)
    applier = LayerApplier(tree, limits, Losses())

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
        if index is None or index.digests is None:
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
    indexes: LayerIndexes, layers: Sequence[Layer], before: Sequence[BlobStamp | None], made: Sequence[bytes | None]
) -> None:
    indexes.write(
        NewIndex(layer, stamp, content)
        for layer, stamp, content in zip(layers, before, made, strict=True)
        if stamp is not None and content is not None
    )


class RecordedTree(ContentTree):
    """A `ContentTree` that also makes an index of each layer that is read."""

    def __init__(self, budget: NameBudget, **limits: int) -> None:
        super().__init__(budget, **limits)
        self._wanted: Iterator[bool] = iter(())
        self._record: _Record | None = None
        self._made: list[bytes | None] | None = None

    def begin_record(self, wanted: Iterator[bool]) -> None:
        """From now on record the layers for which ``wanted`` says so."""
        self._wanted, self._made = wanted, []

    def end_record(self) -> list[bytes | None]:
        """Return the index of each layer since `begin_record`; None for one that is not wanted, or too large."""
        self._finish_layer()
        made, self._made = self._made or [], None
        return made[1:]

    def begin_layer(self) -> None:
        self._finish_layer()
        super().begin_layer()
        if self._made is not None and next(self._wanted, False):
            self._record = _Record()

    def _finish_layer(self) -> None:
        if self._made is not None:
            self._made.append(self._record.index() if self._record is not None else None)
        self._record = None

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        super().make_directory(path, entry)
        self._note(ChangeRecorder.make_directory, path, entry)

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        if self._record is None:
            super().write_file(path, entry, data)
            return
        summed = SummedData(data)
        super().write_file(path, entry, summed)
        content = self.contents.get((self._layer, self._files))
        digest, segments = (content.digest, content.segments) if content is not None else (bytes(DIGEST_BYTES), None)
        self._record.add_content(summed.checksum, digest, segments)
        self._note(ChangeRecorder.write_file, path, entry, data)

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

    def __init__(self) -> None:
        self.changes = ChangeRecorder(NameBudget(Limits()))
        self.changes.begin_layer()
        self._checksums: list[int] = []
        self._digests = bytearray()
        self._segments: dict[int, SparseSegments] = {}

    def add_content(self, checksum: int, digest: bytes, segments: SparseSegments | None) -> None:
        """Add what is known of the content of a file."""
        if segments is not None:
            self._segments[len(self._checksums)] = segments
        self._checksums.append(checksum)
        self._digests += digest

    def index(self) -> bytes | None:
        """Return the index; None if it can't have one of the numbers."""
        changes = self.changes.changes[0]
        return dump_index(LayerIndex(changes, self._checksums, bytes(self._digests), self._segments))
