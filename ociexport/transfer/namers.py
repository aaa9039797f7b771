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
        is_allowed: whether any layout gets one.

    Attributes:
        errors: why an image has no name, by its position in the list.
    """

    def __init__(self, places: Iterable[str], *, is_allowed: bool) -> None:
        counts = Counter(places)
        run = secrets.token_hex(8)
        self._marks = {place: f"{run}-{number}" for number, place in enumerate(counts)}
        # The name of a single image gains nothing by waiting.
        self._waiting = {place for place, count in counts.items() if count > 1 and is_allowed}
        self._layouts: dict[str, ImageLayout] = {}
        self._namers: dict[str, Namer] = {}
        self._taken: dict[str, list[int]] = {}
        self.errors: dict[int, OciexportError | OSError] = {}
        self._stack = ExitStack()

    @property
    def is_used(self) -> bool:
        """Whether workers may leave names to this process, or have done so."""
        return bool(self._layouts)

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
                self._namers[place] = layout.name_for_others(self._marks[place])
                self._stack.enter_context(stack.pop_all())
                self._layouts[place] = layout

    def take_over(self, place: str, handed: HandedOver, position: int) -> None:
        """Take what a worker left to the namer of a layout, for the image with this position in the list."""
        self._layouts[place].take_over(handed)
        self._taken.setdefault(place, []).append(position)

    def commit_names(self) -> None:
        """Write the names of all images that are complete.

        Where they can't be written, each of these images gets the error, and workers name their own from then on.
        """
        for place, layout in self._layouts.items():
            taken = self._taken.pop(place, ())
            try:
                layout.commit_names()
            except (OciexportError, OSError) as error:
                self.errors |= dict.fromkeys(taken, error)
                if place in self._namers:
                    self._namers.pop(place).close()

    def retire(self) -> None:
        """Take no more: workers that go on name their own images."""
        self._waiting.clear()
        while self._namers:
            self._namers.popitem()[1].close()

    def close(self) -> None:
        """Write all names, and let go of the layouts."""
        self.retire()
        self._stack.close()
