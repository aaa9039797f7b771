"""KeptLayers: the changes of layers, from the indexes that a layout keeps; layers that are read get an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ociexport.inspection.access import Subject, identity_of
from ociexport.layers.apply import LayerApplier
from ociexport.layers.change_index import LayerIndex, dump_index, load_index
from ociexport.layers.file_notes import FileNotes, NotingRecorder
from ociexport.spec.config import Layer
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layer_indexes import NewIndex, indexes_for
from ociexport.storage.layout.stamps import BlobStamp

if TYPE_CHECKING:
    from ociexport.inspection.known_files import KnownFiles
    from ociexport.inspection.point_maker import PointMaker


class KeptLayers:
    """Reads the changes of an image's layers, where possible from indexes.

    Args:
        subject: the image; only one in a layout has indexes.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._known: dict[tuple[Digest, Digest], LayerIndex] = {}
        # The layer that is being read, if it will have an index, and what makes its access points.
        self._reading: Layer | None = None
        self._maker: PointMaker | None = None
        self._indexes = indexes_for(subject.source, subject.access.limits)

    def apply(self, layers: Sequence[Layer], applier: LayerApplier, recorder: NotingRecorder, *, doing: str) -> None:
        """Add the changes of ``layers`` to ``recorder``, in this order; the layers that are read are verified.

        Args:
            applier: applies to ``recorder``, which is also its locator.
            doing: the word for the task in progress messages.

        Raises:
            InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
        """
        waiting: list[Layer] = []
        for layer in layers:
            index = self._load(layer)
            if index is None:
                waiting.append(layer)
                continue
            self._read(waiting, applier, recorder, doing)
            waiting = []
            self._known[identity_of(layer)] = index
            index.count_in(applier)
            recorder.add_layer(index.changes)
            self._subject.access.limits.verify_totals(applier.entries, applier.tar_bytes)
        self._read(waiting, applier, recorder, doing)

    @contextmanager
    def files_of(self, layer: Layer) -> Iterator[KnownFiles | None]:
        """Give the files of a layer whose changes `apply` added without reading it; None for any other."""
        index, indexes = self._known.get(identity_of(layer)), self._indexes
        if index is None or indexes is None:
            yield None
            return
        # Start-up: `ls` reads no files.
        from ociexport.inspection.known_files import KnownFiles  # noqa: PLC0415 - as said
        from ociexport.layers.part_reader import PartReader  # noqa: PLC0415 - as said

        access, stamp, points = self._subject.access, indexes.look(layer), indexes.read_points(layer)
        # What can't be kept is not made.
        makes = stamp is not None
        reader = PartReader(self._subject.source, layer, points, access.limits, access.progress, makes_points=makes)
        with KnownFiles(reader, index) as files:
            yield files
        if stamp is not None and points.is_changed and files.are_as_before:
            indexes.write_points(layer, stamp, points)

    def make_points(self, notes: FileNotes) -> None:
        """Make the access points of the layer that is being read now, up to the file that was located last.

        They are made in a thread beside the reading, since the reading tells nothing of places within a gzip member.
        """
        if self._reading is None or not notes.points.is_far(notes.offset):
            return
        if self._maker is None:
            from ociexport.inspection.point_maker import PointMaker  # noqa: PLC0415 - start-up: few layers need it

            self._maker = PointMaker(self._subject.source, self._reading)
        self._maker.extend(notes.offset)

    def _load(self, layer: Layer) -> LayerIndex | None:
        content = self._indexes.read(layer) if self._indexes is not None else None
        return load_index(content) if content is not None else None

    def _read(self, layers: list[Layer], applier: LayerApplier, recorder: NotingRecorder, doing: str) -> None:
        if not layers:
            return
        indexes = self._indexes
        stamps = [indexes.look(layer) if indexes is not None else None for layer in layers]
        first = len(recorder.changes)
        recorder.is_noting = any(stamp is not None for stamp in stamps)
        self._reading = layers[0] if len(layers) == 1 and recorder.is_noting else None
        try:
            applier.apply_some(self._subject.source, layers, self._subject.access.progress, doing=doing)
            if self._maker is not None:
                recorder.notes[-1].points.add_all(self._maker.finish())
        finally:
            if self._maker is not None:
                self._maker.stop()
            self._reading = self._maker = None
        if indexes is not None:
            indexes.write(_new_indexes(layers, stamps, recorder, first))


def _new_indexes(
    layers: Sequence[Layer], stamps: Sequence[BlobStamp | None], recorder: NotingRecorder, first: int
) -> Iterator[NewIndex]:
    read = zip(layers, stamps, recorder.changes[first:], recorder.notes[first:], strict=True)
    for layer, stamp, changes, notes in read:
        content = dump_index(LayerIndex.of(changes, notes)) if stamp is not None else None
        if stamp is not None and content is not None:
            yield NewIndex(layer, stamp, content, notes.points)
