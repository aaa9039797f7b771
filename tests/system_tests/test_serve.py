"""docker, podman, containerd and skopeo pull an image from `serve`, and get the image ID that was published."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import directory, member
from tests.support.real_tools import containerd, dockerd, podman
from tests.support.system_parts import OCIEXPORT, require, run

pytestmark = pytest.mark.system

NAME = "library/app:1"
IMAGE = build_image([[directory("etc"), member("etc/hostname", b"box\n")], [member("etc/motd", b"hello\n" * 1000)]])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The name of the image in a running server."""
    write_layout(tmp_path / "layout", {f"docker.io/{NAME}": IMAGE})
    command = [*OCIEXPORT, "serve", str(tmp_path / "layout"), "--addr", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"{server.stdout.readline().split()[-1].removeprefix('http://').rstrip('/')}/{NAME}"
        finally:
            server.terminate()


def test_docker_pulls_from_it(served: str) -> None:
    with dockerd() as docker:
        docker("pull", "--quiet", served)
        assert docker("image", "inspect", "--format", "{{.Id}}", served).strip() == str(IMAGE.config.digest)


def test_podman_pulls_from_it(served: str) -> None:
    with podman() as podman_run:
        pulled = podman_run("pull", "--quiet", "--tls-verify=false", served)
    assert pulled.strip() == IMAGE.config.digest.encoded


def test_containerd_pulls_from_it(served: str) -> None:
    with containerd() as ctr:
        ctr("images", "pull", "--plain-http", "--snapshotter", "native", served)
        listed = ctr("images", "list", f"name=={served}")
    assert str(IMAGE.digest) in listed


def test_skopeo_pulls_from_it(served: str, tmp_path: Path) -> None:
    require("skopeo")
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{served}", f"oci:{tmp_path / 'copy'}:1")
    index = json.loads((tmp_path / "copy" / "index.json").read_text())
    assert [entry["digest"] for entry in index["manifests"]] == [str(IMAGE.digest)]
