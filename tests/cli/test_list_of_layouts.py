"""A list entry that is a layout or an archive stands for all its images, as on the command line of `pull`.

Source: issue 18, "Lists and locks".
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ociexport.cli.main import main
from tests.support.command import clear_foreign_variables
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, build_image, write_layout
from tests.support.memory_source import member

APP = build_image([[member("app")]], platform=AMD64)
WEB = build_image([[member("web")]], platform=AMD64)
# One is no name that a line could have, or a terminal should show.
NAMES = {"docker.io/library/app:1": APP, "quay.io/team/web:2": WEB, "x\nFROM\x1b[31m": WEB}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    clear_foreign_variables(monkeypatch, tmp_path)
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
    monkeypatch.chdir(tmp_path)
    write_layout("in", NAMES)
    Path("list").write_text("./in\n")
    return tmp_path


def listed(layout: str) -> list[str]:
    entries = json.loads(Path(layout, "index.json").read_bytes())["manifests"]
    names = (entry["annotations"] for entry in entries)
    return [one.get("io.containerd.image.name") or one["org.opencontainers.image.ref.name"] for one in names]


@pytest.mark.parametrize("kind", ["layout", "archive"])
def test_all_its_images_are_pulled(kind: str) -> None:
    if kind == "archive":
        assert main(["pull", "./in", "-o", "in.tar"]) == 0
        Path("list").write_text("./in.tar\n")
    assert main(["pull", "--list", "list", "-o", "out"]) == 0
    assert main(["pull", "./in", "-o", "beside"]) == 0
    assert sorted(listed("out")) == sorted(listed("beside"))
    assert len(listed("out")) == 3


def test_each_of_its_images_is_verified_unpacked_locked_and_pushed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--list", "list"]) == 0
    assert main(["unpack", "--list", "list", "trees", "--rootless"]) == 0
    assert sorted(path.name for path in Path("trees").iterdir()) == [
        "docker.io+library+app+1",
        "quay.io+team+web+2",
        r"x\nFROM\x1b[31m",
    ]
    write_layout("in", dict(list(NAMES.items())[:2]))
    capsys.readouterr()
    assert main(["lock", "list"]) == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == [*NAMES][:2]
    with FakeRegistry() as registry:
        assert main(["push", "--list", "list", registry.host]) == 0
        assert registry.manifests["quay.io/team/web", "2"][0] == WEB.raw


def test_only_the_image_that_fails_is_in_the_list_of_failures() -> None:
    Path("in/blobs/sha256", WEB.layers[0].digest.encoded).unlink()
    assert main(["pull", "--list", "list", "-o", "out"]) == 3
    assert listed("out") == ["docker.io/library/app:1"]
    lines = [line for line in Path("failed.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted(["./in:quay.io/team/web:2", f"./in:@{WEB.digest}"])
    write_layout("in", NAMES)
    assert main(["pull", "--list", "failed.txt", "-o", "out"]) == 0
    assert listed("out") == [*NAMES][:2]  # the last of them has the digest of the second


def test_a_layout_that_is_missing_is_one_failure() -> None:
    Path("list").write_text("./gone\n./in:docker.io/library/app:1\n")
    assert main(["pull", "--list", "list", "-o", "out"]) == 3
    assert listed("out") == ["docker.io/library/app:1"]
    assert Path("failed.txt").read_text().splitlines()[-1] == "./gone"
