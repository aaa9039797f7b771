"""TopDownReader: reads layers from the top down until a question about the tree has a certain answer.

A layer is always read to its end: a later entry in a tar replaces an earlier one, and the layer can be verified only
there. The layers below the one that settles the question are not opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from ociexport.errors import InvalidImageError, locating
from ociexport.inspection.access import Subject, identity_of
from ociexport.inspection.kept_layers import KeptLayers
from ociexport.layers.apply import LayerApplier
from ociexport.layers.file_notes import NotingRecorder
from ociexport.layers.limits import NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.partial_tree import PartialTree, UnreadLayerError
from ociexport.layers.record import ChangeKind, LayerChange, apply_changes, replay
from ociexport.spec.config import Layer
from ociexport.spec.digest import Digest

T = TypeVar("T")

# Each attempt to answer applies again all changes that were read, and many layers may seem to settle the question
# without doing so. The changes applied are therefore limited to this multiple of the changes read, plus some for short
# layers. The last attempt, with all layers, is always made.
_MAX_REPLAYED_SHARE = 3
_FREE_REPLAYS = 100_000

_DOING = "reading"


class TopDownReader:
    """Reads the layers of one image and keeps their changes.

    Args:
        subject: the image.
        recorder: records the changes of each layer.

    Attributes:
        kept: what is known of layers without reading them.
    """

    def __init__(self, subject: Subject, recorder: NotingRecorder | None = None) -> None:
        self._subject = subject
        self._recorder = recorder or NotingRecorder(NameBudget(subject.access.limits))
        self._applier = LayerApplier(self._recorder, subject.access.limits, Losses(), locator=self._recorder)
        self.kept = KeptLayers(subject)
        # The changes of the layers that were read, the lowest layer first.
        self._changes: list[list[LayerChange]] = []
        # Each layer that was read, with the number of the reading. A layer that occurs again is not read again.
        self._readings: dict[tuple[Digest, Digest], int] = {}
        self._changes_read = 0
        self._replayed = 0

    @property
    def lowest(self) -> int:
        """Number of the lowest layer that was read; one more than there are layers, if none was."""
        return len(self._subject.layers) - len(self._changes) + 1

    def read_all(self) -> None:
        """Read all layers; the next one is fetched while one is read.

        Raises:
            InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
        """
        layers = self._subject.layers
        self._read(tuple({identity_of(layer): layer for layer in layers}.values()))
        self._changes = [self._recorder.changes[self.reading_of(layer.number)] for layer in layers]

    def reading_of(self, number: int) -> int:
        """Return the number of the reading, from 0, that read the layer ``number``, or another that is the same.

        A layer whose changes were known from its index counts as read.
        """
        return self._readings[identity_of(self._subject.layers[number - 1])]

    def ask(self, question: Callable[[PartialTree], T]) -> T:
        """Return the certain answer to ``question``, reading as many layers as it needs.

        Args:
            question: raises `UnreadLayerError` if the tree does not contain enough layers for an answer.

        Raises:
            InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
        """
        obstacle: _Obstacle | None = None
        while self.lowest > 1:
            self._read_next()
            if obstacle is not None and not obstacle.may_be_settled_by(self._changes[0]):
                continue
            if self.lowest > 1 and self._replayed <= _MAX_REPLAYED_SHARE * self._changes_read + _FREE_REPLAYS:
                tree = self.new_tree()
                try:
                    return self._answer(tree, question)
                except UnreadLayerError as error:
                    obstacle = _Obstacle(tree, error)
                except InvalidImageError:
                    # The layers below may contain the missing entries.
                    obstacle = None
        return self._answer(self.new_tree(), question)

    def new_tree(self) -> PartialTree:
        """Return an empty tree for `replay`."""
        limits = self._subject.access.limits
        return PartialTree(NameBudget(limits), self.lowest, max_depth=limits.max_depth, max_steps=limits.max_steps)

    def replay(self, tree: PartialTree) -> Iterator[tuple[int, LayerChange]]:
        """Apply the layers that were read to ``tree``; yield the layer's number and each change once it is applied."""
        for number, changes in enumerate(self._changes, start=self.lowest):
            with locating(str(self._subject.layers[number - 1])):
                for change in replay(changes, tree):
                    yield number, change
        self._applier.finish(tree)

    def _fill(self, tree: PartialTree) -> None:
        """Apply the layers that were read to ``tree``."""
        for number, changes in enumerate(self._changes, start=self.lowest):
            self._replayed += len(changes)
            with locating(str(self._subject.layers[number - 1])):
                apply_changes(changes, tree)
        self._applier.finish(tree)

    def _answer(self, tree: PartialTree, question: Callable[[PartialTree], T]) -> T:
        self._fill(tree)
        return question(tree)

    def _read_next(self) -> None:
        layer = self._subject.layers[self.lowest - 2]
        if identity_of(layer) not in self._readings:
            self._read((layer,))
        self._changes.insert(0, self._recorder.changes[self.reading_of(layer.number)])
        self._changes_read += len(self._changes[0])

    def _read(self, layers: tuple[Layer, ...]) -> None:
        self.kept.apply(layers, self._applier, self._recorder, doing=_DOING)
        for layer in layers:
            self._readings[identity_of(layer)] = len(self._readings)


class _Obstacle:
    """The reason why a question has no answer yet; it decides whether a layer is worth another attempt.

    A layer that is wrongly passed over costs the reading of one more layer.

    Args:
        tree: the tree without an answer.
        error: raised by the question.
    """

    def __init__(self, tree: PartialTree, error: UnreadLayerError) -> None:
        self._settling = set(tree.unsettled)
        if error.name is not None:
            self._settling.add(error.name)
        # An entry that replaces or hides the directory, or one above it, hides its content in all lower layers.
        self._closing = set(error.directory.path.split(b"/"))

    def may_be_settled_by(self, changes: list[LayerChange]) -> bool:
        """Whether one of a layer's changes may provide the missing information."""
        for change in changes:
            name = change.path.rpartition(b"/")[2]
            if name in self._settling or change.kind is ChangeKind.OPAQUE:
                return True
            if change.kind is not ChangeKind.DIRECTORY and name in self._closing:
                return True
        return False
