"""Lists that are given together are united: none is left out in silence, and one image is one image.

Source: issue 18, "Lists and locks".
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.spec.descriptor import Platform
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_image, build_index, write_layout
from tests.support.memory_source import member

S390X = Platform("linux", "s390x")


def image_of(name: str, platform: Platform = AMD64) -> BuiltImage:
    return build_image([[member(name)]], platform=platform)


ONE, TWO = image_of("one"), image_of("two")
MULTI = build_index([image_of("x"), image_of("y", ARM64), image_of("z", S390X)])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
    write_layout(tmp_path / "far", {"example.org/one:1": ONE, "example.org/two:1": TWO, "example.org/multi:1": MULTI})
    for name in ("one", "two", "multi"):
        (tmp_path / name).write_text(f"./far:example.org/{name}:1\n")
    return tmp_path


def names_in(layout: Path) -> list[str]:
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    return sorted(entry["annotations"]["io.containerd.image.name"] for entry in entries)


BOTH = ["example.org/one:1", "example.org/two:1"]


def pulled(here: Path, *lists: str) -> list[str]:
    assert main(["pull", "-q", *lists, "--out", "./to"]) == 0
    return names_in(here / "to")


def test_each_list_is_pulled(here: Path) -> None:
    """An option that replaced the one before it would leave the first list out, and say nothing."""
    assert pulled(here, "--list", "one", "--list", "two", "--list", "one") == BOTH


def test_each_list_is_locked_and_each_lock_pulled(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["one", "two"], ["--list", "one", "--list", "two"], ["one", "--list", "two"]):
        assert main(["lock", "-q", *words]) == 0
        locked = capsys.readouterr().out.splitlines(keepends=True)
        assert [json.loads(line)["name"] for line in locked] == BOTH
    for number, line in enumerate(locked):
        (here / f"{number}.lock").write_text(line)
    assert pulled(here, "--locked", "0.lock", "--locked", "1.lock") == BOTH


@pytest.mark.parametrize("words", [["--locked", "1.lock", "--locked", "2.lock"], ["--list", "both.lock"]], ids=str)
def test_two_locks_of_one_name_are_refused(here: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """A lock and that of a week later: the layout would list one of the two by chance."""
    for number, image in enumerate((ONE, TWO), 1):
        write_layout(here / "week", {"example.org/one:1": image})
        (here / "list").write_text("./week:example.org/one:1\n")
        assert main(["lock", "-q", "list"]) == 0
        (here / f"{number}.lock").write_text(capsys.readouterr().out)
        shutil.rmtree(here / "week")
    (here / "both.lock").write_text((here / "1.lock").read_text() + (here / "2.lock").read_text())
    assert main(["pull", *words, "--out", "./to"]) == 2
    first, second = ("1.lock:1", "2.lock:1") if "--locked" in words else ("both.lock:1", "both.lock:2")
    assert (
        f"error: {second}: expected example.org/one:1 with {ONE.digest} as in {first}, got {TWO.digest}\n"
        in capsys.readouterr().err
    )
    assert not (here / "to").exists()


def test_each_list_is_kept(here: Path) -> None:
    """A list that is left out would have its images removed."""
    assert main(["prune", "./far", "--keep", "one", "--keep", "two", "--yes"]) == 0
    assert names_in(here / "far") == BOTH


@pytest.mark.parametrize(
    "command",
    ["pull --out ./to --list - --list -", "lock - -", "verify --list - --list -", "prune ./far --keep - --keep -"],
)
def test_standard_input_is_one_list(here: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(command.split()) == 2
    assert ": expected standard input once, got it twice" in capsys.readouterr().err
    assert len(names_in(here / "far")) == 3


def test_a_list_that_names_no_image_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "none").write_text("# nothing\n")
    assert pulled(here, "--list", "none", "--list", "one") == ["example.org/one:1"]
    assert "warning: none: names no image" in capsys.readouterr().err


MULTI_HERE = "./far:example.org/multi:1"


@pytest.mark.parametrize(
    ("lines", "platforms"),
    [
        (["platform=linux/arm64", "platform=linux/amd64"], ["linux/arm64", "linux/amd64"]),
        (["platform=linux/arm64", ""], ["linux/arm64", "linux/amd64"]),
        (["", "platform=linux/s390x,linux/amd64"], ["linux/amd64", "linux/s390x"]),
        (["platform=linux/arm64", "platform=all"], ["linux/amd64", "linux/arm64", "linux/s390x"]),
        (["platform=linux/arm64", "platform=linux/arm64"], ["linux/arm64"]),
    ],
)
def test_one_image_has_the_platforms_of_all_its_lines(
    here: Path, capsys: pytest.CaptureFixture[str], lines: list[str], platforms: list[str]
) -> None:
    """A layout has one place for a name: each line by itself would take it from the one before."""
    (here / "list").write_text("".join(f"{MULTI_HERE} {line}\n" for line in lines))
    assert main(["pull", "-q", "--list", "list", "--out", "./to"]) == 0
    capsys.readouterr()
    assert main(["report", "./to", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert sorted(one["platform"] for one in image["platforms"]) == sorted(platforms)
    assert main(["lock", "-q", "list"]) == 0
    locked = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(one["platform"] for one in image["platforms"]) for image in locked] == [sorted(platforms)]


def test_services_on_two_platforms_have_two_directories(here: Path) -> None:
    (here / "list").write_text(f"{MULTI_HERE} platform=linux/arm64\n{MULTI_HERE} platform=linux/s390x\n")
    assert main(["unpack", "-q", "--list", "list", "./roots"]) == 0
    assert {next(one.iterdir()).name for one in (here / "roots").iterdir()} == {"y", "z"}


def test_an_error_of_a_list_names_its_image(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of several images that fail, each message by itself tells which one it is."""
    (here / "list").write_text(f"{MULTI_HERE} platform=linux/mips64\n./far:example.org/one:1 platform=linux/arm64\n")
    assert main(["pull", "-q", "--list", "list", "--out", "./to"]) == 10
    told = [line for line in capsys.readouterr().err.splitlines() if ": error: " in line]
    assert sorted(line.partition(": manifest sha256:")[0] for line in told) == [
        f"ociexport: error: image {MULTI_HERE}",
        "ociexport: error: image ./far:example.org/one:1",
    ]


def test_a_list_of_failures_that_can_not_be_written_hides_no_failure(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "list").write_text(f"{MULTI_HERE} platform=linux/mips64\n./far:example.org/one:1\n")
    assert main(["pull", "--list", "list", "--out", "./to", "--failed", "./none/failed.txt"]) == 10
    told = capsys.readouterr().err
    assert "ociexport: error: ./none/failed.txt: No such file or directory\n" in told
    assert "1 of 2 images failed; they are listed nowhere\n" in told
    assert names_in(here / "to") == ["example.org/one:1"]


def platforms_in(place: str, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    capsys.readouterr()
    assert main(["report", place, "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    return {one["names"][0]: sorted(part["platform"] for part in one["platforms"]) for one in images}


EACH_ITS_OWN = {
    "example.org/one:1": ["linux/amd64"],
    "example.org/multi:1": ["linux/arm64", "linux/s390x"],
}


def test_an_archive_takes_each_image_for_its_own_platform(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "list").write_text(f"./far:example.org/one:1\n{MULTI_HERE} platform=linux/arm64,linux/s390x\n")
    assert main(["pull", "-q", "--list", "list", "--out", "a.tar"]) == 0
    assert platforms_in("./a.tar", capsys) == EACH_ITS_OWN
    assert main(["lock", "-q", "list"]) == 0
    (here / "images.lock").write_text(capsys.readouterr().out)
    assert main(["pull", "-q", "--locked", "images.lock", "--out", "b.tar", "--volume-size", "64k"]) == 0
    assert platforms_in("./b.1-of-1.tar", capsys) == EACH_ITS_OWN


@pytest.mark.parametrize("out", ["./to", "a.tar"])
def test_a_plan_has_each_image_for_its_own_platform(here: Path, capsys: pytest.CaptureFixture[str], out: str) -> None:
    (here / "list").write_text(
        f"./far:example.org/one:1\n{MULTI_HERE} platform=linux/arm64\n./far:example.org/two:1 platform=linux/amd64\n"
    )
    assert main(["pull", "-q", "--list", "list", "--out", out, "--dry-run", "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    taken = [part["platform"]["architecture"] for one in images for part in one["manifests"]]
    assert taken == ["amd64", "arm64", "amd64"]


def test_a_plan_of_a_list_goes_on_after_what_can_not_be_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "list").write_text("./none\n./far:example.org/one:1\n")
    assert main(["pull", "--list", "list", "--out", "./to", "--dry-run"]) == 3
    out, err = capsys.readouterr()
    assert "image ./far:example.org/one:1: " in out
    assert "1 of 2 images failed\n" in err
    assert not (here / "failed.txt").exists()


@pytest.mark.parametrize("words", ["--out a.tar", "--out ./to --dry-run"])
def test_the_image_that_ends_an_archive_or_a_plan_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    (here / "list").write_text(f"./far:example.org/one:1\n{MULTI_HERE} platform=linux/mips64\n")
    assert main(["pull", "-q", "--list", "list", *words.split()]) == 10
    assert f"ociexport: error: {MULTI_HERE}: manifest sha256:" in capsys.readouterr().err
