"""Volumes read by tools that know nothing of ours: a volume loads what is complete in it, or with what is there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ociexport.transfer.bundle.merge import merge
from tests.support.command import run_command
from tests.support.image_builder import AMD64, BuiltImage, build_image
from tests.support.real_tools import containerd, dockerd, podman, skopeo_copy
from tests.support.system_parts import docker_registry, require, run
from tests.support.updates import NAME, V1, V2, layer, write_whole
from tests.support.volumes import pull_volumes, volumes_of, write_volumes

pytestmark = pytest.mark.system

ONE = build_image([layer("one", 20_000)])
TWO = build_image([layer("two", 90_000)])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with a whole v1 in an archive, and an update from there to v2 in one volume."""
    write_whole(tmp_path / "v1", V1, "1")
    archive(tmp_path / "v1", tmp_path / "v1.tar")
    (volume,) = write_volumes(tmp_path / "u.tar", V2, "2", 100_000, tmp_path / "v1")
    assert volume.name == "u.1-of-1.tar"
    return tmp_path


def archive(source: Path, out: Path) -> None:
    variables = {"DOCKER_DEFAULT_PLATFORM": str(AMD64)}
    ended = run_command("pull", source, "--out", out, home=out.parent, variables=variables)
    assert ended.returncode == 0, ended.stderr


def image_id(image: BuiltImage) -> str:
    return str(image.config.digest)


def test_docker_loads_a_volume_where_the_base_is(place: Path) -> None:
    with dockerd() as docker:
        docker("load", "-i", place / "v1.tar")
        docker("load", "-i", place / "u.1-of-1.tar")
        assert docker("image", "inspect", "-f", "{{.Id}}", "app:2").strip() == image_id(V2)


def test_podman_loads_a_volume_where_the_base_is(place: Path) -> None:
    with podman() as run_podman:
        run_podman("load", "-i", place / "v1.tar")
        run_podman("load", "-i", place / "u.1-of-1.tar")
        found = run_podman("image", "inspect", "-f", "{{.Id}}", f"{NAME}:2").strip()
        assert f"sha256:{found}" == image_id(V2)


def test_containerd_imports_a_volume_where_the_base_is(place: Path) -> None:
    with containerd() as ctr:
        ctr("images", "import", "--snapshotter", "native", place / "v1.tar")
        ctr("images", "import", "--snapshotter", "native", place / "u.1-of-1.tar")
        assert str(V2.digest) in ctr("images", "ls")


def test_docker_loads_from_a_volume_the_images_that_are_complete_in_it(tmp_path: Path) -> None:
    pull_volumes(tmp_path / "u.tar", [(ONE, "one"), (TWO, "two")], 60_000)
    first, *others = volumes_of(tmp_path / "u.tar")
    assert others
    with dockerd() as docker:
        docker("load", "-i", first)
        listed = docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
        assert listed == [f"app:one {image_id(ONE)}"]


def test_skopeo_copies_from_a_volume_the_images_that_are_complete_in_it(tmp_path: Path) -> None:
    require("docker-registry", "skopeo")
    pull_volumes(tmp_path / "u.tar", [(ONE, "one"), (TWO, "two")], 60_000)
    first = volumes_of(tmp_path / "u.tar")[0]
    with docker_registry(tmp_path / "registry") as host:
        target = f"docker://{host}/app"
        skopeo_copy(f"oci-archive:{first}:one", f"{target}:one", words=["--dest-tls-verify=false"])
        with pytest.raises(AssertionError, match="no such file or directory"):
            skopeo_copy(f"oci-archive:{first}:two", f"{target}:two", words=["--dest-tls-verify=false"])
        raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", f"{target}:one")
        assert json.loads(raw)["config"]["digest"] == image_id(ONE)


def test_merged_volumes_are_an_update_that_docker_loads(tmp_path: Path) -> None:
    write_whole(tmp_path / "far", V1, "1")
    volumes = write_volumes(tmp_path / "u.tar", V2, "2", 20_000, tmp_path / "far")
    assert len(volumes) > 1
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    for path in reversed(volumes):
        merge(tmp_path / "far", [str(path)])
    variables = {"DOCKER_DEFAULT_PLATFORM": str(AMD64)}
    far, out = f"{tmp_path / 'far'}:{NAME}:2", tmp_path / "v2.tar"
    assert run_command("pull", far, "--out", out, home=tmp_path, variables=variables).returncode == 0
    with dockerd() as docker:
        docker("load", "-i", out)
        assert docker("image", "inspect", "-f", "{{.Id}}", "app:2").strip() == image_id(V2)
