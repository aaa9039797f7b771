"""Records of layers' changes, which can be applied again without reading the layers.

There are two kinds. `ChangeRecorder` keeps every entry in memory, with all its metadata, for one image. `LayerOutline`
keeps only names, for many layers of many images. All outlines of a run are in one unnamed temporary file, written and
read in blocks, so they take almost no memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from io import FileIO

from ociexport.errors import InvalidImageError, LimitExceededError, quoted_path
from ociexport.layers.apply import LayerTarget
from ociexport.layers.limits import NameBudget, weight_of
from ociexport.layers.paths import ROOT, ImagePath
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.spec.named_tuple import NamedTuple
from ociexport.system.temporary_files import append_whole, open_temporary_file

# An outline is written and read in blocks of about this size.
_BLOCK_BYTES = 256 * 1024
# Memory that a `LayerChange` takes beside its path and its entry: measured, rounded up.
_CHANGE_BYTES = 150


class OutlineFile:
    """A temporary file with outlines, made at the first block; several threads may each write an outline."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._end = 0

    def append(self, block: bytes) -> tuple[int, int]:
        """Write a block; return its offset and size.

        Raises:
            TemporaryFileError: the file could not be made or written, for example on a full disk.
        """
        with self._lock:
            if self._file is None:
                self._file = open_temporary_file()
            self._file.seek(self._end)
            append_whole(self._file, block)
            begin, self._end = self._end, self._end + len(block)
        return begin, len(block)

    def read(self, begin: int, count: int) -> bytes:
        """Return the block at offset ``begin``, of ``count`` bytes."""
        if self._file is None:
            raise AssertionError("a block was read before any was written")
        return os.pread(self._file.fileno(), count, begin)

    def close(self) -> None:
        """Delete all outlines."""
        if self._file is not None:
            self._file.close()


class ChangeKind(Enum):
    """How a layer changes a path."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    DEVICE = "device"
    WHITEOUT = "whiteout"
    OPAQUE = "opaque"


# Looking up a module's name is faster than looking up a member of an enumeration.
_FILE, _DIRECTORY, _SYMLINK = ChangeKind.FILE, ChangeKind.DIRECTORY, ChangeKind.SYMLINK


def _nameless_entry(kind: EntryType, link_name: bytes = b"") -> Entry:
    return Entry(kind, b"", link_name, 0, 0, 0, 0, 0, None, None, (0, 0), None)


# By the first byte of an outline's record. Outlines have no metadata, so all nodes of a kind share one entry.
_OUTLINED = {
    b"f": (ChangeKind.FILE, _nameless_entry(EntryType.FILE)),
    b"d": (ChangeKind.DIRECTORY, _nameless_entry(EntryType.DIRECTORY)),
    b"s": (ChangeKind.SYMLINK, None),
    b"h": (ChangeKind.HARD_LINK, None),
    b"v": (ChangeKind.DEVICE, _nameless_entry(EntryType.FIFO)),
    b"x": (ChangeKind.WHITEOUT, None),
    b"o": (ChangeKind.OPAQUE, None),
}


class LayerOutline:
    """A `LayerTarget` that records the names in one layer, and can apply them to another target.

    Args:
        file: where the outline is stored.
    """

    def __init__(self, file: OutlineFile) -> None:
        self._file = file
        self._blocks: list[tuple[int, int]] = []
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    def begin_layer(self) -> None:
        """Do nothing, since an outline has one layer."""

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
        """Write out the last block; nothing is added after that."""
        if self._waiting:
            self._blocks.append(self._file.append(b"".join(self._waiting)))
        self._waiting, self._waiting_bytes = [], 0

    def apply_to(self, target: LayerTarget, refused: Callable[[InvalidImageError], None]) -> None:
        """Apply the layer's changes to ``target``; leave out each that fails, and call ``refused`` with its error.

        Raises:
            LimitExceededError: a limit of ``target`` is reached.
        """
        target.begin_layer()
        for begin, count in self._blocks:
            parts = iter(self._file.read(begin, count).split(b"\0"))
            for path, other in zip(parts, parts, strict=False):  # nothing follows the last NUL
                try:
                    kind, entry = _OUTLINED[path[:1]]
                    if kind is _SYMLINK:
                        entry = _nameless_entry(EntryType.SYMLINK, other)
                    _apply(target, kind, ImagePath(path[1:]), entry, ImagePath(other))
                except LimitExceededError:
                    raise
                except InvalidImageError as error:
                    error.add_place(f"entry {quoted_path(path[1:])}")
                    refused(error)

    def _add(self, kind: bytes, path: bytes, other: bytes = b"") -> None:
        record = b"%b%b\0%b\0" % (kind, path, other)  # paths contain no NUL
        self._waiting.append(record)
        self._waiting_bytes += len(record)
        if self._waiting_bytes > _BLOCK_BYTES:
            self.finish()


class LayerChange(NamedTuple):
    """One change of a layer: an entry, or a whiteout.

    Args:
        kind: the kind of change; a fifo counts as a device, as in `LayerTarget`.
        path: the path in the layer, links not followed; for a whiteout, the path that it hides.
        entry: the entry in the tar; None for whiteouts, and for hard links, which share their target's metadata.
        target: the target of a hard link.
    """

    kind: ChangeKind
    path: ImagePath
    entry: Entry | None = None
    target: ImagePath = ROOT


class ChangeRecorder:
    """A `LayerTarget` that keeps the changes of each layer; `Rootfs` documents the calls.

    Args:
        budget: bounds the memory.

    Attributes:
        changes: the changes of the layers so far, one list for each layer.
    """

    def __init__(self, budget: NameBudget) -> None:
        self._budget = budget
        self.changes: list[list[LayerChange]] = []

    def begin_layer(self) -> None:
        """Start the list of the next layer."""
        self.changes.append([])

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        """Record a directory."""
        self._add(LayerChange(ChangeKind.DIRECTORY, path, entry))

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Record a file, without its data and without the segments of a sparse file."""
        if entry.segments is not None:
            entry = entry._replace(segments=None)
        self._add(LayerChange(ChangeKind.FILE, path, entry))

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        """Record a symbolic link."""
        self._add(LayerChange(ChangeKind.SYMLINK, path, entry))

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        """Record a hard link."""
        self._add(LayerChange(ChangeKind.HARD_LINK, path, target=target))

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        """Record a device or fifo."""
        self._add(LayerChange(ChangeKind.DEVICE, path, entry))

    def hide(self, path: ImagePath) -> None:
        """Record a whiteout."""
        self._add(LayerChange(ChangeKind.WHITEOUT, path))

    def hide_children(self, path: ImagePath) -> None:
        """Record an opaque whiteout."""
        self._add(LayerChange(ChangeKind.OPAQUE, path))

    def _add(self, change: LayerChange) -> None:
        entry_bytes = weight_of(change.entry) if change.entry is not None else 0
        self._budget.take(_CHANGE_BYTES + len(change.path) + len(change.target) + entry_bytes)
        self.changes[-1].append(change)


def replay(changes: Iterable[LayerChange], target: LayerTarget) -> Iterator[LayerChange]:
    """Apply the changes of one layer to ``target``, and yield each after it is applied; files have no data."""
    target.begin_layer()
    for change in changes:
        try:
            _apply(target, change.kind, change.path, change.entry, change.target)
        except InvalidImageError as error:
            error.add_place(f"entry {quoted_path(change.path)}")
            raise
        yield change


def apply_changes(changes: Iterable[LayerChange], target: LayerTarget) -> None:
    """Apply the changes of one layer to ``target``, as `replay` does, in two thirds of the time."""
    target.begin_layer()
    path, no_data = ROOT, iter(())
    try:
        for kind, path, entry, link_target in changes:
            if kind is _FILE and entry is not None:
                target.write_file(path, entry, no_data)
            else:
                _apply(target, kind, path, entry, link_target)
    except InvalidImageError as error:
        error.add_place(f"entry {quoted_path(path)}")
        raise


def _apply(target: LayerTarget, kind: ChangeKind, path: ImagePath, entry: Entry | None, link_target: ImagePath) -> None:
    if entry is not None:
        if kind is _FILE:
            target.write_file(path, entry, iter(()))
        elif kind is _DIRECTORY:
            target.make_directory(path, entry)
        elif kind is _SYMLINK:
            target.make_symlink(path, entry)
        else:
            target.make_device(path, entry)
    elif kind is ChangeKind.HARD_LINK:
        target.make_hard_link(path, link_target)
    elif kind is ChangeKind.WHITEOUT:
        target.hide(path)
    else:
        target.hide_children(path)
