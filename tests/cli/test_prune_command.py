"""`ociexport prune`: a plan first, ``--yes`` to do it, and one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import run_command
from tests.support.damaged_layout import DamagedLayout
from tests.support.image_builder import BuiltImage, build_image
from tests.support.memory_source import member


def image_of(day: int) -> BuiltImage:
    layers = [[member("shared")], [member(f"own-{day}")]]
    return build_image(layers, edit_config=lambda config: config.update(created=f"2024-01-{day:02}T00:00:00Z"))


ONE, TWO = image_of(1), image_of(2)


@pytest.fixture
def layout(tmp_path: Path) -> DamagedLayout:
    return DamagedLayout(tmp_path / "layout").write(one=ONE, two=TWO)


def blobs(layout: DamagedLayout) -> set[str]:
    return {path.name for path in (layout.path / "blobs").glob("*/*")}


def encoded(*images: BuiltImage) -> set[str]:
    return {digest.encoded for image in images for digest in image.all_digests}


def test_command_plans_first_and_removes_with_yes(layout: DamagedLayout, tmp_path: Path) -> None:
    gone = sorted(encoded(ONE) - encoded(TWO))
    sizes = {name: (layout.path / "blobs" / "sha256" / name).stat().st_size for name in gone}
    expected = {
        "jsonVersion": 1,
        "command": "prune",
        "layout": str(layout.path),
        "dryRun": True,
        "droppedNames": [{"name": "one", "digest": str(ONE.digest)}],
        "keptNames": [{"name": "two", "digest": str(TWO.digest)}],
        "dropped": [{"path": f"blobs/sha256/{name}", "size": sizes[name]} for name in gone],
        "droppedBytes": sum(sizes.values()),
        "freedBytes": sum(sizes.values()),
        "keptBlobs": 4,
        "notes": [],
    }
    planned = run_command("prune", layout.path, "--keep", "-", "--json", home=tmp_path, stdin="two\n")
    assert (planned.returncode, json.loads(planned.stdout)) == (0, expected)
    plan = run_command("prune", layout.path, "--keep-newest", "1", home=tmp_path)
    lines = [f"one  {ONE.digest}", *(f"blobs/sha256/{name}" for name in gone)]
    assert plan.stdout.splitlines() == lines
    size = f"{sum(sizes.values()) / 1000:.1f} kB"
    assert plan.stderr == (
        f"ociexport: {layout.path}: 1 name and 3 files would be removed, {size}; 1 name and 4 blobs kept; "
        "--yes removes them\n"
    )
    assert blobs(layout) == encoded(ONE, TWO)
    done = run_command("prune", layout.path, "--keep-newest", "1", "--yes", home=tmp_path)
    assert (done.returncode, done.stdout) == (0, plan.stdout)
    assert done.stderr == f"ociexport: {layout.path}: 1 name and 3 files removed, {size}; 1 name and 4 blobs kept\n"
    assert blobs(layout) == encoded(TWO)
    again = run_command("prune", layout.path, "--keep-newest", "1", "--yes", home=tmp_path)
    assert again.stderr == f"ociexport: {layout.path}: nothing to remove, 1 name and 4 blobs kept\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "prune: expected one of --keep LIST and --keep-newest N, got none"),
        (["--keep", "x", "--keep-newest", "1"], "prune: expected one of --keep LIST and --keep-newest N, got both"),
        (["--keep-newest", "0"], "--keep-newest: expected a number above 0, got '0'"),
    ],
)
def test_one_rule_is_required(layout: DamagedLayout, tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = run_command("prune", layout.path, *arguments, home=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, f"ociexport: error: {message}")


def test_list_that_is_no_text(layout: DamagedLayout, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"one\n\xff\n")
    ended = run_command("prune", layout.path, "--keep", tmp_path / "list", "--yes", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"ociexport: error: {tmp_path}/list: line 2: expected UTF-8, got '\\xff'\n",
    )
    missing = run_command("prune", layout.path, "--keep", tmp_path / "none", "--yes", home=tmp_path)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (3, 1)


def test_hostile_name_is_shown_safely(layout: DamagedLayout, tmp_path: Path) -> None:

    def rename(index: dict[str, list[dict[str, object]]]) -> None:
        index["manifests"][1]["annotations"] = {"org.opencontainers.image.ref.name": "\x1b[31mred\nline"}

    layout.edit_index(rename)
    (tmp_path / "list").write_text("one\n")
    ended = run_command("prune", layout.path, "--keep", tmp_path / "list", home=tmp_path)
    assert ended.stdout.splitlines()[0] == rf"\x1b[31mred\nline  {TWO.digest}"
