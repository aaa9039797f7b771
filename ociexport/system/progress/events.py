"""Progress for programs: events, which are passed to a callback or written as lines of JSON."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal, TypeAlias

from ociexport.errors import with_bytes_shown
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.system.progress.protocol import SILENT, Progress, ProgressPhase, ProgressTask

# Between two events of a task: often enough for a bar, and little work for the reader.
_UPDATE_SECONDS = 0.1
_VERSION = 1

EventKind: TypeAlias = Literal[
    "phaseStarted", "phaseEnded", "taskStarted", "taskAdvanced", "taskEnded", "taskFailed", "said", "warned"
]


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One step of progress, or one message.

    Args:
        kind: ``taskAdvanced`` comes at most ten times a second for each task.
        title: of the phase or task; None for a message.
        message: of ``said`` and ``warned``, and the error of ``taskFailed``; otherwise None.
        digest: of the task's blob.
        done_bytes: how many bytes of the task are done, including those that an earlier try left.
        total_bytes: of the phase or task; None if it is not known.
    """

    kind: EventKind
    title: str | None = None
    message: str | None = None
    digest: Digest | None = None
    done_bytes: int | None = None
    total_bytes: int | None = None


class EventProgress:
    """Passes each event to a callback, one at a time, and the same progress to ``inner``.

    Args:
        on_event: called from several threads, but never by two at once; an error that it raises stops the work.
        inner: receives the same progress.
    """

    def __init__(self, on_event: Callable[[ProgressEvent], object], inner: Progress = SILENT) -> None:
        self._on_event = on_event
        self._inner = inner
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, title: str, total_bytes: int) -> Iterator[ProgressPhase]:
        self.emit(ProgressEvent("phaseStarted", title, total_bytes=total_bytes))
        with self._inner.phase(title, total_bytes) as phase:
            yield phase
        self.emit(ProgressEvent("phaseEnded", title))

    @contextmanager
    def task(self, title: str, total_bytes: int | None, *, digest: Digest | None = None) -> Iterator[ProgressTask]:
        self.emit(ProgressEvent("taskStarted", title, digest=digest, done_bytes=0, total_bytes=total_bytes))
        with self._inner.task(title, total_bytes, digest=digest) as inner:
            task = _EventTask(self, inner, title, total_bytes, digest)
            try:
                yield task
            except BaseException as error:
                self.emit(task.event("taskFailed", str(error) or type(error).__name__))
                raise
        self.emit(task.event("taskEnded"))

    def say(self, line: str) -> None:
        self.emit(ProgressEvent("said", message=line))
        self._inner.say(line)

    def warn(self, line: str) -> None:
        self.emit(ProgressEvent("warned", message=line))
        self._inner.warn(line)

    def emit(self, event: ProgressEvent) -> None:
        """Pass ``event`` to the callback."""
        with self._lock:
            self._on_event(event)


class _EventTask:
    def __init__(
        self, progress: EventProgress, inner: ProgressTask, title: str, total_bytes: int | None, digest: Digest | None
    ) -> None:
        self._progress = progress
        self._inner = inner
        self._title = title
        self._total_bytes = total_bytes
        self._digest = digest
        self._done_bytes = 0
        self._next_update = 0.0

    def advance(self, count: int) -> None:
        self._inner.advance(count)
        self._count(count)

    def resume(self, count: int) -> None:
        self._inner.resume(count)
        self._count(count)

    def _count(self, count: int) -> None:
        self._done_bytes += count
        now = time.monotonic()
        if now >= self._next_update:
            self._next_update = now + _UPDATE_SECONDS
            self._progress.emit(self.event("taskAdvanced"))

    def event(self, kind: EventKind, message: str | None = None) -> ProgressEvent:
        """Return an event of this task."""
        return ProgressEvent(kind, self._title, message, self._digest, self._done_bytes, self._total_bytes)


class EventLines:
    """Writes events as lines of JSON, each with one write; a callback for `EventProgress`.

    The members are those of `ProgressEvent` in camelCase, except those that are None; ``time`` is in seconds since
    1970. The first line is ``{"event": "started", "eventsVersion": 1}``.

    Args:
        file: unbuffered. If its reader closes it, nothing more is written.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_open = True
        self.write("started", {"eventsVersion": _VERSION})

    def __call__(self, event: ProgressEvent) -> None:
        """Write one event."""
        members = {
            "title": event.title,
            "message": event.message,
            "digest": str(event.digest) if event.digest is not None else None,
            "doneBytes": event.done_bytes,
            "totalBytes": event.total_bytes,
        }
        self.write(event.kind, {name: value for name, value in members.items() if value is not None})

    def write(self, event: str, members: dict[str, object]) -> None:
        """Write one line."""
        if not self._is_open:
            return
        shown = {name: with_bytes_shown(value) if isinstance(value, str) else value for name, value in members.items()}
        line = json.dumps({"event": event, "time": round(time.time(), 3), **shown}) + "\n"
        try:
            self._file.write(line.encode())
        except BrokenPipeError:
            self._is_open = False
        except OSError as error:
            name = self._file.name
            error.filename = name if isinstance(name, str) else f"file descriptor {name}"
            raise
