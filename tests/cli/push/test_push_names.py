"""`ociexport push`: the names that images get, and a push that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ociexport.spec import mediatypes
from tests.support.command import command_environment, command_line
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import (
    build_image,
    write_layout,
)
from tests.support.pushed_images import APP, MIB, OTHER, Push, errors_of


def test_names_are_mapped(registry: FakeRegistry, layout: Path, tmp_path: Path, push: Push) -> None:
    rules = tmp_path / "rules"
    rules.write_text("# ours\nquay.io/*/other:2 = */renamed:two  # with a tag\n")
    ended = push(layout, f"{registry.host}/p", "--map", "docker.io/library/*=mirror/hub/*", "--map", rules)
    assert ended.returncode == 0, ended.stderr
    assert [line.rpartition("@")[0] for line in ended.stdout.splitlines()] == [
        f"{registry.host}/p/mirror/hub/app:1",
        f"{registry.host}/p/team/renamed:two",
    ]


def test_two_names_that_become_one_are_an_error_before_any_request(
    registry: FakeRegistry, tmp_path: Path, push: Push
) -> None:
    write_layout(tmp_path / "layout", {"docker.io/library/app:1": APP, "quay.io/team/app:1": OTHER})
    ended = push(tmp_path / "layout", registry.host, "--map", "docker.io/library/*=x/*", "--map", "quay.io/team/*=x/*")
    assert ended.returncode == 2
    assert "expected one image with this name, got two" in errors_of(ended)[0]
    assert registry.requests == []


@pytest.mark.parametrize(
    "rule", ["docker.io/*/*=x/*", "=x", "a*=", "docker.io/library/*=UPPER/*", "gcr.io/*=x/*", "docker.io/library/*=*:*"]
)
def test_a_wrong_rule_is_an_error_before_any_request(
    registry: FakeRegistry, layout: Path, push: Push, rule: str
) -> None:
    ended = push(layout, registry.host, "--map", rule)
    assert (ended.returncode, registry.requests) == (2, [])
    assert "--map" in errors_of(ended)[0]


@pytest.mark.parametrize("target", ["team/app", "localhost:5000/UPPER", "localhost:5000/a@sha256:00", "/x", "a b.c/d"])
def test_a_wrong_target_is_an_error(layout: Path, push: Push, target: str) -> None:
    ended = push(layout, target)
    assert ended.returncode == 2
    assert "expected REGISTRY[/PREFIX]" in errors_of(ended)[0]


_COUNT_READS = """
import sys
from ociexport.cli.main import main

opened = []
sys.addaudithook(lambda event, values: opened.append(values[0]) if event == "open" else None)
main(sys.argv[1:])
print(sum(str(path).endswith("index.json") for path in opened))
"""


@pytest.mark.parametrize("words", [(), ("--list", "LIST")], ids=["all images", "a list"])
def test_a_layouts_index_is_read_as_often_for_many_images_as_for_one(
    registry: FakeRegistry, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Read again for each image, the time of a push grew with the square of their number."""
    names = [f"docker.io/library/app:{number}" for number in range(20)]
    counts = []
    for some in (names[:2], names):
        (tmp_path / "LIST").write_text("".join(f"{name}\n" for name in some))
        write_layout(tmp_path / "many", dict.fromkeys(some, APP))
        ended = subprocess.run(
            [sys.executable, "-c", _COUNT_READS, "push", "./many", registry.host, "--dry-run", *words],
            cwd=tmp_path,
            env=command_environment(tmp_path, PYTHONPATH=str(Path(__file__).parents[3])),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        counts.append(ended.stdout.splitlines()[-1])
    assert counts[0] == counts[1]
    assert int(counts[0]) > 0


# The next run


def test_a_push_that_was_killed_goes_on(tmp_path: Path, push: Push) -> None:
    """Cut at 60 % and killed: at most one chunk is sent twice."""
    image = build_image([os.urandom(40 * MIB)], compression="plain")
    write_layout(tmp_path / "big", {"docker.io/library/big:1": image})
    with FakeRegistry() as registry:
        registry.uploads.bytes_per_second = 40 * MIB
        command = command_line("push", tmp_path / "big", registry.host)
        with subprocess.Popen(command, env=command_environment(tmp_path), stderr=subprocess.DEVNULL) as process:
            while registry.uploads.arriving_bytes < 24 * MIB:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        saved = list((tmp_path / "big" / ".ociexport" / "uploads").iterdir())
        assert [path.stat().st_mode & 0o777 for path in saved] == [0o600]
        for _ in range(500):
            if any(body.length > MIB for body in registry.uploads.bodies):
                break
            time.sleep(0.01)
        assert push(tmp_path / "big", registry.host).returncode == 0
        assert registry.manifests["docker.io/library/big", "1"][0] == image.raw
        assert registry.uploads.received_bytes <= sum(map(len, image.blobs.values())) + 16 * MIB
        assert not (tmp_path / "big" / ".ociexport").exists()


def test_a_layout_that_keeps_nothing_is_pushed_all_the_same(registry: FakeRegistry, tmp_path: Path, push: Push) -> None:
    image = build_image([os.urandom(2 * MIB)], compression="plain")
    write_layout(tmp_path / "big", {"docker.io/library/big:1": image})
    (tmp_path / "big" / ".ociexport").write_text("in the way")
    assert push(tmp_path / "big", registry.host).returncode == 0
    assert (tmp_path / "big" / ".ociexport").read_text() == "in the way"
    assert registry.manifests["docker.io/library/big", "1"][1] == mediatypes.OCI_MANIFEST
