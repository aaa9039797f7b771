"""Layer targets that ignore all calls but a few, as base classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from ociexport.layers.paths import ImagePath
from ociexport.layers.tar.reader import Entry

_Wanted = TypeVar("_Wanted")


class PassingTarget:
    """A `LayerTarget` that ignores every call; `Rootfs` documents the calls."""

    def begin_layer(self) -> None:
        """Do nothing."""

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        """Do nothing."""

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Do nothing; the reader skips data that is not read."""

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        """Do nothing."""

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        """Do nothing."""

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        """Do nothing."""

    def hide(self, path: ImagePath) -> None:
        """Do nothing."""

    def hide_children(self, path: ImagePath) -> None:
        """Do nothing."""


class PickingTarget(PassingTarget, Generic[_Wanted]):
    """A `LayerTarget` that takes only selected files, which a first pass over the same layers has found.

    Args:
        wanted: any value for each file, by the numbers of its layer and of the file in that layer, both from 1.
    """

    def __init__(self, wanted: Mapping[tuple[int, int], _Wanted]) -> None:
        self._wanted = wanted
        self._layer = 0
        self._number = 0

    def begin_layer(self) -> None:
        """Restart the count of files."""
        self._layer += 1
        self._number = 0

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Take the file if it is selected."""
        self._number += 1
        wanted = self._wanted.get((self._layer, self._number))
        if wanted is not None:
            self.take_file(wanted, entry, data)

    @abstractmethod
    def take_file(self, wanted: _Wanted, entry: Entry, data: Iterator[memoryview]) -> None:
        """Handle a selected file; ``wanted`` is its value from the mapping."""
