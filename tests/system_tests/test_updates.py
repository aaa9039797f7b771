"""Updates loaded by tools that know nothing of ours: docker, podman, containerd, skopeo and docker-registry.

The base is there: the update loads, with the published image ID. The base is not there: it fails, and names no image.
``bundle.json`` is inside, and no tool minds it.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.support.command import run_command
from tests.support.image_builder import AMD64, build_image
from tests.support.real_tools import containerd, dockerd, podman, skopeo_copy
from tests.support.system_parts import docker_registry, require, run
from tests.support.updates import NAME, V1, V2, V3, digests, layer, write_update, write_whole

pytestmark = pytest.mark.system


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with a whole v1 in an archive, and an update from there to v2."""
    write_whole(tmp_path / "v1", V1, "1")
    write_whole(tmp_path / "v2", V2, "2")
    pull(tmp_path, "./v1", "--out", tmp_path / "v1.tar")
    write_update(tmp_path / "update.tar", V2, "2", tmp_path / "v1")
    with tarfile.open(tmp_path / "update.tar") as tar:
        assert "bundle.json" in tar.getnames()
    return tmp_path


def pull(place: Path, source: str, *words: str | Path) -> str:
    ended = run_command("pull", place / source, *words, home=place, variables={"DOCKER_DEFAULT_PLATFORM": str(AMD64)})
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def test_docker_loads_an_update_where_the_base_is(place: Path) -> None:
    with dockerd() as docker:
        docker("load", "-i", place / "v1.tar")
        docker("load", "-i", place / "update.tar")
        listed = docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
        assert dict(map(str.split, listed)) == {"app:1": str(V1.config.digest), "app:2": str(V2.config.digest)}
        # What it has now, in its own words, is what the next update is made from.
        (place / "inspected").write_text(docker("image", "inspect", "app:1", "app:2"))
        write_whole(place / "v3", V3, "3")
        said = pull(place, "v3", "--since", place / "inspected", "--out", place / "update3.tar")
        assert "1 new blob" in said.splitlines()[-1]
        assert "expects 3 blobs" in said.splitlines()[-1]
        docker("load", "-i", place / "update3.tar")
        assert docker("image", "inspect", "-f", "{{.Id}}", "app:3").strip() == str(V3.config.digest)


def test_docker_without_the_base_fails_and_names_nothing(place: Path) -> None:
    with dockerd() as docker:
        with pytest.raises(AssertionError, match="no such file or directory"):
            docker("load", "-i", place / "update.tar")
        assert docker("images", "-q").strip() == ""


def test_docker_gets_a_shared_layer_that_lies_above_a_new_one(place: Path) -> None:
    """It would not find it: another layer is below."""
    patched = build_image([layer("patched base"), layer("runtime", 40_000), layer("app-1")])
    write_update(place / "patched.tar", patched, "9", place / "v1")
    with dockerd() as docker:
        docker("load", "-i", place / "v1.tar")
        docker("load", "-i", place / "patched.tar")
        assert docker("image", "inspect", "-f", "{{.Id}}", "app:9").strip() == str(patched.config.digest)


def test_podman_loads_an_update_where_the_base_is(place: Path) -> None:
    with podman() as run_podman:
        run_podman("load", "-i", place / "v1.tar")
        run_podman("load", "-i", place / "update.tar")
        found = run_podman("image", "inspect", "-f", "{{.Id}}", f"{NAME}:2").strip()
        assert f"sha256:{found}" == str(V2.config.digest)
        (place / "inspected").write_text(run_podman("image", "inspect", f"{NAME}:2"))
        said = pull(place, "v2", "--since", place / "inspected", "--for", "docker", "--out", place / "again")
        assert "nothing new" in said.splitlines()[-1]


def test_podman_without_the_base_fails_and_names_nothing(place: Path) -> None:
    with podman() as run_podman:
        with pytest.raises(AssertionError, match="no such file or directory"):
            run_podman("load", "-i", place / "update.tar")
        assert run_podman("images", "-q").strip() == ""


def test_containerd_imports_an_update_where_the_base_is(place: Path) -> None:
    with containerd() as ctr:
        ctr("images", "import", "--snapshotter", "native", place / "v1.tar")
        ctr("images", "import", "--snapshotter", "native", place / "update.tar")
        listed = {line.split()[0]: line.split()[2] for line in ctr("images", "ls").splitlines()[1:]}
        assert listed == {f"{NAME}:1": str(V1.digest), f"{NAME}:2": str(V2.digest)}
        content = ctr("content", "ls", "-q")
        assert {*digests(V2.layers), str(V2.config.digest), str(V2.digest)} <= {*content.split()}
        (place / "content").write_text(content)
        write_whole(place / "v3", V3, "3")
        said = pull(place, "v3", "--since", place / "content", "--for", "registry", "--out", place / "update3.tar")
        assert "1 new blob" in said.splitlines()[-1]
        ctr("images", "import", "--snapshotter", "native", place / "update3.tar")
        assert str(V3.digest) in ctr("images", "ls")


def test_containerd_without_the_base_fails(place: Path) -> None:
    with containerd() as ctr, pytest.raises(AssertionError, match="not found"):
        ctr("images", "import", "--snapshotter", "native", place / "update.tar")


def test_skopeo_copies_an_update_to_a_registry_that_has_the_base(place: Path) -> None:
    require("docker-registry", "skopeo")
    write_update(place / "update", V2, "2", place / "v1", rule="registry")
    with docker_registry(place / "registry") as host:
        target = f"docker://{host}/app"
        with pytest.raises(AssertionError, match="no such file or directory"):
            skopeo_copy(f"oci:{place / 'update'}:2", f"{target}:2", words=["--dest-tls-verify=false"])
        skopeo_copy(f"oci-archive:{place / 'v1.tar'}:1", f"{target}:1", words=["--dest-tls-verify=false"])
        skopeo_copy(f"oci:{place / 'update'}:2", f"{target}:2", words=["--dest-tls-verify=false"])
        raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", f"{target}:2")
        assert json.loads(raw)["config"]["digest"] == str(V2.config.digest)
        # The registry itself is what the next update is made from.
        write_whole(place / "v3", V3, "3")
        said = pull(place, "v3", "--since", f"{host}/app:2", "--for", "registry", "--out", place / "update3")
        assert "1 new blob" in said.splitlines()[-1]
