r"""A byte of a file name that is not UTF-8 is shown as ``\xff`` in all that people and programs read of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command import command_environment, command_line
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member

OTHER = os.fsdecode(b"no\xff")
SHOWN = r"no\xff"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_layout(tmp_path / OTHER, {"1": build_image([[member("f", b"1")]])})
    write_layout(tmp_path / "damaged", {"1": build_image([[member("../f", b"1")]])})
    return tmp_path


def run(place: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command_line(*words), env=command_environment(place), cwd=place, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["unpack", f"./{OTHER}", f"{OTHER}/x/y"], 3, rf"error: '{{place}}/{SHOWN}/x': expected a directory, got none"),
        (
            ["unpack", f"./{OTHER}", OTHER],
            2,
            rf"error: '{{place}}/{SHOWN}': expected no file or an empty",
        ),
        (["unpack", f"./{OTHER}", f"r{OTHER}"], 0, f"./{SHOWN}"),
        (["unpack", f"./{OTHER}2", "r"], 3, f"./{SHOWN}2"),
        (["unpack", "-q", "./damaged", f"r{OTHER}"], 8, r"error: layer 1 of 1"),
        (["pull", f"./{OTHER}", "-o", f"{OTHER}3"], 0, f"./{SHOWN}"),
        (["pull", f"./{OTHER}", "-o", f"{OTHER}/index.json/x"], 2, f"{SHOWN}/index.json"),
        (["verify", f"./{OTHER}"], 0, f"./{SHOWN}"),
        (["verify", f"./{OTHER}2"], 3, SHOWN),
        (["rm", f"{OTHER}2"], 3, SHOWN),
        (["unpack", f"--{OTHER}"], 2, f"unknown option '--{SHOWN}'"),
        (["unpack", "--xattrs", OTHER, "./damaged", "r"], 2, SHOWN),
        ([OTHER], 2, SHOWN),
    ],
)
def test_messages_show_the_byte(place: Path, words: list[str], code: int, line: str) -> None:
    platform = ["--platform=linux/amd64"] if words[0] in ("pull", "unpack") and code != 2 else []
    ended = run(place, *words, *platform)
    text = ended.stderr.decode("utf-8", "strict")
    assert (ended.returncode, line.format(place=place) in text) == (code, True), text
    assert r"\udc" not in text
    assert text.isascii()


def test_programs_read_the_same(place: Path) -> None:
    words = ("unpack", "--json", "--platform=linux/amd64", "--events=events", "--receipt=receipt", f"./{OTHER}")
    ended = run(place, *words, f"r{OTHER}")
    assert ended.returncode == 0, ended.stderr
    told, receipt = json.loads(ended.stdout), json.loads((place / "receipt").read_bytes())
    assert (told["source"], told["rootfs"]) == (f"./{SHOWN}:1", f"r{SHOWN}")
    assert (receipt["source"], receipt["rootfs"]) == (f"./{SHOWN}:1", f"{place}/r{SHOWN}")
    events = [json.loads(line) for line in (place / "events").read_text().splitlines()]
    said = [event["message"] for event in events if event["event"] == "said"]
    assert any(SHOWN in line for line in said)
    assert r"\udc" not in f"{ended.stdout!r}{(place / 'receipt').read_text()}{(place / 'events').read_text()}"


def test_events_of_a_failure_show_it(place: Path) -> None:
    ended = run(place, "unpack", "--platform=linux/amd64", "--events=events", f"./{OTHER}", f"{OTHER}/x/y")
    assert ended.returncode == 3
    assert r"\udc" not in (place / "events").read_text()


def test_control_characters_of_a_path_do_not_reach_the_terminal(place: Path) -> None:
    ended = run(place, "unpack", "--platform=linux/amd64", f"./{OTHER}", "r\x1b[31m\n")
    assert ended.returncode == 0
    assert r"r\x1b[31m\n" in ended.stderr.decode()
    assert b"\x1b" not in ended.stderr
