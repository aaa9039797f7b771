"""open_files() and copy_files(): the content of files in an image, of verified layers only.

A layer's digests are known at its end, so nothing is given away before the layer was read to its end. What may be the
file that is wanted is kept meanwhile: in memory up to a size, then in a temporary file, which has holes where the file
has. What that is can be told by name mostly; where links hide it, the layer is read once more when it is known.

Copying keeps nothing: the layers are read to find the file, and the one that it is in once more to copy it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO

from ociexport.errors import LimitExceededError, UsageError, quoted_path
from ociexport.images.source import ImageSource
from ociexport.inspection.access import Access, Subject, opened
from ociexport.inspection.find_path import find, parse_path
from ociexport.inspection.spool import Spool
from ociexport.inspection.top_down import TopDownReader
from ociexport.layers.apply import LayerApplier
from ociexport.layers.limits import NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile
from ociexport.layers.partial_tree import PartialTree
from ociexport.layers.paths import ImagePath
from ociexport.layers.record import ChangeRecorder
from ociexport.layers.tar.reader import Entry
from ociexport.layers.tar.sparse import filled_parts
from ociexport.layers.targets import PassingTarget
from ociexport.spec.digest import Chunk

# Files of a wanted name that one layer may have kept; a layer of a thousand is read twice rather.
_MAX_KEPT = 8

# Layer, and number of the file in it.
_Place = tuple[int, int]


def open_file(image: str | ImageSource, path: str | bytes, *, access: Access | None = None) -> IO[bytes]:
    """Return the content of one file; see `open_files`."""
    return open_files(image, (path,), access=access)[0]


def open_files(
    image: str | ImageSource, paths: Sequence[str | bytes], *, access: Access | None = None
) -> list[IO[bytes]]:
    """Return the content of each file, from layers that were verified to their ends; the caller closes them.

    Layers are read from the top down as far as is needed. Small files are in memory, others in temporary files without
    a name (``TMPDIR``), some 65 of these however many files there are. Holes read as zeros.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        paths: links are followed within the root, at the very end too.
        access: how the image is come by.

    Raises:
        NotFoundError: one is not there; or as `opened` does.
        UsageError: one is no file.
        InvalidImageError: a layer breaks the specification, its digest or a limit.
        OSError: there is no room for temporary files.
    """
    wanted = [parse_path(path) for path in paths]
    with opened(image, access) as subject, ExitStack() as stack:
        keeper = _Keeper(subject, frozenset(path.rpartition(b"/")[2] for path in wanted))
        stack.callback(keeper.close)
        nodes = _find_files(TopDownReader(subject, keeper), wanted, subject)
        files = []
        for node in nodes:
            file = keeper.kept.pop(_place_of(node), None) or _read_again(subject, node, keeper.spool)
            stack.callback(file.close)
            file.seek(0)
            files.append(file)
        stack.pop_all()
        keeper.close()
    return files


def copy_files(
    image: str | ImageSource,
    paths: Sequence[str | bytes],
    write: Callable[[Chunk], object],
    *,
    access: Access | None = None,
) -> None:
    """Write the content of files, one after another, as it comes by, and keep nothing of it.

    Args:
        paths: links are followed within the root, at the very end too; all are found before anything is written.
        write: takes the bytes; what was written before an error is not what was published.

    Raises:
        as `open_files` does; DigestMismatchError also when the layer was the right one when it was first read.
    """
    with opened(image, access) as subject:
        for node in _find_files(TopDownReader(subject), [parse_path(path) for path in paths], subject):
            _read_layer(subject, node, _Copier(_place_of(node), write))


def _find_files(reader: TopDownReader, paths: Sequence[bytes], subject: Subject) -> list[MemoryFile]:
    def question(tree: PartialTree) -> list[MemoryFile]:
        return [_find_file(tree, path) for path in paths]

    nodes = reader.ask(question)
    for path, node in zip(paths, nodes, strict=True):
        if node.entry.size > subject.access.limits.max_bytes:
            raise LimitExceededError(
                f"{quoted_path(path)}: expected at most {subject.access.limits.max_bytes} bytes, got {node.entry.size}"
            )
    return nodes


def _find_file(tree: PartialTree, path: bytes) -> MemoryFile:
    node = find(tree, path, follow=True)
    if isinstance(node, MemoryDirectory) or node.place is None:
        raise UsageError(f"{quoted_path(path)}: expected a file, got a {node.described.type.value}")
    return node


def _place_of(node: MemoryFile) -> _Place:
    if node.place is None:
        raise AssertionError("a file has a place")
    return node.place


def _read_again(subject: Subject, node: MemoryFile, spool: Spool) -> IO[bytes]:
    spooler = _Spooler(_place_of(node), spool)
    try:
        _read_layer(subject, node, spooler)
    except BaseException:
        if spooler.file is not None:
            spooler.file.close()
        raise
    if spooler.file is None:
        raise AssertionError("a file that was found is in its layer")
    return spooler.file


def _read_layer(subject: Subject, node: MemoryFile, target: _PlaceTarget) -> None:
    access = subject.access
    applier = LayerApplier(target, access.limits, Losses())
    applier.apply_some(subject.source, (subject.layers[node.layer - 1],), access.progress, doing="reading")


class _Keeper(ChangeRecorder):
    """Records what layers say, from the top down, and keeps the data of files that have one of ``names``.

    Args:
        subject: whose layers they are.
        names: without what is in front of the last slash: links may lead there from elsewhere.

    Attributes:
        kept: by layer and number of the file.
        spool: where they are.
    """

    def __init__(self, subject: Subject, names: frozenset[bytes]) -> None:
        super().__init__(NameBudget(subject.access.limits))
        self._layer = len(subject.layers) + 1
        self._number = 0
        self._names = names
        self._latest: dict[bytes, _Place] = {}
        self.kept: dict[_Place, IO[bytes]] = {}
        self.spool = Spool()

    def begin_layer(self) -> None:
        super().begin_layer()
        self._layer -= 1
        self._number = 0
        self._latest = {}

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        super().write_file(path, entry, data)
        self._number += 1
        if path.rpartition(b"/")[2] not in self._names:
            return
        # The same path again, later in the same layer, is what counts.
        if (earlier := self._latest.get(path)) is not None and earlier in self.kept:
            self.kept.pop(earlier).close()
        if len(self.kept) < _MAX_KEPT * len(self._names):
            place = self._latest[path] = (self._layer, self._number)
            self.kept[place] = self.spool.keep(entry, data)

    def close(self) -> None:
        """Let go of what is kept."""
        for file in self.kept.values():
            file.close()
        self.kept = {}
        self.spool.close()


class _PlaceTarget(PassingTarget, ABC):
    """Lets everything pass but the data of the file at ``place``."""

    def __init__(self, place: _Place) -> None:
        self._number_left = place[1]

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        self._number_left -= 1
        if self._number_left == 0:
            self.take(entry, data)

    @abstractmethod
    def take(self, entry: Entry, data: Iterator[memoryview]) -> None:
        """Take the file's data."""


class _Spooler(_PlaceTarget):
    """Keeps the data."""

    def __init__(self, place: _Place, spool: Spool) -> None:
        super().__init__(place)
        self._spool = spool
        self.file: IO[bytes] | None = None

    def take(self, entry: Entry, data: Iterator[memoryview]) -> None:
        self.file = self._spool.keep(entry, data)


class _Copier(_PlaceTarget):
    """Hands the data on."""

    def __init__(self, place: _Place, write: Callable[[Chunk], object]) -> None:
        super().__init__(place)
        self._write = write

    def take(self, entry: Entry, data: Iterator[memoryview]) -> None:
        for chunk in data if entry.segments is None else filled_parts(entry.segments, entry.size, data):
            self._write(chunk)
