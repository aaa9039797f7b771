"""What a layer does to a tree of names, kept without the data, so that it can be done again without the layer.

All outlines of a run are in one temporary file without a name, written and read in blocks: they take no memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import IO

from ociexport.errors import InvalidImageError, LimitExceededError
from ociexport.layers.apply import LayerTarget
from ociexport.layers.paths import ImagePath, quoted_path
from ociexport.layers.tar.reader import Entry, EntryType
from ociexport.system.temporary_files import TemporaryFileError, open_temporary_file

# So much of an outline waits until it is written, and is read at once.
_BLOCK_BYTES = 256 * 1024


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
