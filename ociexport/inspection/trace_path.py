"""trace_path(): the layer that a path's content comes from, and the layers that touched the path."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.images.source import ImageSource
from ociexport.inspection.access import Access, OriginLayer, Subject, opened
from ociexport.inspection.find_path import find, parse_path, shown_path
from ociexport.inspection.list_files import ListedFile
from ociexport.inspection.top_down import TopDownReader
from ociexport.layers.memory_tree import MemoryDirectory, MemoryTree, Node
from ociexport.layers.partial_tree import PartialTree, UnreadLayerError
from ociexport.layers.record import LayerChange
from ociexport.layers.tar.reader import Entry
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.named_tuple import NamedTuple


class Touch(Enum):
    """What a layer did to a path."""

    ADDED = "added"
    CHANGED = "changed"
    # Added or changed; unknown which, since the layers below were not read.
    WRITTEN = "written"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class PathTouch:
    """One layer that changed a path.

    Args:
        by: the layer's last entry that changed it. Its own path may differ: it may be a whiteout, or a file that
            replaces a directory above.
    """

    origin: OriginLayer
    touch: Touch
    by: LayerChange


@dataclass(frozen=True, slots=True)
class PathTrace:
    """The layers that a path comes from.

    Args:
        path: as requested, with a leading slash.
        real_path: the path with links resolved; None if the path was deleted.
        file: the file at the path; None if it was deleted.
        origin: the layer that the content comes from; None if it was deleted.
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
    """Return the layer that the content of ``path`` comes from, and the layers that touched it.

    Every layer that was read is verified.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        path: links in it are followed within the root.
        follow: whether a link at its end is followed too.
        latest: read layers, from the top down, only until the current file and the layer of its content are known. If
            several layers would each account for it, the touches contain the uppermost.
        access: how the image is found and read.

    Raises:
        NotFoundError: no layer contains ``path``; or as `opened` does.
        InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
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
    """The state of a path: unknown (it depends on layers that were not read), absent, or the entry there."""

    is_known: bool
    entry: Entry | None = None
    layer: int = 0

    def differs_from(self, other: _State) -> bool:
        """Whether a layer touched the path between the two states; a new name for the same file is no difference."""
        return (self.is_known, self.layer) != (other.is_known, other.layer) or self.entry is not other.entry


_UNKNOWN = _State(is_known=False)
_NOTHING = _State(is_known=True)


def _state_of(tree: PartialTree, path: bytes, *, follow: bool, is_final: bool = False) -> _State:
    """Return the state of ``path``.

    Raises:
        UnreadLayerError: the state depends on layers that were not read, and ``is_final``.
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
        return _NOTHING  # the links form a loop
    return _NOTHING if node is None else _State(True, node.described, node.layer)


class _Tracer:
    """Applies the layers that were read again, and compares the state of the path after each entry."""

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
        shown = shown_path(self._path)
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
        # Only the state after a whole layer matters: between its entries the path may have other states.
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
    """Return the path of ``node``, which is at ``path``, with links resolved; without a leading slash."""
    while not isinstance(node, MemoryDirectory):
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        directory = tree.find(above, follow=True)
        if not isinstance(directory, MemoryDirectory):
            raise AssertionError("a node that was found is in a directory")
        place = directory.path + b"/" + name if directory.path else name
        there = directory.children[name]
        if isinstance(there, MemoryDirectory):
            return there.path
        if not (follow and there.is_symlink):
            return place
        target = there.entry.link_name
        path = target if target.startswith(b"/") else directory.path + b"/" + target
    return node.path
