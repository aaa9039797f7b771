"""trace_path(): which layer what is at a path came from, and which layers touched it before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.images.source import ImageSource
from ociexport.inspection.access import Access, OriginLayer, Subject, opened
from ociexport.inspection.find_path import find, parse_path
from ociexport.inspection.list_files import ListedFile
from ociexport.inspection.top_down import TopDownReader
from ociexport.layers.memory_tree import MemoryDirectory, MemoryTree, Node
from ociexport.layers.partial_tree import PartialTree, UnreadLayerError
from ociexport.layers.record import LayerChange
from ociexport.layers.tar.reader import Entry


class Touch(Enum):
    """What a layer did to a path."""

    ADDED = "added"
    CHANGED = "changed"
    # Added or changed: the layers below were not read.
    WRITTEN = "written"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class PathTouch:
    """One layer that made the path another than it was.

    Args:
        by: the entry that did it, the last one of the layer: a whiteout or a file in the place of a directory above is
            of another path.
    """

    origin: OriginLayer
    touch: Touch
    by: LayerChange


@dataclass(frozen=True, slots=True)
class PathTrace:
    """Where what is at a path came from.

    Args:
        path: as it was asked for, with a slash in front.
        real_path: the same with links resolved; None where nothing is there.
        file: what is there; None where it was deleted.
        origin: the layer that its content is from; None where it was deleted.
        touches: the newest first; a hard link to a file of a lower layer is newer than the content.
        is_complete: whether all layers were read, and so all touches are known.
    """

    path: bytes
    real_path: bytes | None
    file: ListedFile | None
    origin: OriginLayer | None
    touches: tuple[PathTouch, ...]
    is_complete: bool


def trace_path(
    image: str | ImageSource,
    path: str | bytes,
    *,
    follow: bool = False,
    latest: bool = False,
    access: Access | None = None,
) -> PathTrace:
    """Return which layer what is at ``path`` came from, and which touched it; each that was read is verified.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        path: links in it are followed within the root.
        follow: a link at its very end as well.
        latest: read layers, from the top down, only until it is known what is there now, and the layer of its content;
            of several that each would have made it so, the touches tell of the uppermost.
        access: how the image is come by.

    Raises:
        NotFoundError: no layer has anything there; or as `opened` does.
        InvalidImageError: a layer breaks the specification, its digest or a limit.
    """
    wanted = parse_path(path)
    with opened(image, access) as subject:
        reader = TopDownReader(subject)
        if latest:
            reader.ask(lambda tree: _state_of(tree, wanted, follow=follow, is_final=True))
        else:
            reader.read_all()
        return _Tracer(subject, reader, wanted, follow=follow).trace()


class _State(NamedTuple):
    """What is at a path; where layers below are to tell, nobody knows."""

    is_known: bool
    entry: Entry | None = None
    layer: int = 0

    def differs_from(self, other: _State) -> bool:
        """Whether a layer has touched the path in between; a new name of the same file is the same."""
        return (self.is_known, self.layer) != (other.is_known, other.layer) or self.entry is not other.entry


_UNKNOWN = _State(is_known=False)
_NOTHING = _State(is_known=True)


def _state_of(tree: PartialTree, path: bytes, *, follow: bool, is_final: bool = False) -> _State:
    """Return what is at ``path``.

    Raises:
        UnreadLayerError: the layers below are to tell, and ``is_final``.
    """
    try:
        node = tree.find(path, follow=follow)
        if isinstance(node, MemoryDirectory):
            tree.verify_is_described(node)
    except UnreadLayerError:
        if is_final:
            raise
        return _UNKNOWN
    except InvalidImageError:
        return _NOTHING  # links lead in a circle
    return _NOTHING if node is None else _State(True, node.described, node.layer)


class _Tracer:
    """Applies the layers that were read once more, and looks at the path after each entry."""

    def __init__(self, subject: Subject, reader: TopDownReader, path: bytes, *, follow: bool) -> None:
        self._subject = subject
        self._reader = reader
        self._path = path
        self._follow = follow
        self._tree = reader.new_tree()

    def trace(self) -> PathTrace:
        touches = tuple(self._touches())[::-1]
        try:
            node = find(self._tree, self._path, follow=self._follow)
        except NotFoundError:
            if not touches:
                raise
            return self._trace_of(None, touches)
        return self._trace_of(node, touches)

    def _trace_of(self, node: Node | None, touches: tuple[PathTouch, ...]) -> PathTrace:
        shown = b"/" + b"/".join(part for part in self._path.split(b"/") if part not in (b"", b"."))
        is_complete = self._reader.lowest == 1
        if node is None:
            return PathTrace(shown, None, None, None, touches, is_complete)
        return PathTrace(
            path=shown,
            real_path=b"/" + _real_path(self._tree, self._path, node, follow=self._follow),
            file=ListedFile.of(shown, node.described, node.layer),
            origin=self._subject.origins[node.layer - 1] if node.layer else None,
            touches=touches,
            is_complete=is_complete,
        )

    def _touches(self) -> Iterator[PathTouch]:
        # Of a layer, what it came to counts: between its entries a path may have been something else.
        before = state = self._state()
        by: LayerChange | None = None
        current = self._reader.lowest
        for number, change in self._reader.replay(self._tree):
            if number != current:
                yield from self._touch(current, before, state, by)
                current, before = number, state
            following = self._state()
            if following.differs_from(state):
                state, by = following, change
        yield from self._touch(current, before, state, by)

    def _touch(self, number: int, before: _State, after: _State, by: LayerChange | None) -> Iterator[PathTouch]:
        if by is None or not after.differs_from(before) or not after.is_known:
            return
        if after.entry is None:
            touch = Touch.DELETED
        elif not before.is_known:
            touch = Touch.WRITTEN
        else:
            touch = Touch.CHANGED if before.entry is not None else Touch.ADDED
        yield PathTouch(self._subject.origins[number - 1], touch, by)

    def _state(self) -> _State:
        return _state_of(self._tree, self._path, follow=self._follow)


def _real_path(tree: MemoryTree, path: bytes, node: Node, *, follow: bool) -> bytes:
    """Return ``path``, which ``node`` is at, with its links resolved; without a slash in front."""
    while not isinstance(node, MemoryDirectory):
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        directory = tree.find(above, follow=True)
        if not isinstance(directory, MemoryDirectory):
            raise AssertionError("what is found is in a directory")
        place = directory.path + b"/" + name if directory.path else name
        there = directory.children[name]
        if isinstance(there, MemoryDirectory):
            return there.path
        if not (follow and there.is_symlink):
            return place
        target = there.entry.link_name
        path = target if target.startswith(b"/") else directory.path + b"/" + target
    return node.path
