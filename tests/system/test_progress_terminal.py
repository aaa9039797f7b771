"""Progress on an emulated terminal: bars for running tasks, lines for finished ones."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from tests.support.command import command_environment, command_line
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import BuiltImage, build_image
from tests.support.memory_source import member

IMAGE = build_image([[member("a", os.urandom(1_500_000))], [member("b", os.urandom(600_000))]])
FIRST, SECOND = IMAGE.layers
_ROWS = 24


class Terminal:
    """Runs the command on a terminal of ``columns``, and keeps the screen's content after each piece of output."""

    def __init__(self, home: Path, columns: int) -> None:
        self.home = home
        self.columns = columns
        self.shown: list[list[str]] = []
        self.raw = b""
        self.code = -1

    def run(self, *arguments: str | os.PathLike[str], **variables: str) -> list[str]:
        """Return the lines that are left on the screen."""
        screen = pyte.Screen(self.columns, _ROWS)
        stream = pyte.ByteStream(screen)
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, self.columns, 0, 0))
        environment = command_environment(self.home, **{"TERM": "xterm", **variables})
        environment.pop("COLUMNS")
        with (
            open(leader, "rb", buffering=0) as output,
            subprocess.Popen(
                command_line(*arguments), env=environment, stdin=follower, stdout=subprocess.DEVNULL, stderr=follower
            ) as process,
        ):
            os.close(follower)
            for piece in _pieces(output.read):
                self.raw += piece
                stream.feed(piece)
                self.shown.append([line.rstrip() for line in screen.display])
            self.code = process.wait(60)
        return [line for line in self.shown[-1] if line] if self.shown else []

    @property
    def whole_bars(self) -> list[str]:
        """All lines that showed a bar at some time."""
        return [line for screen in self.shown for line in screen if re.search(r"\d%", line)]


def _pieces(read: Callable[[int], bytes]) -> Iterator[bytes]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            piece = read(65536)
        except OSError:  # no process has the terminal open any more
            return
        if not piece:
            return
        yield piece


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(bytes_per_second=1_000_000) as registry:
        yield registry


def serve(registry: FakeRegistry, image: BuiltImage = IMAGE) -> str:
    return image.serve(registry, "library/app", "1")


def without_wrapping(lines: list[str]) -> str:
    """Return the text written to a terminal of 80 columns; a space at the end of a full line is not kept."""
    return "".join(f"{line} " if len(line) == 79 else line for line in lines)


def test_each_layer_has_a_bar_and_all_of_them_have_one(registry: FakeRegistry, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 80)
    left = terminal.run("pull", serve(registry), "--out", tmp_path / "layout", "--platform=linux/amd64")
    assert terminal.code == 0
    bars = terminal.whole_bars
    assert [bar for bar in bars if re.match(r"fetching: +\d+%\|.*\| [\d.]+[kM]/[\d.]+M \[\d\d:\d\d<.*B/s\]$", bar)]
    for number, layer in ((1, FIRST), (2, SECOND)):
        assert [bar for bar in bars if bar.startswith(f"layer {number}/2 {layer.digest.short}: ")]
    assert max(len(bar) for bar in bars) <= 80
    # Only lines are left, and no bar.
    assert not re.search(r"\d%", "".join(left))
    text = without_wrapping(left)
    assert f"ociexport: layer 1/2 {FIRST.digest.short}: {FIRST.size / 1e6:.1f} MB" in text
    assert re.search(r"3 blobs \(2\.1 MB\) fetched, \d+\.\d s ?$", text)


def test_bars_stand_together(registry: FakeRegistry, tmp_path: Path) -> None:
    """A finished layer leaves no gap above the others."""
    terminal = Terminal(tmp_path, 80)
    terminal.run("pull", serve(registry), "--out", tmp_path / "layout", "--platform=linux/amd64")
    for screen in terminal.shown:
        rows = [number for number, line in enumerate(screen) if re.search(r"\d%\|", line)]
        assert not rows or rows[-1] - rows[0] <= 3


def test_narrow_terminal_shows_numbers(registry: FakeRegistry, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 40)
    terminal.run("pull", serve(registry), "--out", tmp_path / "layout", "--platform=linux/amd64")
    bars = terminal.whole_bars
    assert [bar for bar in bars if re.fullmatch(rf"1/2 {FIRST.digest.short} +\d+% +[\d.?]+[kM]?B/s \d\d:\d\d", bar)]
    assert [bar for bar in bars if re.fullmatch(r"fetching +\d+% +[\d.?]+[kM]?B/s \d\d:\d\d", bar)]
    assert max(len(bar) for bar in bars) <= 40


def test_unpacking_has_bars_too(registry: FakeRegistry, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, 80)
    left = terminal.run("unpack", serve(registry), tmp_path / "rootfs", "--platform=linux/amd64")
    assert [bar for bar in terminal.whole_bars if bar.startswith("unpacking: ")]
    assert re.search(r", 2 entries, 2\.1 MB, \d+\.\d s ?$", without_wrapping(left))


def test_narrow_terminal_has_room_for_the_rate_of_what_is_unpacked(registry: FakeRegistry, tmp_path: Path) -> None:
    """The bar above the layers has the phase's title; each layer shows its remaining time."""
    terminal = Terminal(tmp_path, 40)
    terminal.run("unpack", serve(registry), tmp_path / "rootfs", "--platform=linux/amd64")
    bars = terminal.whole_bars
    assert [bar for bar in bars if re.fullmatch(r"unpacking +\d+% +[\d.?]+[kM]?B/s \d\d:\d\d", bar)]
    assert [bar for bar in bars if re.fullmatch(rf"1/2 {FIRST.digest.short} +\d+% +[\d.?]+[kM]?B/s \d\d:\d\d", bar)]


def test_bars_are_drawn_ten_times_a_second_at_most(registry: FakeRegistry, tmp_path: Path) -> None:
    """The limit is for all bars together; a bar is drawn once more when it starts or ends, or another one ends."""
    image = build_image([[member(f"{number}", os.urandom(500_000))] for number in range(6)])
    reference = serve(registry, image)
    began = time.monotonic()
    terminal = Terminal(tmp_path, 80)
    terminal.run("pull", reference, "--out", tmp_path / "layout", "--platform=linux/amd64", "--jobs=6")
    seconds = time.monotonic() - began
    assert terminal.raw.count(b"%|") <= 10 * seconds + 8 * 8


def test_there_are_no_colours(registry: FakeRegistry, tmp_path: Path) -> None:
    """NO_COLOR changes nothing: "select graphic rendition" is never written."""
    terminal = Terminal(tmp_path, 80)
    terminal.run("pull", serve(registry), "--out", tmp_path / "layout", "--platform=linux/amd64")
    assert not re.search(rb"\x1b\[[\d;]*m", terminal.raw)


@pytest.mark.parametrize("quiet", [["--no-progress"], ["--quiet"], []])
def test_terminal_without_bars(registry: FakeRegistry, tmp_path: Path, quiet: list[str]) -> None:
    terminal = Terminal(tmp_path, 80)
    variables = {} if quiet else {"TERM": "dumb"}
    terminal.run("pull", serve(registry), "--out", tmp_path / "layout", "--platform=linux/amd64", *quiet, **variables)
    assert terminal.code == 0
    assert terminal.whole_bars == []
    assert b"\x1b" not in terminal.raw
    assert (terminal.raw == b"") == (quiet == ["--quiet"])


def test_failed_pull_leaves_no_bar(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = serve(registry)
    del registry.blobs[str(SECOND.digest)]
    terminal = Terminal(tmp_path, 80)
    left = terminal.run("pull", reference, "--out", tmp_path / "layout", "--platform=linux/amd64")
    assert terminal.code == 3
    assert "ociexport: error: " in without_wrapping(left)
    assert not re.search(r"\d%", "".join(left))
