"""Namers: names the images that the workers of an executor have stored, many with one change of ``index.json``."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from ociexport.errors import OciexportError
from ociexport.storage.layout.documents import LAYOUT_FILE
from ociexport.storage.layout.layout import ImageLayout

if TYPE_CHECKING:
    from ociexport.storage.layout.namer import HandedOver, Namer

# Each takes two open files.
_MAX_LAYOUTS = 64


class Namers:
    """Names images for the workers of one run; see `ociexport.storage.layout.namer`.

    A layout gets its namer when a worker, as the same user, has stored an image there and this process sees the layout
    too. So workers make a layout as they do without a namer, and where this process can't name, each worker does.

    Args:
        places: the layout of each image.
    """

    def __init__(self, places: Iterable[str]) -> None:
        counts = Counter(places)
        run = secrets.token_hex(8)
        self._marks = {place: f"{run}-{number}" for number, place in enumerate(counts)}
        # The name of a single image gains nothing by waiting.
        self._waiting = {place for place, count in counts.items() if count > 1}
        self._layouts: dict[str, ImageLayout] = {}
        self._namers: list[Namer] = []
        self._stack = ExitStack()

    def mark_of(self, place: str) -> str:
        """Return what the workers are told, by which they find the namer of a layout."""
        return self._marks[place]

    def begin(self, place: str, user: int) -> None:
        """Name the images of a layout from now on, if that is possible and not done yet.

        Args:
            place: a layout in which a worker has just stored an image.
            user: the worker's.
        """
        if place not in self._waiting or len(self._layouts) == _MAX_LAYOUTS:
            return
        self._waiting.remove(place)
        layout = ImageLayout(place)
        with suppress(OciexportError, OSError), ExitStack() as stack:
            if user == os.geteuid() and layout.directory.has(LAYOUT_FILE):
                stack.enter_context(layout.batch())
                self._namers.append(layout.name_for_others(self._marks[place]))
                self._stack.enter_context(stack.pop_all())
                self._layouts[place] = layout

    def take_over(self, place: str, handed: HandedOver) -> None:
        """Take what a worker left to the namer of a layout."""
        self._layouts[place].take_over(handed)

    def commit_names(self) -> None:
        """Write the names of all images that are complete."""
        for layout in self._layouts.values():
            layout.commit_names()

    def retire(self) -> None:
        """Take no more: workers that go on name their own images."""
        while self._namers:
            self._namers.pop().close()

    def close(self) -> None:
        """Write all names, and let go of the layouts."""
        self.retire()
        self._stack.close()
