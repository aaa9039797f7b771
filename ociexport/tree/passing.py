"""A target of layers that lets everything pass: for those who look at some calls only."""

from __future__ import annotations

from collections.abc import Iterator

from ociexport.tree.entries import Entry
from ociexport.tree.paths import ImagePath


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
