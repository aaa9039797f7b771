"""progress.events: progress as typed events for programs and as lines of JSON for scripts."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.system.progress.events import EventLines, EventProgress, ProgressEvent
from ociexport.transfer.pull import pull
from tests.support.command import command_environment, command_line
from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.puller import Puller

IMAGE = build_image([[member("a", os.urandom(3000))], [member("b", b"2")]])
FIRST, SECOND = IMAGE.layers


def test_program_is_given_each_event(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    pull(
        IMAGE.source(), tmp_path / "layout", platform=Platform("linux", "amd64"), progress=EventProgress(events.append)
    )
    total = IMAGE.config.size + FIRST.size + SECOND.size
    assert events[0] == ProgressEvent("said", message=f"memory: platform linux/amd64, manifest {IMAGE.digest}")
    assert events[1] == ProgressEvent("phaseStarted", "fetching", total_bytes=total)
    assert events[-1] == ProgressEvent("phaseEnded", "fetching")
    title = f"layer 1/2 {FIRST.digest.short}"
    about = [event for event in events if event.title == title]
    assert about[0] == ProgressEvent("taskStarted", title, None, FIRST.digest, 0, FIRST.size)
    assert about[-1] == ProgressEvent("taskEnded", title, None, FIRST.digest, FIRST.size, FIRST.size)


def test_failure_of_a_task_is_told(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    progress = EventProgress(events.append)

    def work() -> None:
        with progress.task("layer 1/1 abc", 10) as task:
            task.advance(3)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        work()
    assert events[-1] == ProgressEvent("taskFailed", "layer 1/1 abc", "full", None, 3, 10)


def test_updates_are_few() -> None:
    events: list[ProgressEvent] = []
    with EventProgress(events.append).task("layer 1/1 abc", 100_000) as task:
        for _ in range(100_000):
            task.advance(1)
    assert len([event for event in events if event.kind == "taskAdvanced"]) < 100


def test_lines_have_what_is_known() -> None:
    file = io.BytesIO()
    lines = EventLines(file)
    lines(ProgressEvent("taskEnded", "layer 1/1 abc", None, Digest.of(b""), 3, None))
    lines(ProgressEvent("warned", message="two\nlines"))
    said = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [list(event) for event in said] == [
        ["event", "time", "eventsVersion"],
        ["event", "time", "title", "digest", "doneBytes"],
        ["event", "time", "message"],
    ]
    assert said[2]["message"] == "two\nlines"


def events_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_command_writes_events_to_a_file(puller: Puller) -> None:
    file = puller.home / "events"
    assert puller(puller.serve(IMAGE), "--events", file, "--quiet").lines == []
    events = events_in(file)
    assert (events[0]["event"], events[0]["eventsVersion"]) == ("started", 1)
    assert (events[-1]["event"], events[-1]["exitCode"]) == ("ended", 0)
    ended = {event["digest"]: event["doneBytes"] for event in events if event["event"] == "taskEnded"}
    assert ended == {str(item.digest): item.size for item in (IMAGE.config, FIRST, SECOND)}


def test_error_is_the_last_event(puller: Puller) -> None:
    file = puller.home / "events"
    pulled = puller(f"{puller.registry.host}/library/app:none", "--events", file)
    last = events_in(file)[-1]
    assert (last["event"], last["exitCode"]) == ("ended", 3)
    assert pulled.errors[0] == f"ociexport: error: {last['message']}".replace(puller.registry.host, "REGISTRY")


def test_command_writes_events_to_a_descriptor(puller: Puller, tmp_path: Path) -> None:
    reference = puller.serve(IMAGE)
    with open(tmp_path / "events", "wb") as file:
        arguments = command_line("unpack", reference, tmp_path / "rootfs", "--platform=linux/amd64", "-q")
        subprocess.run(
            [*arguments, "--events", str(file.fileno())],
            env=command_environment(puller.home),
            pass_fds=[file.fileno()],
            check=True,
            timeout=60,
            capture_output=True,
        )
    assert [event["event"] for event in events_in(tmp_path / "events") if "phase" in event["event"]] == [
        "phaseStarted",
        "phaseEnded",
    ]


def test_reader_that_ends_does_not_end_the_pull(puller: Puller) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = command_line("pull", puller.serve(IMAGE), "--out", puller.layout, "--platform=linux/amd64")
    ended = subprocess.run(
        [*arguments, "--events", str(writer)],
        env=command_environment(puller.home),
        pass_fds=[writer],
        check=False,
        timeout=60,
        capture_output=True,
    )
    os.close(writer)
    assert ended.returncode == 0


def test_descriptor_that_is_not_open_is_refused(puller: Puller) -> None:
    pulled = puller(puller.serve(IMAGE), "--events", "77")
    assert (pulled.code, pulled.errors) == (
        2,
        [
            "ociexport: error: --events '77': expected a file descriptor that is open for writing, "
            "got Bad file descriptor",
            "hint: for example --events 3 3>events.json",
        ],
    )
    puller.assert_nothing_left()
