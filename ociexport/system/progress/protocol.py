"""What is told while work goes on; silent by default. How it is shown is in `ociexport.system.progress.display`.

The work knows nothing of bars: it opens a task for each blob or layer and says how many bytes went by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ociexport.spec.digest import Chunk, Digest


class ProgressTask(Protocol):
    """One blob or layer under way."""

    def advance(self, count: int) -> None:
        """Take note of ``count`` more bytes."""

    def resume(self, count: int) -> None:
        """Take note that an earlier try has left ``count`` bytes, which need not come again."""


class ProgressPhase(Protocol):
    """What several tasks do together."""

    def leave_out(self, count: int) -> None:
        """Take note that ``count`` bytes of the total need not come: they are there."""


class Progress(Protocol):
    """Told what happens; called from several threads."""

    def phase(self, title: str, total_bytes: int) -> AbstractContextManager[ProgressPhase]:
        """Begin a phase; what its tasks are told adds up to ``total_bytes``. There is one at a time."""

    def task(
        self, title: str, total_bytes: int | None, *, digest: Digest | None = None
    ) -> AbstractContextManager[ProgressTask]:
        """Begin a task; it ends with the ``with`` block, well or not.

        Args:
            digest: of the blob that it is about.
        """

    def say(self, line: str) -> None:
        """Tell something that people want to know: which platform was chosen, what is already there."""

    def warn(self, line: str) -> None:
        """Tell something that people must know although the work goes on: what was lost or skipped."""


class SilentProgress:
    """Tells nothing."""

    @contextmanager
    def phase(self, title: str, total_bytes: int) -> Iterator[ProgressPhase]:
        yield self

    @contextmanager
    def task(self, title: str, total_bytes: int | None, *, digest: Digest | None = None) -> Iterator[ProgressTask]:
        yield self

    def advance(self, count: int) -> None:
        pass

    def resume(self, count: int) -> None:
        pass

    def leave_out(self, count: int) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def warn(self, line: str) -> None:
        pass


SILENT = SilentProgress()


def followed(chunks: Iterable[Chunk], task: ProgressTask) -> Iterator[Chunk]:
    """Yield ``chunks`` while telling ``task`` of each."""
    for chunk in chunks:
        yield chunk
        task.advance(len(chunk))


def format_bytes(count: int) -> str:
    """Return a number of bytes as people read it: ``479.1 MB`` (decimal, as docker shows sizes)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
