"""The interface for reporting progress; silent by default. `ociexport.system.progress.display` shows it.

The reporting code does not depend on the display: it opens a task for each blob or layer, and reports bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ociexport.spec.digest import Chunk, Digest


class ProgressTask(Protocol):
    """One blob or layer in progress."""

    def advance(self, count: int) -> None:
        """Report ``count`` more bytes."""

    def resume(self, count: int) -> None:
        """Report ``count`` bytes that an earlier try left, so they are not transferred again."""


class ProgressPhase(Protocol):
    """The common progress of several tasks."""

    def leave_out(self, count: int) -> None:
        """Report that ``count`` bytes of the total need not be transferred: they already exist."""


class Progress(Protocol):
    """Receives progress; called from several threads."""

    def phase(self, title: str, total_bytes: int) -> AbstractContextManager[ProgressPhase]:
        """Begin a phase, whose tasks have ``total_bytes`` together. Only one phase runs at a time."""

    def task(
        self, title: str, total_bytes: int | None, *, digest: Digest | None = None
    ) -> AbstractContextManager[ProgressTask]:
        """Begin a task; it ends with the ``with`` block, also after an error.

        Args:
            digest: of the task's blob.
        """

    def say(self, line: str) -> None:
        """Report something that users want to know: the chosen platform, blobs that already exist."""

    def warn(self, line: str) -> None:
        """Report something that users must know although the work continues: data that was lost or skipped."""


class SilentProgress:
    """Ignores all progress."""

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
    """Yield ``chunks``, and report the size of each to ``task``."""
    for chunk in chunks:
        yield chunk
        task.advance(len(chunk))


def format_bytes(count: int) -> str:
    """Return a number of bytes in a readable unit: ``479.1 MB`` (decimal, as docker shows sizes)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
