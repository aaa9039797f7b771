"""`ociexport tags`: one tag per line, from a registry, a layout or an archive."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.system_parts import OCIEXPORT, docker_registry, require, run

IMAGE = build_image([[member("etc/hostname", b"box\n")]])
OTHER = build_image([[member("etc/hostname", b"other\n")]])


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """A layout with three names for two images."""
    write_layout(tmp_path / "layout", {"b": IMAGE, "docker.io/library/app:a": OTHER, "c": IMAGE})
    return tmp_path / "layout"


def test_one_tag_a_line_and_nothing_else(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        for tag in ("v1", "v2", "latest"):
            IMAGE.serve(registry, "team/app", tag)
        ended = run_command("tags", f"{registry.host}/team/app", home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "latest\nv1\nv2\n", "")


def test_json_is_one_object_with_a_version(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        IMAGE.serve(registry, "team/app", "v1")
        name = f"{registry.host}/team/app"
        ended = run_command("tags", name, "--json", home=tmp_path)
    assert json.loads(ended.stdout) == {"jsonVersion": 1, "command": "tags", "repository": name, "tags": ["v1"]}


def test_terminal_gets_nothing_that_it_would_obey(tmp_path: Path) -> None:
    """A registry may send any characters in a tag; an escaped tag stays on its line."""
    with FakeRegistry() as registry:
        registry.misbehave("/tags/list", Fault(status=200, body=rb'{"tags": ["a\u001b[31m\nb"]}'))
        ended = run_command("tags", f"{registry.host}/team/app", home=tmp_path)
    assert ended.stdout == "a\\x1b[31m\\nb\n"


def test_no_tags_are_said_beside_the_data(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        registry.misbehave("/tags/list", Fault(status=200, body=b'{"tags": null}'))
        name = f"{registry.host}/team/app"
        ended = run_command("tags", name, home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", f"ociexport: {name}: no tags\n")


def test_unknown_repository_is_exit_code_3(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        ended = run_command("tags", f"{registry.host}/team/app", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")


def test_layout_lists_its_names(layout: Path, tmp_path: Path) -> None:
    ended = run_command("tags", layout, home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "b\ndocker.io/library/app:a\nc\n")


def test_archive_lists_its_names(layout: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-C", layout, "-cf", tmp_path / "images.tar", "."], check=True)
    ended = run_command("tags", tmp_path / "images.tar", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "b\ndocker.io/library/app:a\nc\n")


def test_docker_archive_lists_its_names(tmp_path: Path) -> None:
    """moby's ``RepoTags``; an image without any is listed by its ID."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.json").write_bytes(IMAGE.blobs[IMAGE.config.digest])
    (files / "b.json").write_bytes(OTHER.blobs[OTHER.config.digest])
    images = [
        {"Config": "a.json", "RepoTags": ["app:1", "app:2"], "Layers": []},
        {"Config": "b.json", "RepoTags": None, "Layers": []},
    ]
    (files / "manifest.json").write_text(json.dumps(images))
    subprocess.run(["tar", "-C", files, "-cf", tmp_path / "images.tar", "."], check=True)
    ended = run_command("tags", tmp_path / "images.tar", home=tmp_path)
    assert ended.stdout == f"docker.io/library/app:1\ndocker.io/library/app:2\n@{OTHER.config.digest}\n"


def test_archive_of_docker_before_1_10_lists_its_names(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "0a").mkdir(parents=True)
    (files / "0a" / "json").write_text("{}")
    (files / "repositories").write_text('{"app": {"1": "0a"}}')
    subprocess.run(["tar", "-C", files, "-cf", tmp_path / "images.tar", "."], check=True)
    ended = run_command("tags", tmp_path / "images.tar", home=tmp_path)
    assert ended.stdout == "docker.io/library/app:1\n"


def test_image_in_a_layout_is_no_place_of_names(layout: Path, tmp_path: Path) -> None:
    ended = run_command("tags", f"{layout}:b", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"ociexport: error: '{layout}:b': expected a layout or an archive, got an image in it\n"
        f"hint: ociexport tags {layout} lists them all\n"
    )


@pytest.mark.parametrize("place", ["./nowhere", "./nowhere.tar"])
def test_what_is_not_there_is_exit_code_3(place: str, tmp_path: Path) -> None:
    assert run_command("tags", place, home=tmp_path).returncode == 3


def test_tar_of_no_images_is_exit_code_8(tmp_path: Path) -> None:
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "x.tar", "--files-from", "/dev/null"], check=True)
    ended = run_command("tags", tmp_path / "x.tar", home=tmp_path)
    assert ended.returncode == 8


@pytest.mark.system
def test_tags_are_those_that_skopeo_lists(tmp_path: Path) -> None:
    """Debian's docker-registry with 120 tags: skopeo list-tags and we list the same."""
    require("docker-registry", "skopeo")
    write_layout(tmp_path / "layout", {"1": IMAGE})
    with docker_registry(tmp_path / "registry") as host:
        target = f"docker://{host}/team/app"
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:1", f"{target}:t000")
        # Each further push would write the same: links to the manifest.
        tags = next((tmp_path / "registry").rglob("_manifests/tags"))
        for number in range(1, 120):
            run("cp", "-r", tags / "t000", tags / f"t{number:03}")
        theirs = json.loads(run("skopeo", "list-tags", "--tls-verify=false", target))["Tags"]
        ours = run(*OCIEXPORT, "tags", f"{host}/team/app").splitlines()
    assert ours == theirs
    assert len(ours) == 120
