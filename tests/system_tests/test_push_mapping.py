"""push --mapping: podman and containerd pull by the old names from the new registry."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.real_tools import containerd, podman
from tests.support.system_parts import docker_registry, require

pytestmark = pytest.mark.system

# The names lead nowhere else: these registries do not exist.
APP = build_image([[member("etc/motd", b"app\n")]])
WEB = build_image([[member("etc/motd", b"web\n")]])
NAMES = {"registry.invalid/library/app:1": APP, "other.invalid/team/web:2": WEB}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    require("docker-registry")
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def push(home: Path, registry: str, *words: str) -> subprocess.CompletedProcess[str]:
    write_layout(home / "layout", NAMES)
    ended = run_command("push", home / "layout", registry, "--mapping", home / "out", *words, home=home)
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.mark.parametrize("words", [(), ("--map", "registry.invalid/library/*=hub/*", "--map", "*/web=frontend")])
def test_podman_pulls_by_the_old_name(registry: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    push(tmp_path, f"{registry}/{len(words)}", "--config-for", "podman", *words)
    with podman() as run:
        for name, image in NAMES.items():
            # `tests.support.real_tools` drops this variable for the other tests.
            run("pull", "-q", name, environment={"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "out/registries.conf")})
            assert run("image", "inspect", "--format", "{{.Digest}}", name).strip() == str(image.digest)


@pytest.mark.parametrize("prefix", ["", "/mirror"])
def test_containerd_pulls_by_the_old_name(registry: str, tmp_path: Path, prefix: str) -> None:
    push(tmp_path, f"{registry}{prefix}", "--config-for", "containerd")
    with containerd() as run:
        for name, image in NAMES.items():
            run("images", "pull", "--hosts-dir", tmp_path / "out" / "certs.d", name)
            assert str(image.digest) in run("images", "ls", f"name=={name}")


def test_k3s_gets_a_rewrite_for_each_repository(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    with FakeRegistry() as fake:
        push(tmp_path, f"{fake.host}/p", "--config-for", "k3s")
        written = yaml.safe_load((tmp_path / "out" / "registries.yaml").read_text())
        assert written["mirrors"] == {
            "registry.invalid": {
                "endpoint": [fake.url],
                "rewrite": {"^library/app$": "p/registry.invalid/library/app"},
            },
            "other.invalid": {"endpoint": [fake.url], "rewrite": {"^team/web$": "p/other.invalid/team/web"}},
        }


def test_mapping_lists_names_and_digests(tmp_path: Path) -> None:
    with FakeRegistry() as fake:
        push(tmp_path, fake.host)
        assert (tmp_path / "out" / "mapping.txt").read_text().splitlines() == [
            f"{name}={fake.host}/{name.partition(':')[0]}:{name.partition(':')[2]}@{image.digest}"
            for name, image in NAMES.items()
        ]
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mapping.txt"]


def test_a_name_that_a_configuration_cannot_express_is_told(tmp_path: Path) -> None:
    with FakeRegistry() as fake:
        programs = ("--config-for", "podman", "--config-for", "containerd")
        ended = push(tmp_path, fake.host, "--map", "*/web:2=web:two", *programs)
        assert "warning: other.invalid/team/web:2: the configuration for podman can't express" in ended.stderr
        assert "warning: other.invalid/team/web:2: the configuration for containerd can't express" in ended.stderr
