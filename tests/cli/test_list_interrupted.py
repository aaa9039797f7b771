"""A run of a list that is interrupted says what is left to do, and its list of that is the next run's.

Source: issue 18: "One image that fails does not end the list ... failed.txt in list form, which can be the next run's
list."
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.storage.layout.layout import ImageLayout
from tests.support.command import clear_foreign_variables, command_environment, command_line
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64, build_image
from tests.support.memory_source import member
from tests.support.read_bytes import own_files
from tests.support.waiting import wait_for

SMALL = build_image([[member("small")]], platform=AMD64)
SLOW = build_image([[member("slow", os.urandom(400_000))]], platform=AMD64)
# The first is done before the second stalls; the third fails, and the last waits.
NAMES = ("a/done:1", "a/none:1", "a/slow:1", "a/waits:1")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.chdir(tmp_path)
    clear_foreign_variables(monkeypatch, tmp_path)
    with FakeRegistry() as registry:
        for repository, image in (("a/done", SMALL), ("a/slow", SLOW), ("a/waits", SMALL)):
            image.serve(registry, repository, "1")
        Path("list").write_text("".join(f"{registry.host}/{name}\n" for name in NAMES))
        yield registry


def left_of(registry: FakeRegistry) -> list[str]:
    lines = Path("failed.txt").read_text().replace(registry.host, "HOST").splitlines()
    return [line.removeprefix("HOST/") for line in lines if not line.startswith("#")]


@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        (("pull", "-o", "layout"), signal.SIGTERM, 143),
        (("unpack", "trees", "--rootless"), signal.SIGINT, 130),
        (("unpack", "--into", "trees", "--rootless"), signal.SIGTERM, 143),
        (("push", "TO/p"), signal.SIGINT, 130),
        (("pull", "-o", "layout.tar"), signal.SIGTERM, 143),
    ],
    ids=str,
)
def test_what_is_left_to_do_is_listed(
    registry: FakeRegistry, tmp_path: Path, words: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    is_archive = "layout.tar" in words
    if is_archive:  # it has all images or none
        Path("list").write_text(Path("list").read_text().replace(f"{registry.host}/a/none:1\n", ""))
    registry.misbehave(SLOW.layers[0].digest.encoded, Fault(stall_after=200_000, delay_seconds=60))
    with FakeRegistry() as to:
        words = tuple(word.replace("TO", to.host) for word in words)
        with subprocess.Popen(
            command_line(*words, "--list", "list", "--retry-times", "0", "--platform", "linux/amd64"),
            env=command_environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            try:
                wait_for(lambda: registry.faults_met > 0)
                time.sleep(0.3)  # the images beside it are complete, and the failed one is told
                command.send_signal(number)
                said = command.communicate(timeout=30)[1]
            finally:
                command.kill()
        assert command.returncode == code, said
        assert said.splitlines()[-1] == f"ociexport: error: {'interrupted' if code == 130 else 'terminated'}"
        left = left_of(registry)
        assert f"{'0' if is_archive else '1'} failed; failed.txt lists them" in said
        assert "a/slow:1" in left
        assert ("a/none:1" in left) == (not is_archive)
        assert is_archive or "a/done:1" not in left
        # What is listed is the next run's list.
        registry.behave()
        SMALL.serve(registry, "a/none", "1")
        assert main([*words, "--list", "failed.txt", "--platform", "linux/amd64"]) == 0
        assert not Path("failed.txt").exists()


@pytest.mark.parametrize("words", [("-o", "a.tar"), ("-o", "layout", "--dry-run")], ids=str)
def test_an_executor_that_would_be_ignored_is_refused(
    registry: FakeRegistry, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["pull", "--list", "list", "--executor", "processes:1", *words]) == 2
    got = "no --dry-run beside it" if "--dry-run" in words else "a layout for --out, got an archive"
    assert f"ociexport: error: --executor: expected {got}" in capsys.readouterr().err
    assert registry.requests == []


def test_a_configured_executor_is_for_layouts_alone(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("list").write_text(f"{registry.host}/a/done:1\n")
    monkeypatch.setenv("OCIEXPORT_EXECUTOR", "processes:1")
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
    assert main(["pull", "--list", "list", "-o", "a.tar"]) == 0


def test_a_mistake_writes_no_list(registry: FakeRegistry) -> None:
    assert main(["push", "--list", "list", registry.host, "--map", "*=x"]) == 2
    assert not Path("failed.txt").exists()


@pytest.mark.parametrize("what", ["kill a worker", "end all processes"])
def test_workers_that_end_are_told_in_a_line(registry: FakeRegistry, tmp_path: Path, what: str) -> None:
    """A worker is killed for want of memory, or a service manager ends all processes of the service."""
    registry.misbehave(SLOW.layers[0].digest.encoded, Fault(stall_after=200_000, delay_seconds=20))
    words = ("--executor", "processes:1", "--platform", "linux/amd64")
    with subprocess.Popen(
        command_line("pull", "--list", "list", "-o", "layout", *words),
        env=command_environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        try:
            wait_for(lambda: registry.faults_met > 0)
            if what == "end all processes":
                os.killpg(command.pid, signal.SIGTERM)
            else:
                children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
                (worker,) = (pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
                os.kill(int(worker), signal.SIGKILL)
            said = command.communicate(timeout=15)[1]
        finally:
            os.killpg(command.pid, signal.SIGKILL) if command.poll() is None else None
    assert "Traceback" not in said
    if what == "kill a worker":
        assert command.returncode == 1
        assert "ociexport: error: --executor: expected workers that end their images, got BrokenProcessPool" in said
    else:
        assert command.returncode == 143
    assert {"a/slow:1", "a/waits:1"} <= set(left_of(registry))


def test_workers_end_with_a_command_that_is_killed(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.misbehave(SLOW.layers[0].digest.encoded, Fault(stall_after=200_000, delay_seconds=20))
    words = ("--executor", "processes:1", "--platform", "linux/amd64")
    with subprocess.Popen(
        command_line("pull", "--list", "list", "-o", "layout", *words),
        env=command_environment(tmp_path),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as command:
        try:
            wait_for(lambda: registry.faults_met > 0)
            command.kill()
            command.wait(timeout=10)
            wait_for(lambda: not is_any_left(command.pid), 10)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)


def test_what_is_stored_is_named_when_the_reader_of_the_lines_ends(tmp_path: Path) -> None:
    """The command ends at a line that it can't print, while the workers go on."""
    images = {str(number): build_image([[member(f"own {number}")]], platform=AMD64) for number in range(24)}
    with FakeRegistry(round_trip_seconds=0.03) as registry:
        (tmp_path / "list").write_text(
            "".join(image.serve(registry, "app", tag) + "\n" for tag, image in images.items())
        )
        words = ("pull", "-q", "--list", tmp_path / "list", "-o", tmp_path / "layout", "--platform", "linux/amd64")
        with subprocess.Popen(
            command_line(*words, "--executor", "processes:2"),
            env=command_environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
        ) as command:
            assert command.stdout is not None
            command.stdout.readline()
            command.stdout.close()
            assert command.wait(timeout=60) == 141
    blobs = {path.name for path in (tmp_path / "layout/blobs/sha256").iterdir()}
    stored = {tag for tag, image in images.items() if image.digest.encoded in blobs}
    assert {name.tag for _, name in ImageLayout(tmp_path / "layout").read_images()} == stored
    assert 0 < len(stored) < len(images)
    assert own_files(tmp_path / "layout") == set()


def is_any_left(group: int) -> bool:
    """Whether a process of the group runs; one that has ended and waits for init to notice does not."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            if its_group == str(group) and state != "Z":
                return True
    return False
