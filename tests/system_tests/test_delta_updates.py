"""A weekly update as recipes: merged on the far side, and taken from there by skopeo, podman and docker.

The image ID is the published one, also where layers arrive as plain tars.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.command import run_command
from tests.support.deltas import Compressor, by_another, by_python, write_versions
from tests.support.image_builder import AMD64, Compression
from tests.support.real_tools import dockerd, podman, skopeo_copy
from tests.support.system_parts import docker_registry, mounted, require, run
from tests.support.updates import NAME

pytestmark = pytest.mark.system

MADE_BY: dict[str, tuple[Compressor | None, Compression]] = {
    "Python's gzip": (by_python, "gzip"),
    "another gzip": (by_another, "gzip"),
    "plain": (None, "plain"),
}


def ociexport(place: Path, *words: str | Path) -> str:
    ended = run_command(*words, home=place, variables={"DOCKER_DEFAULT_PLATFORM": str(AMD64)})
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def update(place: Path) -> str:
    """Make an update from v1 to v2 and merge it into the far side; return its name with its digest."""
    words: list[str | Path] = [
        "--since",
        place / "v1",
        "--delta",
        "--allow-recompressed",
        "--out",
        place / "update.tar",
    ]
    ociexport(place, "pull", place / "v2", *words)
    assert (place / "update.tar").stat().st_size < 30_000
    ociexport(place, "verify", place / "update.tar", "--against", place / "far", "--deep")
    return ociexport(place, "merge", place / "far", place / "update.tar").strip()


@pytest.mark.parametrize("made_by", MADE_BY)
def test_skopeo_copies_the_merged_image_to_a_registry(tmp_path: Path, made_by: str) -> None:
    require("docker-registry", "skopeo")
    _, new = write_versions(tmp_path, *MADE_BY[made_by])
    reference = update(tmp_path)
    with docker_registry(tmp_path / "registry") as host:
        target = f"docker://{host}/app:2"
        skopeo_copy(f"oci:{tmp_path / 'far'}:2", target, words=["--dest-tls-verify=false"])
        raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", target)
        assert json.loads(raw)["config"]["digest"] == str(new.config.digest)
        assert (reference == f"{NAME}:2@{new.digest}") == (made_by != "another gzip")
        # The registry is a HAVE that gives bytes.
        words: list[str | Path] = [
            "--since",
            f"{host}/app:2",
            "--delta",
            "--allow-recompressed",
            "--out",
            tmp_path / "again",
        ]
        ociexport(tmp_path, "pull", tmp_path / "v2", *words)
        assert sum(file.stat().st_size for file in (tmp_path / "again" / "blobs").rglob("*")) < 30_000


@pytest.mark.parametrize("made_by", MADE_BY)
def test_podman_and_docker_load_the_merged_image(tmp_path: Path, made_by: str) -> None:
    _, new = write_versions(tmp_path, *MADE_BY[made_by])
    update(tmp_path)
    ociexport(tmp_path, "pull", f"{tmp_path / 'far'}:2", "--out", tmp_path / "loaded.tar")
    with podman() as run_podman:
        run_podman("load", "-i", tmp_path / "loaded.tar")
        found = run_podman("image", "inspect", "-f", "{{.Id}}", f"{NAME}:2").strip()
        assert f"sha256:{found}" == str(new.config.digest)
    with dockerd() as docker:
        docker("load", "-i", tmp_path / "loaded.tar")
        assert docker("image", "inspect", "-f", "{{.Id}}", "app:2").strip() == str(new.config.digest)


def test_podman_does_not_load_an_update_of_recipes(tmp_path: Path) -> None:
    """So the report of `pull` says that merge comes first."""
    write_versions(tmp_path)
    words: list[str | Path] = ["--since", tmp_path / "v1", "--delta", "--out", tmp_path / "update.tar"]
    ociexport(tmp_path, "pull", tmp_path / "v2", *words)
    with podman() as run_podman:
        with pytest.raises(AssertionError, match="no such file or directory"):
            run_podman("load", "-i", tmp_path / "update.tar")
        assert run_podman("images", "-q").strip() == ""


def test_no_room_for_temporary_files_ends_in_one_line(tmp_path: Path) -> None:
    write_versions(tmp_path)
    update(tmp_path)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as small:
        merge: list[str | Path] = ["merge", tmp_path / "new", tmp_path / "v1", tmp_path / "update.tar"]
        pull: list[str | Path] = [
            "pull",
            tmp_path / "v2",
            "--since",
            tmp_path / "v1",
            "--delta",
            "--out",
            tmp_path / "x",
        ]
        for words in (merge, pull):
            ended = run_command(*words, home=tmp_path, variables={"TMPDIR": str(small)})
            assert ended.returncode == 9, ended.stderr
            (error,) = [line for line in ended.stderr.splitlines() if "error: " in line]
            assert "No space left on device" in error
            assert os.listdir(small) == []
            assert not (tmp_path / "x").exists()
