"""A target of layers that lets everything pass: for those who look at some calls only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from ociexport.layers.paths import ImagePath
from ociexport.layers.tar.reader import Entry

_Wanted = TypeVar("_Wanted")


class PassingTarget:
    """Does nothing with what layers say; see `Rootfs` for what each call means."""

    def begin_layer(self) -> None:
        """Nothing."""

    def make_directory(self, path: ImagePath, entry: Entry) -> None:
        """Nothing."""

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Nothing; data that is not read is skipped."""

    def make_symlink(self, path: ImagePath, entry: Entry) -> None:
        """Nothing."""

    def make_hard_link(self, path: ImagePath, target: ImagePath) -> None:
        """Nothing."""

    def make_device(self, path: ImagePath, entry: Entry) -> None:
        """Nothing."""

    def hide(self, path: ImagePath) -> None:
        """Nothing."""

    def hide_children(self, path: ImagePath) -> None:
        """Nothing."""


class PickingTarget(PassingTarget, Generic[_Wanted]):
    """Lets everything pass but some files, which a first pass over the same layers has found.

    Args:
        wanted: what is known of each file: its layer and its number among the files there, from 1 on → anything.
    """

    def __init__(self, wanted: Mapping[tuple[int, int], _Wanted]) -> None:
        self._wanted = wanted
        self._layer = 0
        self._number = 0

    def begin_layer(self) -> None:
        """Count files from the beginning."""
        self._layer += 1
        self._number = 0

    def write_file(self, path: ImagePath, entry: Entry, data: Iterator[memoryview]) -> None:
        """Take the file, if it is wanted."""
        self._number += 1
        wanted = self._wanted.get((self._layer, self._number))
        if wanted is not None:
            self.take_file(wanted, entry, data)

    @abstractmethod
    def take_file(self, wanted: _Wanted, entry: Entry, data: Iterator[memoryview]) -> None:
        """Do with a wanted file what is to be done."""
