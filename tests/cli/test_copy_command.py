"""`ociexport copy`: any source to any destination, by the code of pull and push."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, ARM64, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.real_tools import skopeo_copy
from tests.support.system_parts import require

Copy: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

IMAGE = build_image([[member("a", b"1")], [member("b", b"2" * 5000)]], platform=AMD64)
INDEX = build_index([IMAGE, build_image([[member("c", b"3")]], platform=ARM64)])


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    def run(source: str, target: str, *words: str) -> subprocess.CompletedProcess[str]:
        variables = {"DOCKER_DEFAULT_PLATFORM": "linux/amd64"}
        return run_command("copy", source, target, *words, home=tmp_path, variables=variables)

    return run


def source_of(kind: str, registry: FakeRegistry, tmp_path: Path, copy: Copy) -> str:
    """Return the index as a source of this kind."""
    name = INDEX.serve(registry, "team/app", "1")
    if kind == "registry":
        return name
    place = {"layout": f"oci:{tmp_path}/in", "archive": f"{tmp_path}/in.tar", "dir": f"dir:{tmp_path}/in"}[kind]
    ended = copy(name, place, "--all")
    assert ended.returncode == 0, ended.stderr
    return place


@pytest.mark.parametrize("target", ["registry", "layout", "archive", "dir"])
@pytest.mark.parametrize("source", ["registry", "layout", "archive", "dir"])
def test_any_source_goes_to_any_destination(
    registry: FakeRegistry, tmp_path: Path, copy: Copy, source: str, target: str
) -> None:
    """The copy is read back as a source; the index is the published one, byte for byte."""
    places = {
        "registry": f"docker://{registry.host}/copy/app:2",
        "layout": f"oci:{tmp_path}/out:2",
        "archive": f"oci-archive:{tmp_path}/out.tar:2",
        "dir": f"dir:{tmp_path}/out",
    }
    ended = copy(source_of(source, registry, tmp_path, copy), places[target], "--all")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip().endswith(f"@{INDEX.digest}")
    inspected = run_command("inspect", places[target], "--raw", home=tmp_path)
    assert inspected.stdout.encode() == INDEX.raw
    verified = run_command("pull", places[target], "--all", "-o", tmp_path / "verified", home=tmp_path)
    assert verified.returncode == 0, verified.stderr


def test_a_registry_gets_all_platforms_and_a_layout_this_machines(
    registry: FakeRegistry, tmp_path: Path, copy: Copy
) -> None:
    name = INDEX.serve(registry, "team/app", "1")
    assert str(INDEX.digest) in copy(name, f"{registry.host}/copy/app:1").stdout
    assert str(IMAGE.digest) in copy(name, f"{tmp_path}/out").stdout
    assert str(IMAGE.digest) in copy(name, f"{registry.host}/copy/app:one", "--platform", "amd64").stdout


def test_names_follow_the_destination(registry: FakeRegistry, tmp_path: Path, copy: Copy) -> None:
    name = IMAGE.serve(registry, "team/app", "1")
    copy(name, f"oci:{tmp_path}/out:renamed")
    copy(name, f"oci:{tmp_path}/out:registry.example/full:3")
    copy(name, f"{tmp_path}/out")
    listed = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
    assert [entry["annotations"] for entry in listed] == [
        {"org.opencontainers.image.ref.name": "renamed"},
        {"org.opencontainers.image.ref.name": "3", "io.containerd.image.name": "registry.example/full:3"},
        {"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": name},
    ]


def test_the_command_is_named_in_what_it_prints(registry: FakeRegistry, tmp_path: Path, copy: Copy) -> None:
    name = IMAGE.serve(registry, "team/app", "1")
    for target in (f"{registry.host}/copy/app:1", f"{tmp_path}/out", f"dir:{tmp_path}/dir"):
        assert json.loads(copy(name, target, "--json").stdout)["command"] == "copy"
    assert json.loads(copy(name, f"{tmp_path}/new", "--json", "--dry-run").stdout)["command"] == "copy"
    assert json.loads(copy(name, f"{registry.host}/copy/b:1", "--json", "--dry-run").stdout)["command"] == "copy"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("localhost:5000", "got a registry alone"),
        ("registry.example", "got a registry alone"),
        ("docker-daemon:app:1", "got a transport that can't be written to"),
        ("oci:", "expected a path, got none"),
        ("registry.example/app@sha256:" + 64 * "0", "expected a name for the copy, got a digest"),
    ],
)
def test_a_wrong_destination_is_an_error_before_any_request(
    registry: FakeRegistry, copy: Copy, target: str, said: str
) -> None:
    ended = copy(IMAGE.serve(registry, "team/app", "1"), target)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert registry.requests == []


def test_a_directory_with_other_files_is_left_alone(registry: FakeRegistry, tmp_path: Path, copy: Copy) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    ended = copy(IMAGE.serve(registry, "team/app", "1"), f"dir:{tmp_path}/out")
    assert ended.returncode == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("target", ["out", "dir:out"])
def test_a_dry_run_writes_nothing_anywhere(registry: FakeRegistry, tmp_path: Path, copy: Copy, target: str) -> None:
    name = IMAGE.serve(registry, "team/app", "1")
    place = target.replace("out", f"{tmp_path}/out")
    told = json.loads(copy(name, place, "--dry-run", "--json").stdout)
    assert ([one["digest"] for one in told["images"]], told["out"]) == ([str(IMAGE.digest)], f"{tmp_path}/out")
    assert told["fetchBytes"] == sum(map(len, IMAGE.blobs.values()))
    assert not (tmp_path / "out").exists()
    assert not any("/blobs/" in path for path in registry.paths() if IMAGE.layers[0].digest.encoded in path)


@pytest.mark.parametrize("target", ["out", "dir:out"])
def test_a_cache_gives_what_it_has_and_keeps_what_it_lacks(
    registry: FakeRegistry, tmp_path: Path, copy: Copy, target: str
) -> None:
    name = IMAGE.serve(registry, "team/app", "1")
    for run in ("1", "2"):
        place = target.replace("out", f"{tmp_path}/out{run}")
        registry.requests.clear()
        assert copy(name, place, "--cache", f"{tmp_path}/cache").returncode == 0
    layers = [layer.digest.encoded for layer in IMAGE.layers]
    assert [path for path in registry.paths() if any(layer in path for layer in layers)] == []
    files = [path.read_bytes() for path in (tmp_path / "out2").rglob("*") if path.is_file()]
    assert all(raw in files for raw in IMAGE.blobs.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dry-run", "--decompress"), "--dry-run: expected no --decompress, got it"),
        (("--referrers", "--decompress"), "referrers: expected neither decompressed layers nor a legacy archive"),
        (("--jobs", "0"), "--jobs: expected 1 to"),
    ],
)
@pytest.mark.parametrize("target", ["out", "dir:out"])
def test_what_pull_refuses_is_refused(
    registry: FakeRegistry, tmp_path: Path, copy: Copy, target: str, words: tuple[str, ...], said: str
) -> None:
    ended = copy(IMAGE.serve(registry, "team/app", "1"), target.replace("out", f"{tmp_path}/out"), *words)
    assert (ended.returncode, registry.requests) == (2, [])
    assert said in ended.stderr


def test_a_failed_copy_leaves_no_directory(registry: FakeRegistry, tmp_path: Path, copy: Copy) -> None:
    name = IMAGE.serve(registry, "team/app", "1")
    registry.blobs[str(IMAGE.layers[0].digest)] = b"wrong"
    assert copy(name, f"dir:{tmp_path}/out").returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_several_images_are_too_many_for_one_name(registry: FakeRegistry, tmp_path: Path, copy: Copy) -> None:
    write_layout(tmp_path / "two", {"docker.io/library/a:1": IMAGE, "docker.io/library/b:1": INDEX})
    ended = copy(f"{tmp_path}/two", f"{registry.host}/copy/app:1")
    assert ended.returncode == 2
    assert "expected one image for one name, got 2 images" in ended.stderr
    assert registry.requests == []


@pytest.mark.system
def test_skopeo_reads_the_directory(registry: FakeRegistry, tmp_path: Path, copy: Copy) -> None:
    require("skopeo")
    assert copy(INDEX.serve(registry, "team/app", "1"), f"dir:{tmp_path}/out", "--all").returncode == 0
    skopeo_copy(f"dir:{tmp_path}/out", f"oci:{tmp_path}/read:1", words=["--all"])
    listed = json.loads((tmp_path / "read" / "index.json").read_bytes())["manifests"]
    assert [entry["digest"] for entry in listed] == [str(INDEX.digest)]
