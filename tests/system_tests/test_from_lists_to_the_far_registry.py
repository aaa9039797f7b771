"""From a compose file and a Kubernetes file to a registry beyond the gap, and next week's update.

Source: issue 18, "Done when". The old names are in a registry that only this machine's configuration leads to, and that
is gone when podman, containerd and skopeo pull by them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.spec.descriptor import Platform
from tests.support.command import clear_foreign_variables
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.real_tools import containerd, podman, skopeo_copy
from tests.support.system_parts import docker_registry, require

pytestmark = pytest.mark.system

KIB = 1024
SHOP = "shop.invalid/team"
OS_FILES = [member("os", os.urandom(400 * KIB))]


def image_of(name: str, platform: Platform = AMD64) -> BuiltImage:
    return build_image([OS_FILES, [member(name, os.urandom(100 * KIB))]], platform=platform)


APP, WEB, DATABASE = image_of("app"), image_of("web"), image_of("database")
NEW_APP, NEW_WEB = image_of("app"), image_of("web")
# What is published has another platform too, which the machines beyond the gap are not.
PUBLISHED = {
    "app:1": build_index([APP, image_of("app", ARM64)]),
    "web:1": WEB,
    "database:15": DATABASE,
    "app:2": NEW_APP,
    "web:2": NEW_WEB,
}
COMPOSE = """\
services:
  web: {image: "shop.invalid/team/web:${VERSION:-1}"}
  app: {image: "shop.invalid/team/app:${VERSION:-1}"}
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      initContainers: [{name: schema, image: shop.invalid/team/database:15}]
      containers: [{name: app, image: shop.invalid/team/app:1}]
"""


class Ways:
    """The steps of a user on both sides of the gap."""

    def __init__(self, home: Path, far: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.far, self._capsys = home, far, capsys

    def __call__(self, *words: str) -> str:
        self._capsys.readouterr()
        code = main(list(words))
        said = self._capsys.readouterr()
        assert code == 0, f"{words}: exit {code}\n{said.err}"
        return said.out

    def push(self) -> list[dict[str, int]]:
        """Push what the lock file lists, below a new path, and write what makes the old ones work."""
        words = ("--map", "shop.invalid/*=hub/*", "--mapping", "names")
        programs = ("--config-for", "podman", "--config-for", "containerd")
        told = self("push", "./far", "--list", "images.lock", self.far, *words, *programs, "--json")
        images: list[dict[str, int]] = json.loads(told)["images"]
        return images


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[tuple[str, str, ExitStack]]:
    """Yield two registries, and what stops the first."""
    require("docker-registry")
    with ExitStack() as origin_stack, docker_registry(tmp_path / "far-registry") as far:
        yield origin_stack.enter_context(docker_registry(tmp_path / "origin")), far, origin_stack


def new_bytes(*images: BuiltImage) -> int:
    """Return the size of the blobs that only these images have: the upper layers and the configs."""
    return sum(image.layers[1].size + image.config.size for image in images)


def test_from_a_compose_file_to_the_far_registry_and_next_weeks_update(
    registries: tuple[str, str, ExitStack],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    origin, far, origin_stack = registries
    clear_foreign_variables(monkeypatch, tmp_path)
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
    (tmp_path / "ours.conf").write_text(
        f'[[registry]]\nprefix = "{SHOP}"\nlocation = "{origin}/team"\ninsecure = true\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "ours.conf"))
    monkeypatch.chdir(tmp_path)
    user = Ways(tmp_path, far, capsys)
    write_layout("published", {f"{SHOP}/{name}": image for name, image in PUBLISHED.items()})
    user("push", "./published", origin, "--map", f"{SHOP}/*=team/*")

    # This side: two files, one lock, and volumes for the medium.
    Path("compose.yaml").write_text(COMPOSE)
    Path("deployment.yaml").write_text(DEPLOYMENT)
    Path("images.lock").write_text(user("lock", "compose.yaml") + user("lock", "deployment.yaml"))
    user("pull", "--locked", "images.lock", "--volume-size", "300K", "-o", "all.tar")
    volumes = sorted(str(path) for path in Path().glob("all.*-of-*.tar"))
    assert len(volumes) > 1
    assert all(os.path.getsize(path) <= 300 * KIB for path in volumes)

    # The far side.
    user("merge", "./far", *volumes)
    user("verify", "./far", "--list", "images.lock")
    pushed = user.push()
    assert sum(image["sentBytes"] for image in pushed) == WEB.layers[0].size + new_bytes(WEB, APP, DATABASE)
    assert sum(image["mountedBlobs"] for image in pushed) == 2
    assert sorted(line.partition("=")[2] for line in Path("names/mapping.txt").read_text().splitlines()) == [
        f"{far}/hub/team/app:1@{APP.digest}",
        f"{far}/hub/team/database:15@{DATABASE.digest}",
        f"{far}/hub/team/web:1@{WEB.digest}",
    ]

    # Next week two of three change.
    monkeypatch.setenv("VERSION", "2")
    Path("deployment.yaml").write_text(DEPLOYMENT.replace("app:1", "app:2"))
    Path("last.lock").write_bytes(Path("images.lock").read_bytes())
    Path("images.lock").write_text(user("lock", "compose.yaml") + user("lock", "deployment.yaml"))
    user("pull", "--locked", "images.lock", "--since", "last.lock", "-o", "update.tar")
    fresh = new_bytes(NEW_APP, NEW_WEB)
    assert fresh < os.path.getsize("update.tar") < fresh + 40 * KIB
    origin_stack.close()
    user("merge", "./far", "update.tar")
    user("verify", "./far", "--list", "images.lock")
    pushed = user.push()
    assert sum(image["sentBytes"] for image in pushed) == fresh
    assert [image["sentBytes"] for image in user.push()] == [0, 0, 0]

    # By the old names, where nothing but the configuration knows of the new ones.
    old = {f"{SHOP}/app:2": NEW_APP, f"{SHOP}/web:2": NEW_WEB, f"{SHOP}/database:15": DATABASE}
    conf = str(tmp_path / "names/registries.conf")
    with podman() as podman_run:
        for name, image in old.items():
            pulled = podman_run("pull", "-q", name, environment={"CONTAINERS_REGISTRIES_CONF": conf})
            assert pulled.strip() == image.config.digest.encoded
    with containerd() as ctr:
        for name, image in old.items():
            ctr("images", "pull", "--snapshotter", "native", "--hosts-dir", tmp_path / "names" / "certs.d", name)
            assert str(image.digest) in ctr("images", "ls", f"name=={name}")
    for number, (name, image) in enumerate(old.items()):
        copy = f"oci:{tmp_path}/copy{number}:1"
        skopeo_copy(f"docker://{name}", copy, "--registries-conf", conf, words=["-q"])
        listed = json.loads((tmp_path / f"copy{number}" / "index.json").read_text())["manifests"]
        assert [entry["digest"] for entry in listed] == [str(image.digest)]
