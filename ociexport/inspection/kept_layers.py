"""KeptLayers: the changes of layers, from the indexes that a layout keeps; layers that are read get an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ociexport.inspection.access import Subject, identity_of
from ociexport.layers.apply import LayerApplier
from ociexport.layers.change_index import LayerIndex, dump_index, load_index
from ociexport.layers.record import SummingRecorder
from ociexport.spec.config import Layer
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layer_indexes import NewIndex, indexes_for
from ociexport.storage.layout.stamps import BlobStamp


class KeptLayers:
    """Reads the changes of an image's layers, where possible from indexes.

    Args:
        subject: the image; only one in a layout has indexes.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._known: set[tuple[Digest, Digest]] = set()
        self._indexes = indexes_for(subject.source, subject.access.limits)

    def apply(self, layers: Sequence[Layer], applier: LayerApplier, recorder: SummingRecorder, *, doing: str) -> None:
        """Add the changes of ``layers`` to ``recorder``, in this order; the layers that are read are verified.

        Args:
            applier: applies to ``recorder``.
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
            self._known.add(identity_of(layer))
            index.count_in(applier)
            recorder.add_layer(index.changes, index.checksums)
            self._subject.access.limits.verify_totals(applier.entries, applier.tar_bytes)
        self._read(waiting, applier, recorder, doing)

    def is_known(self, layer: Layer) -> bool:
        """Whether `apply` added the changes of a layer without reading it."""
        return identity_of(layer) in self._known

    def _load(self, layer: Layer) -> LayerIndex | None:
        content = self._indexes.read(layer) if self._indexes is not None else None
        return load_index(content) if content is not None else None

    def _read(self, layers: list[Layer], applier: LayerApplier, recorder: SummingRecorder, doing: str) -> None:
        if not layers:
            return
        indexes = self._indexes
        begun = [(layer, indexes.look(layer)) for layer in layers] if indexes is not None else []
        first = len(recorder.changes)
        applier.apply_some(self._subject.source, layers, self._subject.access.progress, doing=doing)
        if indexes is not None:
            made = map(LayerIndex, recorder.changes[first:], recorder.checksums[first:])
            indexes.write(_new_indexes(begun, made))


def _new_indexes(begun: Iterable[tuple[Layer, BlobStamp | None]], made: Iterable[LayerIndex]) -> Iterator[NewIndex]:
    for (layer, before), index in zip(begun, made, strict=True):
        content = dump_index(index) if before is not None else None
        if before is not None and content is not None:
            yield NewIndex(layer, before, content)
