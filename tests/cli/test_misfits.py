"""Configured defaults that don't fit a command line are ignored; the same option on the command line is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ociexport.cli.commandline import parse_command_line
from ociexport.cli.options.platform import named_choice_from
from ociexport.cli.options.registry import registry_options_from
from tests.support.command import run_command
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member

IMAGE = build_image([[member("a", b"1")]])


@pytest.mark.parametrize(
    ("configured", "words", "option"),
    [
        ({"CACHE": "cache"}, ["pull", "layout", "--out", "x.tar"], ["--cache", "cache"]),
        ({"CACHE": "cache"}, ["pull", "layout", "--out", "x", "--format", "docker-archive"], ["--cache=cache"]),
        ({"LEGACY": "true"}, ["pull", "layout", "--out", "x"], ["--legacy"]),
        ({"REFERRERS": "true"}, ["pull", "layout", "--out", "x", "--decompress"], ["--referrers"]),
        ({"NULL": "true"}, ["ls", "layout", "--layers"], ["-0"]),
        ({"RECURSIVE": "true", "DIRECTORY": "true"}, ["ls", "layout", "--layers"], ["-Rd"]),
        ({"LONG": "true"}, ["ls", "layout", "--null"], ["-l"]),
    ],
)
def test_default_that_does_not_fit_is_left_out(
    tmp_path: Path, configured: dict[str, str], words: list[str], option: list[str]
) -> None:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    words = [str(tmp_path / word) if word in ("layout", "x", "x.tar") else word for word in words]
    variables = {f"OCIEXPORT_{name}": value for name, value in configured.items()}
    ended = run_command(*words, home=tmp_path, variables=variables)
    assert (ended.returncode, "error" in ended.stderr) == (0, False)
    assert not (tmp_path / "cache").exists()
    given = run_command(*words, *option, home=tmp_path, variables=variables)
    assert given.returncode == 2


def test_default_that_fits_counts(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    words = ["pull", f"{tmp_path}/layout", "--out", str(tmp_path / "x")]
    assert run_command(*words, home=tmp_path, variables={"OCIEXPORT_CACHE": f"{tmp_path}/cache"}).returncode == 0
    assert os.listdir(tmp_path / "cache") == ["blobs"]


@pytest.mark.parametrize(
    ("variables", "words", "shown"),
    [
        ({"OCIEXPORT_PLATFORM": "linux/arm64"}, ["--all"], ()),
        ({"OCIEXPORT_ALL": "true"}, ["--platform", "linux/arm64"], ("linux/arm64",)),
    ],
)
def test_platforms_that_are_given_replace_those_that_are_configured(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: list[str], shown: tuple[str, ...]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    choice = named_choice_from(parse_command_line(["pull", "a", "--out", "x", *words]))
    assert choice is not None
    assert tuple(map(str, choice.platforms)) == shown


def test_mirrors_that_are_configured_are_not_for_the_first_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCIEXPORT_MIRROR", "https://mirror.example")
    assert registry_options_from(parse_command_line(["pull", "a", "--out", "x", "--v1"])).mirrors == ()
    assert registry_options_from(parse_command_line(["pull", "a", "--out", "x"])).mirrors != ()
