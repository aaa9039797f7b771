"""Progress for people: plain lines for logs and pipes, bars by tqdm for terminals."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from ociexport.errors import escaped
from ociexport.spec.digest import Digest
from ociexport.system.progress.protocol import ProgressPhase, ProgressTask, format_bytes
from ociexport.system.threads import ThreadLimitError, start_thread

if TYPE_CHECKING:
    from tqdm import tqdm

# Many CI systems end a job after ten minutes without output, and some after one minute.
HEARTBEAT_SECONDS = 30.0
# Often enough to look alive. Each bar redraws itself, and all bars together at most ten times a second.
_REDRAW_SECONDS = 0.25
_MAX_REDRAWS_PER_SECOND = 10
_DEFAULT_COLUMNS = 80
# With fewer columns, a bar does not fit beside its numbers.
_NARROW_COLUMNS = 64
_NARROW_FORMAT = "{desc} {percentage:3.0f}% {rate_fmt} {remaining}"
_NARROW_FORMAT_WITHOUT_TOTAL = "{desc} {n_fmt} {rate_fmt}"


class PlainProgress:
    """One line when a task is done, for logs and pipes.

    Args:
        stream: receives the lines; by default standard error.
        quiet: whether only warnings are written.
        heartbeat_seconds: the time between two lines about a phase in progress; None for no such lines.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        heartbeat_seconds: float | None = HEARTBEAT_SECONDS,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._heartbeat_seconds = None if quiet else heartbeat_seconds
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, title: str, total_bytes: int) -> Iterator[ProgressPhase]:
        """Begin a phase, and write its progress every ``heartbeat_seconds``."""
        self._phase = phase = _CountedPhase(title, total_bytes)
        ended = threading.Event()
        if self._heartbeat_seconds is not None:
            with suppress(ThreadLimitError):  # the work does not need it
                start_thread(self._beat, phase, ended, name="heartbeat")
        try:
            yield phase
        finally:
            ended.set()

    @contextmanager
    def task(self, title: str, total_bytes: int | None, *, digest: Digest | None = None) -> Iterator[ProgressTask]:
        task = _CountingTask(getattr(self, "_phase", None))
        yield task
        self.say(f"{title}: {format_bytes(task.seen_bytes)}")

    def say(self, line: str) -> None:
        if not self._quiet:
            self._write(line)

    def warn(self, line: str) -> None:
        self._write(f"warning: {line}")

    def _beat(self, phase: _CountedPhase, ended: threading.Event) -> None:
        while not ended.wait(self._heartbeat_seconds):
            self._write(f"{phase.title}: {format_bytes(phase.seen_bytes)} of {format_bytes(phase.total_bytes)} so far")

    def _write(self, line: str) -> None:
        with self._lock:
            print(f"ociexport: {escaped(line)}", file=self._stream, flush=True)


class _CountedPhase:
    def __init__(self, title: str, total_bytes: int) -> None:
        self.title = title
        self.total_bytes = total_bytes
        self.seen_bytes = 0
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self.seen_bytes += count

    def leave_out(self, count: int) -> None:
        with self._lock:
            self.total_bytes -= count


class _CountingTask:
    def __init__(self, phase: _CountedPhase | None) -> None:
        self.seen_bytes = 0
        self._phase = phase

    def advance(self, count: int) -> None:
        self.seen_bytes += count
        if self._phase is not None:
            self._phase.advance(count)

    def resume(self, count: int) -> None:
        self.seen_bytes += count
        if self._phase is not None:
            self._phase.leave_out(count)


class BarProgress:
    """One bar for each task in progress, one for the phase, and a line for each finished task. For terminals.

    It uses no colours, so ``NO_COLOR`` changes nothing.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        # Only a terminal needs tqdm, and its import takes a sixth of the start-up.
        from tqdm import tqdm  # noqa: PLC0415 - start-up: as above

        # A lock for threads is enough; tqdm's own works across processes too, and takes ten milliseconds to make.
        self._tqdm: type[tqdm[object]] = type("_Bars", (tqdm,), {})
        self._tqdm.set_lock(threading.RLock())
        self._stream = stream if stream is not None else sys.stderr
        # If the terminal does not know its width, tqdm would draw bars without any width.
        self._is_width_known = _columns_of(self._stream) > 0
        self._lock = threading.Lock()
        self._phase: tqdm[object] | None = None
        self._phase_title = ""
        self._bars: list[tqdm[object]] = []

    @contextmanager
    def phase(self, title: str, total_bytes: int) -> Iterator[ProgressPhase]:
        """Begin a phase, whose bar is above those of its tasks."""
        with self._new_bar(title, total_bytes) as bar:
            self._phase, self._phase_title = bar, title
            try:
                yield self
            finally:
                self._phase, self._phase_title = None, ""

    def leave_out(self, count: int) -> None:
        """Reduce the total of the phase by ``count`` bytes, which need not be transferred."""
        with self._lock:
            if self._phase is not None and self._phase.total is not None:
                self._phase.total -= count

    @contextmanager
    def task(self, title: str, total_bytes: int | None, *, digest: Digest | None = None) -> Iterator[ProgressTask]:
        # The bar above already shows the phase's title.
        short = title.removeprefix(f"{self._phase_title} ")
        with self._new_bar(short, total_bytes) as bar:
            yield _Bar(bar, self)
        self.say(f"{title}: {format_bytes(int(bar.n))}")

    def advance(self, count: int) -> None:
        """Add bytes to the phase."""
        with self._lock:
            if self._phase is not None:
                self._phase.update(count)

    def say(self, line: str) -> None:
        self._tqdm.write(f"ociexport: {escaped(line)}", file=self._stream)

    def warn(self, line: str) -> None:
        self.say(f"warning: {line}")

    @contextmanager
    def _new_bar(self, title: str, total_bytes: int | None) -> Iterator[tqdm[object]]:
        is_narrow = (_columns_of(self._stream) or _DEFAULT_COLUMNS) < _NARROW_COLUMNS
        narrow_format = _NARROW_FORMAT if total_bytes else _NARROW_FORMAT_WITHOUT_TOTAL
        bar = self._tqdm(
            total=total_bytes,
            # Number and digest identify the layer; without the word there is room for the remaining time.
            desc=title.removeprefix("layer ") if is_narrow else title,
            unit="B",
            unit_scale=True,
            file=self._stream,
            leave=False,
            # Each update checks the clock, and tqdm starts no monitor thread.
            miniters=1,
            mininterval=_REDRAW_SECONDS,
            maxinterval=0,
            bar_format=narrow_format if is_narrow else None,
            dynamic_ncols=self._is_width_known,
            ncols=None if self._is_width_known else _DEFAULT_COLUMNS,
        )
        self._add(bar)
        try:
            yield bar
        finally:
            self._close(bar)

    def _add(self, bar: tqdm[object]) -> None:
        with self._tqdm.get_lock():
            self._bars.append(bar)
            self._share_redraws()

    def _share_redraws(self) -> None:
        for bar in self._bars:
            bar.mininterval = max(_REDRAW_SECONDS, len(self._bars) / _MAX_REDRAWS_PER_SECOND)

    def _close(self, bar: tqdm[object]) -> None:
        """Remove ``bar``, and move the bars below it up, which tqdm does not do."""
        with self._tqdm.get_lock():
            place = abs(bar.pos)
            bar.close()
            self._bars.remove(bar)
            self._share_redraws()
            for other in self._bars:
                if abs(other.pos) > place:
                    other.clear(nolock=True)
                    other.pos = abs(other.pos) - 1
                    other.refresh(nolock=True)


class _Bar:
    def __init__(self, bar: tqdm[object], progress: BarProgress) -> None:
        self._bar = bar
        self._progress = progress

    def advance(self, count: int) -> None:
        self._bar.update(count)
        self._progress.advance(count)

    def resume(self, count: int) -> None:
        # The initial bytes do not count for the rate.
        self._bar.initial += count
        self._bar.n += count
        self._progress.leave_out(count)


def _columns_of(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # not a terminal, or not a file
        return 0
