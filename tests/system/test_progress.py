"""progress.protocol: silent by default; bars on a terminal, otherwise one line for each blob."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ociexport.system.progress.display import PlainProgress
from ociexport.system.progress.protocol import SILENT, Progress, followed, format_bytes


def work(progress: Progress) -> None:
    progress.say("platform linux/amd64")
    with progress.task("layer 1/2 abc", 3000) as task:
        for _ in followed([b"x" * 1000] * 3, task):
            pass
    progress.warn("something was lost")


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    work(SILENT)
    assert capsys.readouterr() == ("", "")


def test_plain_lines_tell_what_is_done() -> None:
    stream = io.StringIO()
    work(PlainProgress(stream))
    assert stream.getvalue() == (
        "ociexport: platform linux/amd64\nociexport: layer 1/2 abc: 3.0 kB\nociexport: warning: something was lost\n"
    )


def test_quiet_tells_warnings_only() -> None:
    stream = io.StringIO()
    work(PlainProgress(stream, quiet=True))
    assert stream.getvalue() == "ociexport: warning: something was lost\n"


def test_task_that_fails_is_not_told_as_done() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    with pytest.raises(OSError, match="full"), progress.task("layer 1/1 abc", None):
        raise OSError("full")
    assert stream.getvalue() == ""


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    PlainProgress().say("hello")
    assert capsys.readouterr() == ("", "ociexport: hello\n")


def test_phase_is_told_every_now_and_then() -> None:
    """A CI system ends a job that has no output for too long."""
    lines: list[str] = []
    progress = PlainProgress(CallingStream(lines.append), heartbeat_seconds=0.01)
    with progress.phase("fetching", 4000) as phase, progress.task("layer 1/2 abc", 3000) as task:
        phase.leave_out(1000)
        task.resume(1000)
        task.advance(500)
        deadline = time.monotonic() + 10
        while not lines and time.monotonic() < deadline:
            time.sleep(0.01)
    assert lines[0] == "ociexport: fetching: 500 B of 2.0 kB so far"


@pytest.mark.parametrize("options", [{"quiet": True}, {"heartbeat_seconds": None}])
def test_phase_is_not_told_where_nobody_wants_it(options: dict[str, Any]) -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, **options)
    before = threading.active_count()
    with progress.phase("fetching", 4000):
        assert threading.active_count() == before
    assert stream.getvalue() == ""


class CallingStream(io.StringIO):
    def __init__(self, on_line: Callable[[str], object]) -> None:
        super().__init__()
        self._on_line = on_line

    def write(self, text: str) -> int:
        if text.strip():
            self._on_line(text.strip())
        return len(text)


def test_lines_of_several_threads_stay_whole() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    threads = [threading.Thread(target=progress.say, args=(f"line {n} " + "x" * 200,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(line.startswith("ociexport: line ") for line in stream.getvalue().splitlines())
    assert len(stream.getvalue().splitlines()) == 20


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (479_100_000, "479.1 MB"),
        (1_500_000_000, "1.5 GB"),
        (2_000_000_000_000, "2.0 TB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_bytes_are_shown_in_decimal_units(count: int, shown: str) -> None:
    """As docker shows sizes."""
    assert format_bytes(count) == shown
