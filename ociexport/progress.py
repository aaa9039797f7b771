"""What is told while work goes on: silent by default, bars by tqdm on a terminal, plain lines elsewhere.

The work knows nothing of bars: it opens a task for each blob or layer and says how many bytes went by.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from ociexport.digest import Chunk

if TYPE_CHECKING:
    from types import TracebackType

_DEFAULT_COLUMNS = 80


class ProgressTask(Protocol):
    """One blob or layer under way."""

    def advance(self, count: int) -> None:
        """Take note of ``count`` more bytes."""


class Progress(Protocol):
    """Told what happens; called from several threads."""

    def task(self, title: str, total_bytes: int | None) -> AbstractContextManager[ProgressTask]:
        """Begin a task; it ends with the ``with`` block, well or not."""

    def say(self, line: str) -> None:
        """Tell something that people want to know: which platform was chosen, what is already there."""

    def warn(self, line: str) -> None:
        """Tell something that people must know although the work goes on: what was lost or skipped."""


class SilentProgress:
    """Tells nothing."""

    @contextmanager
    def task(self, title: str, total_bytes: int | None) -> Iterator[ProgressTask]:
        yield self

    def advance(self, count: int) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def warn(self, line: str) -> None:
        pass


SILENT = SilentProgress()


class PlainProgress:
    """One line when a task is done, for logs and pipes.

    Args:
        stream: where lines go.
        quiet: only warnings are told.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._lock = threading.Lock()

    @contextmanager
    def task(self, title: str, total_bytes: int | None) -> Iterator[ProgressTask]:
        task = _CountingTask()
        yield task
        self.say(f"{title}: {format_bytes(task.seen_bytes)}")

    def say(self, line: str) -> None:
        if not self._quiet:
            self._write(line)

    def warn(self, line: str) -> None:
        self._write(f"warning: {line}")

    def _write(self, line: str) -> None:
        with self._lock:
            print(f"ociexport: {line}", file=self._stream, flush=True)


class _CountingTask:
    def __init__(self) -> None:
        self.seen_bytes = 0

    def advance(self, count: int) -> None:
        self.seen_bytes += count


class BarProgress:
    """One tqdm bar for each task, for terminals."""

    def __init__(self, stream: TextIO | None = None) -> None:
        # Only a terminal needs it, and it costs a sixth of the start-up.
        from tqdm import tqdm  # noqa: PLC0415

        self._tqdm = tqdm
        self._stream = stream if stream is not None else sys.stderr
        # Where the terminal does not know how wide it is, tqdm would draw bars of no width.
        self._is_width_known = _columns_of(self._stream) > 0

    def task(self, title: str, total_bytes: int | None) -> AbstractContextManager[ProgressTask]:
        return _Bar(
            self._tqdm(
                total=total_bytes,
                desc=title,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                file=self._stream,
                leave=True,
                dynamic_ncols=self._is_width_known,
                ncols=None if self._is_width_known else _DEFAULT_COLUMNS,
            )
        )

    def say(self, line: str) -> None:
        self._tqdm.write(f"ociexport: {line}", file=self._stream)

    def warn(self, line: str) -> None:
        self.say(f"warning: {line}")


def _columns_of(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal, or no file at all
        return 0


class _Bar:
    def __init__(self, bar: object) -> None:
        self._bar = bar

    def __enter__(self) -> _Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()  # type: ignore[attr-defined]

    def advance(self, count: int) -> None:
        self._bar.update(count)  # type: ignore[attr-defined]


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
