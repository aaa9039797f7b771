"""The picture in the README is a recording of a real terminal, without scripts."""

from __future__ import annotations

import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ociexport.cli.commandline import parse_command_line
from tests.support.document_blocks import PROJECT, workplace
from tests.support.recording import COMMANDS, Frame, record, svg_of
from tests.support.system_parts import require

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.system
@pytest.mark.slow
def test_what_the_terminal_showed_is_recorded(tmp_path: Path) -> None:
    require("bash", "busybox", "setsid")
    with workplace(tmp_path) as place:
        frames = record(place, [*COMMANDS[:2], "cat ./rootfs/srv/app"])
    shown = [line for frame in frames for line in frame.lines]
    assert "$ ocie" in shown
    assert any(line.startswith("ociexport: unpacking layer 2/2 ") for line in shown)
    assert [line for line in frames[-1].lines if line][-4:] == [
        "$ cat ./rootfs/srv/app",
        "#!/bin/sh",
        "echo app 1",
        "$",
    ]
    assert [frame.seconds for frame in frames] == sorted(frame.seconds for frame in frames)


def test_picture_shows_frames_in_turn_and_the_last_where_nothing_moves() -> None:
    frames = [Frame(10.0, ("$ <a> & b", "")), Frame(11.0, ("$ <a> & b", "  done"))]
    picture = ElementTree.fromstring(svg_of(frames))
    texts = {text.get("id"): text.text for text in picture.iter(f"{_SVG}text")}
    shown = [texts[str(use.get("href"))[1:]] for use in picture.iter(f"{_SVG}use")]
    assert shown == ["$ <a> & b", "$ <a> & b", "  done"]
    (column,) = (group for group in picture.iter(f"{_SVG}g"))
    height = int(str(picture.get("height")))
    assert column.get("transform") == f"translate(0 {-height})"
    (style,) = picture.iter(f"{_SVG}style")
    steps = f"0.000%{{transform:translateY(0px)}}20.000%{{transform:translateY({-height}px)}}"
    assert f"@keyframes roll {{{steps}}}" in str(style.text)


def test_picture_in_the_readme_is_of_commands_that_there_are() -> None:
    """Web pages show images without scripts or external resources, so the picture has none."""
    assert "(docs/recording.svg)" in (PROJECT / "README.md").read_text()
    picture = ElementTree.fromstring((PROJECT / "docs" / "recording.svg").read_text())
    assert {element.tag.removeprefix(_SVG) for element in picture.iter()} <= {
        *("svg", "title", "style", "defs", "text", "rect", "g", "use"),
    }
    assert all(str(use.get("href")).startswith("#") for use in picture.iter(f"{_SVG}use"))
    lines = {str(text.text) for text in picture.iter(f"{_SVG}text")}
    for command in COMMANDS:
        assert f"$ {command}" in lines
        program, *words = shlex.split(command)
        if program == "ociexport":
            parse_command_line(words)
