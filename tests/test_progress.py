"""progress: silent by default, one line a blob off a terminal, bars on one."""

from __future__ import annotations

import io
import threading

import pytest

from ociexport.progress import SILENT, BarProgress, PlainProgress, Progress, followed, format_bytes


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


def test_bars_show_each_blob() -> None:
    stream = io.StringIO()
    work(BarProgress(stream))
    shown = stream.getvalue()
    assert "ociexport: platform linux/amd64\n" in shown
    assert "layer 1/2 abc: 100%" in shown
    assert "ociexport: warning: something was lost\n" in shown


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
