"""What a layer does, recorded so that it can be applied again without reading the layer.

There are two records. `ChangeRecorder` keeps each entry in memory, with all that its header says, for one image.
`LayerOutline` keeps names only, for many layers of many images: all outlines of a run are in one temporary file without
a name, written and read in blocks, so they take no memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import IO, NamedTuple

from ociexport.errors import InvalidImageError, LimitExceededError, quoted_path
from ociexport.layers.apply import LayerTarget
from ociexport.layers.limits import NameBudget, weight_of
from ociexport.layers.paths import ROOT, ImagePath
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.system.temporary_files import TemporaryFileError, open_temporary_file

# So much of an outline waits until it is written, and is read at once.
_BLOCK_BYTES = 256 * 1024
# What one takes of memory beside its path and its entry: measured, rounded up.
_CHANGE_BYTES = 150


def _entry_of(kind: EntryType, link_name: bytes = b"") -> Entry:
    return Entry(kind, b"", link_name, 0, 0, 0, 0, 0, None, None, (0, 0), None)


# Names are all that counts, so that all nodes of a kind have one entry.
_DIRECTORY, _FILE, _DEVICE = map(_entry_of, (EntryType.DIRECTORY, EntryType.FILE, EntryType.FIFO))


class OutlineFile:
    """Where outlines are kept; several threads may write one each. The file is made with the first block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._end = 0

    def append(self, block: bytes) -> tuple[int, int]:
        """Write a block; returns where it is.

        Raises:
            TemporaryFileError: there is no room.
        """
        with self._lock:
            try:
                if self._file is None:
                    self._file = open_temporary_file()
                self._file.seek(self._end)
                view = memoryview(block)
                while view:
                    view = view[self._file.write(view) :]
            except TemporaryFileError:
                raise
            except OSError as error:
                raise TemporaryFileError(error) from error
            begin, self._end = self._end, self._end + len(block)
        return begin, len(block)

    def read(self, begin: int, count: int) -> bytes:
        """Return a block that was written."""
        if self._file is None:
            raise AssertionError("what is read was written before")
        return os.pread(self._file.fileno(), count, begin)

    def close(self) -> None:
        """Drop all outlines."""
        if self._file is not None:
            self._file.close()


class LayerOutline:
    """What one layer does; a `LayerTarget` that takes note of it.

    Args:
        file: that it is kept in.
    """

    def __init__(self, file: OutlineFile) -> None:
        self._file = file
        self._blocks: list[tuple[int, int]] = []
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def begin_layer(self) -> None:
        """Nothing: an outline is of one layer."""

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        self._add(b"d", path)

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        self._add(b"f", path)

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        self._add(b"s", path, entry.link_name)

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        self._add(b"h", path, target)

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        self._add(b"v", path)

    def hide(self, path: ImagePath) -> None:
        self._add(b"x", path)

    def hide_children(self, path: ImagePath) -> None:
        self._add(b"o", path)

    def finish(self) -> None:
        """Keep the rest; nothing is added any more."""
        if self._waiting:
            self._blocks.append(self._file.append(b"".join(self._waiting)))
        self._waiting, self._waiting_bytes = [], 0

    def apply_to(self, target: LayerTarget, refused: Callable[[InvalidImageError], None]) -> None:
        """Do to ``target`` what the layer does; what can't be done is told to ``refused``, and left out.

        Raises:
            LimitExceededError: ``target`` takes no more.
        """
        target.begin_layer()
        for begin, count in self._blocks:
            parts = iter(self._file.read(begin, count).split(b"\0"))
            for path, other in zip(parts, parts, strict=False):  # nothing follows the last NUL
                try:
                    _apply(target, path[:1], ImagePath(path[1:]), other)
                except LimitExceededError:
                    raise
                except InvalidImageError as error:
                    error.add_place(f"entry {quoted_path(path[1:])}")
                    refused(error)

    def _add(self, kind: bytes, path: bytes, other: bytes = b"") -> None:
        record = b"%b%b\0%b\0" % (kind, path, other)  # there is no NUL in a path
        self._waiting.append(record)
        self._waiting_bytes += len(record)
        if self._waiting_bytes > _BLOCK_BYTES:
            self.finish()


def _apply(target: LayerTarget, kind: bytes, path: ImagePath, other: bytes) -> None:
    match kind:
        case b"f":
            target.write_file(path, _FILE, iter(()))
        case b"d":
            target.make_directory(path, _DIRECTORY)
        case b"s":
            target.make_symlink(path, _entry_of(EntryType.SYMLINK, other))
        case b"h":
            target.make_hard_link(path, ImagePath(other))
        case b"x":
            target.hide(path)
        case b"o":
            target.hide_children(path)
        case _:
            target.make_device(path, _DEVICE)


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
            _apply_change(change, target)
        except InvalidImageError as error:
            error.add_place(f"entry {quoted_path(change.path)}")
            raise
        yield change


def _apply_change(change: LayerChange, target: LayerTarget) -> None:
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
