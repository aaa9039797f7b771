"""open_files() and copy_files(): the content of files in an image, from verified layers only.

A layer can be verified only at its end, so no content is returned before the layer was read to its end. Until then,
files that may be the requested one are kept: in memory up to a size, then in a temporary file with the same holes.
Most such files are recognized by name. If links lead to the file under another name, its layer is read a second time:
that of a registry from a temporary file (`images/kept_blobs.py`).

Copying keeps nothing: the layers are read to find the file, then its layer is read again to copy it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import IO

from ociexport.errors import InvalidImageError, LimitExceededError, UsageError, counted, quoted_path
from ociexport.images.kept_blobs import KeptBlobs
from ociexport.images.source import ImageSource, is_remote
from ociexport.inspection.access import Access, Subject, opened
from ociexport.inspection.find_path import find, parse_path, shown_path
from ociexport.inspection.spool import Spool
from ociexport.inspection.top_down import TopDownReader
from ociexport.layers.apply import LayerApplier, LayerTarget
from ociexport.layers.file_notes import FileNotes, NotingRecorder
from ociexport.layers.limits import NameBudget
from ociexport.layers.losses import Losses
from ociexport.layers.memory_tree import MemoryDirectory, MemoryFile
from ociexport.layers.partial_tree import PartialTree
from ociexport.layers.paths import ImagePath
from ociexport.layers.tar.reader import Entry
from ociexport.layers.tar.sparse import filled_parts
from ociexport.layers.targets import PassingTarget
from ociexport.spec.digest import Chunk
from ociexport.spec.lazy_dataclass import replace

# How many files are kept for each requested name. A layer with a thousand such files is read twice instead.
_MAX_KEPT = 8

# Number of the layer, and of the file in it, both from 1.
_Place = tuple[int, int]


def open_file(image: str | ImageSource, path: str | bytes, *, access: Access | None = None) -> IO[bytes]:
    """Return the content of one file; see `open_files`."""
    return open_files(image, (path,), access=access)[0]


def open_files(
    image: str | ImageSource, paths: Sequence[str | bytes], *, access: Access | None = None
) -> list[IO[bytes]]:
    """Return the content of each file, from fully verified layers; the caller closes the files.

    Layers are read from the top down, as far as needed. Small files are in memory; the others are in unnamed temporary
    files (``TMPDIR``), at most 65 of these for any number of files. Holes read as zeros.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        paths: links are followed within the root, at the end of a path too.
        access: how the image is found and read.

    Raises:
        NotFoundError: the image lacks one of the paths; or as `opened` does.
        UsageError: one of the paths is not a file.
        InvalidImageError: a layer breaks the specification, does not match its digest, or exceeds a limit.
        OSError: there is no space for temporary files.
    """
    wanted = [parse_path(path) for path in paths]
    with _opened_for_two_looks(image, access) as subject, ExitStack() as stack:
        keeper = _Keeper(subject, wanted)
        stack.callback(keeper.close)
        reader = TopDownReader(subject, keeper)
        keeper.found = reader.kept.make_points
        nodes = _find_files(reader, wanted, subject)
        known = _read_known(subject, reader, keeper.spool, nodes, stack)
        files = []
        for node in nodes:
            layer, number = _place_of(node)
            place = (reader.reading_of(layer), number)
            file = keeper.kept.pop(place, None) or known.pop(place, None) or _read_again(subject, node, keeper.spool)
            stack.callback(file.close)
            file.seek(0)
            files.append(file)
        stack.pop_all()
        keeper.close()
    return files


@contextmanager
def _opened_for_two_looks(image: str | ImageSource, access: Access | None) -> Iterator[Subject]:
    """Open an image; a layer of a registry that is read a second time is not fetched a second time."""
    with opened(image, access) as subject:
        if not is_remote(subject.source):
            yield subject
            return
        with closing(KeptBlobs(subject.source)) as blobs:
            yield replace(subject, source=blobs)


def copy_files(
    image: str | ImageSource,
    paths: Sequence[str | bytes],
    write: Callable[[Chunk], object],
    *,
    access: Access | None = None,
) -> None:
    """Write the content of files, one after another, while their layers are read; nothing is stored.

    Args:
        image: a reference, the name of a layout or archive, or an open source, which stays open.
        paths: links are followed within the root, at the end of a path too; all are found before anything is written.
        write: receives the bytes; after an error, the bytes written so far are not verified.
        access: how the image is found and read.

    Raises:
        as `open_files` does; DigestMismatchError also if the source has changed a layer between its two reads.
    """
    with opened(image, access) as subject:
        reader = TopDownReader(subject)
        for node in _find_files(reader, [parse_path(path) for path in paths], subject):
            if not _copy_known(subject, reader, node, write):
                _read_layer(subject, node, _Copier(_place_of(node), write))


def _copy_known(subject: Subject, reader: TopDownReader, node: MemoryFile, write: Callable[[Chunk], object]) -> bool:
    """Copy a file of a layer that was verified before, without the rest of the layer; return whether that was possible.

    The file is read twice: nothing is written of a file that is not as it was.

    Raises:
        InvalidImageError: the file was changed between the two reads.
    """
    layer, number = _place_of(node)
    with reader.kept.files_of(subject.layers[layer - 1]) as files:
        if files is None or not files.is_as_before(node.entry, number):
            return False
        with files.reading(node.entry, number) as (entry, data):
            for chunk in data if entry.segments is None else filled_parts(entry.segments, entry.size, data):
                write(chunk)
    return True


def _find_files(reader: TopDownReader, paths: Sequence[bytes], subject: Subject) -> list[MemoryFile]:
    def question(tree: PartialTree) -> list[MemoryFile]:
        return [_find_file(tree, path) for path in paths]

    nodes = reader.ask(question)
    for path, node in zip(paths, nodes, strict=True):
        if node.entry.size > subject.access.limits.max_bytes:
            raise LimitExceededError(
                f"{quoted_path(path)}: expected at most {counted(subject.access.limits.max_bytes, 'byte')}, "
                f"got {node.entry.size}"
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


def _read_known(
    subject: Subject, reader: TopDownReader, spool: Spool, nodes: Sequence[MemoryFile], stack: ExitStack
) -> dict[_Place, IO[bytes]]:
    """Return those of ``nodes`` that are in layers which were verified before; each is read alone.

    A file that is not as it was then is left out: the whole layer is read and verified for it, which gives an error
    that says what is wrong.
    """
    wanted: dict[int, dict[int, MemoryFile]] = {}
    for node in nodes:
        layer, number = _place_of(node)
        wanted.setdefault(layer, {})[number] = node
    found: dict[_Place, IO[bytes]] = {}
    for layer, by_number in wanted.items():
        with reader.kept.files_of(subject.layers[layer - 1]) as files:
            if files is None:
                continue
            for number in sorted(by_number):
                with suppress(InvalidImageError):
                    with files.reading(by_number[number].entry, number) as (entry, data):
                        file = spool.keep(entry, data)
                        stack.callback(file.close)
                    found[reader.reading_of(layer), number] = file
    return found


def _read_layer(subject: Subject, node: MemoryFile, target: LayerTarget) -> None:
    access = subject.access
    applier = LayerApplier(target, access.limits, Losses())
    applier.apply_some(subject.source, (subject.layers[node.layer - 1],), access.progress, doing="reading")


class _Keeper(NotingRecorder):
    """Records the changes of layers, from the top down, and keeps the data of files that may be requested ones.

    Args:
        subject: the image whose layers are read.
        paths: the requested files. All files with the last parts are kept: links may lead to them from elsewhere.

    Attributes:
        found: called with the notes of a layer at each file that has a requested path.
        kept: by the reading of a layer, from 0, and the number of the file in it, from 1.
        spool: where their data is stored.
    """

    def __init__(self, subject: Subject, paths: Sequence[bytes]) -> None:
        super().__init__(NameBudget(subject.access.limits))
        self._number = 0
        self._paths = frozenset(shown_path(path)[1:] for path in paths)
        self._names = frozenset(path.rpartition(b"/")[2] for path in paths)
        self.found: Callable[[FileNotes], None] = lambda notes: None
        self._latest: dict[bytes, _Place] = {}
        self.kept: dict[_Place, IO[bytes]] = {}
        self.spool = Spool()

    def begin_layer(self) -> None:
        super().begin_layer()
        self._number = 0
        self._latest = {}

    def pass_data(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        self._number += 1
        if path.rpartition(b"/")[2] not in self._names:
            return
        if path in self._paths:
            self.found(self.notes[-1])
        # A later entry with the same path replaces the earlier one of the same layer.
        if (earlier := self._latest.get(path)) is not None and earlier in self.kept:
            self.kept.pop(earlier).close()
        if len(self.kept) < _MAX_KEPT * len(self._names):
            place = self._latest[path] = (len(self.changes) - 1, self._number)
            self.kept[place] = self.spool.keep(entry, data)

    def close(self) -> None:
        """Close all kept files."""
        for file in self.kept.values():
            file.close()
        self.kept = {}
        self.spool.close()


class _PlaceTarget(PassingTarget, ABC):
    """Takes the data of the file at ``place``, and ignores all other entries."""

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
    """Keeps the data in a spool."""

    def __init__(self, place: _Place, spool: Spool) -> None:
        super().__init__(place)
        self._spool = spool
        self.file: IO[bytes] | None = None

    def take(self, entry: Entry, data: Iterator[memoryview]) -> None:
        self.file = self._spool.keep(entry, data)


class _Copier(_PlaceTarget):
    """Passes the data to ``write``."""

    def __init__(self, place: _Place, write: Callable[[Chunk], object]) -> None:
        super().__init__(place)
        self._write = write

    def take(self, entry: Entry, data: Iterator[memoryview]) -> None:
        for chunk in data if entry.segments is None else filled_parts(entry.segments, entry.size, data):
            self._write(chunk)
