"""archive.legacy_plan: archives for docker before 1.10, which docker since 1.10 loads as well."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import UnsupportedMediaTypeError, UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.rootfs.unpack import unpack
from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull import pull
from tests.support.command import run_command
from tests.support.image_builder import (
    AMD64,
    ARM64,
    BuiltImage,
    build_artifact,
    build_image,
    build_index,
    write_layout,
)
from tests.support.memory_source import directory, member, tar_of
from tests.support.real_tools import dockerd, podman, skopeo_copy

BASE = tar_of([directory("etc"), member("etc/base", os.urandom(100_000))])
TARS = [BASE, tar_of([member("etc/.wh.base"), member("b", b"2")]), BASE]
IMAGE = build_image(TARS, compression=["gzip", "zstd", "gzip"])
OTHER = build_image([BASE, tar_of([member("c", b"3")])])
NAME = "docker.io/library/app:1"
OTHER_NAME = "ghcr.io/team/other:2"


def write(path: Path, *sources: Any) -> Path:
    copy_to_archive(sources or [IMAGE.source("1", NAME)], str(path), PullOptions(AMD64, legacy=True))
    return path


def members_of(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as tar:
        return {item.name: item for item in tar}


def read(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        return tar.extractfile(name).read()  # type: ignore[union-attr]


def layers_of(archive: Path, position: int = 0) -> list[str]:
    return [path.partition("/")[0] for path in json.loads(read(archive, "manifest.json"))[position]["Layers"]]


def without_manifest(archive: Path) -> Path:
    """Return the part of an archive that an engine before 1.10 reads."""
    target = archive.with_name("old.tar")
    with tarfile.open(archive) as tar, tarfile.open(target, "w") as copy:
        for item in tar:
            if item.name != "manifest.json":
                copy.addfile(item, tar.extractfile(item) if item.isfile() else None)
    return target


def test_each_layer_is_a_directory_as_docker_saved_it(tmp_path: Path) -> None:
    """image/spec/v1.md, "Combined Image JSON + Filesystem Changeset Format"."""
    archive = write(tmp_path / "a.tar")
    ids = layers_of(archive)
    assert members_of(archive).keys() == {
        *ids,
        *(f"{layer_id}/{name}" for layer_id in ids for name in ("VERSION", "json", "layer.tar")),
        f"{IMAGE.config.digest.encoded}.json",
        "manifest.json",
        "repositories",
    }
    assert [read(archive, f"{layer_id}/layer.tar") for layer_id in ids] == TARS
    assert {read(archive, f"{layer_id}/VERSION") for layer_id in ids} == {b"1.0"}
    assert json.loads(read(archive, "repositories")) == {"app": {"1": ids[-1]}}
    assert json.loads(read(archive, "manifest.json")) == [
        {
            "Config": f"{IMAGE.config.digest.encoded}.json",
            "RepoTags": ["app:1"],
            "Layers": [f"{layer_id}/layer.tar" for layer_id in ids],
        }
    ]
    assert read(archive, f"{IMAGE.config.digest.encoded}.json") == IMAGE.blobs[IMAGE.config.digest]


def test_each_layer_names_its_parent_and_the_topmost_is_the_image(tmp_path: Path) -> None:
    """image/spec/v1.md, "Image JSON Description"."""
    archive = write(tmp_path / "a.tar")
    ids = layers_of(archive)
    documents = [json.loads(read(archive, f"{layer_id}/json")) for layer_id in ids]
    bare = {"created": "1970-01-01T00:00:00Z", "os": "linux"}
    assert documents == [
        {"id": ids[0], **bare},
        {"id": ids[1], **bare, "parent": ids[0]},
        {
            "id": ids[2],
            "parent": ids[1],
            "created": "2024-11-05T22:03:34Z",
            "os": "linux",
            "architecture": "amd64",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]},
        },
    ]


def test_identities_are_digests_of_what_they_stand_for(tmp_path: Path) -> None:
    """image-spec config.md, "Layer ChainID"; the same image always has the same IDs."""
    first, second, third = layers_of(write(tmp_path / "a.tar"))
    chain = str(IMAGE.diff_ids[0])
    expected = {"created": "1970-01-01T00:00:00Z", "layer_id": chain, "os": "linux"}
    assert first == hashlib.sha256(json.dumps(expected, separators=(",", ":")).encode()).hexdigest()
    expected |= {"layer_id": str(Digest.of(f"{chain} {IMAGE.diff_ids[1]}".encode())), "parent": first}
    assert second == hashlib.sha256(json.dumps(expected, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
    assert layers_of(write(tmp_path / "b.tar")) == [first, second, third]


def test_layer_that_is_there_twice_is_a_link(tmp_path: Path) -> None:
    """docker 1.10 to 24 saved the same; engines extract the archive and follow the link."""
    archive = write(tmp_path / "a.tar")
    first, _, third = layers_of(archive)
    item = members_of(archive)[f"{third}/layer.tar"]
    assert (item.type, item.linkname) == (tarfile.SYMTYPE, f"../{first}/layer.tar")


def test_several_images_share_what_they_have_in_common(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.tar", IMAGE.source("1", NAME), OTHER.source("2", OTHER_NAME), IMAGE.source("3", None))
    assert layers_of(archive, 0)[0] == layers_of(archive, 1)[0]
    assert [item["RepoTags"] for item in json.loads(read(archive, "manifest.json"))] == [["app:1"], [OTHER_NAME]]
    assert json.loads(read(archive, "repositories")) == {
        "app": {"1": layers_of(archive, 0)[-1]},
        "ghcr.io/team/other": {"2": layers_of(archive, 1)[-1]},
    }


def test_image_without_layers_has_an_empty_one_for_old_engines(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.tar", build_image([]).source("1", NAME))
    (top,) = json.loads(read(archive, "repositories"))["app"].values()
    with tarfile.open(fileobj=io.BytesIO(read(archive, f"{top}/layer.tar"))) as tar:
        assert tar.getnames() == []
    assert json.loads(read(archive, "manifest.json"))[0]["Layers"] == []
    for name in (archive, without_manifest(archive)):
        unpack(str(name), tmp_path / f"{name.stem}-rootfs", platform=AMD64)


def test_files_and_streams_get_the_same_bytes(tmp_path: Path) -> None:
    stream = io.BytesIO()
    copy_to_archive([IMAGE.source("1", NAME)], stream, PullOptions(AMD64, legacy=True))
    assert write(tmp_path / "a.tar").read_bytes() == stream.getvalue()


@pytest.mark.parametrize("is_old", [False, True])
def test_we_read_it_by_manifest_and_by_repositories(tmp_path: Path, is_old: bool) -> None:
    archive = write(tmp_path / "a.tar", IMAGE.source("1", NAME), OTHER.source("2", OTHER_NAME))
    archive = without_manifest(archive) if is_old else archive
    for image, name in ((IMAGE, "app:1"), (OTHER, OTHER_NAME)):
        result = pull(f"{archive}:{name}", tmp_path / "layout", platform=AMD64)
        config = json.loads((tmp_path / "layout" / "blobs" / "sha256" / result.config_digest.encoded).read_bytes())
        assert config["rootfs"]["diff_ids"] == list(map(str, image.diff_ids))
        assert config["config"] == {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]}
        # The format for old engines contains no config, so a new one is made.
        assert (result.config_digest == image.config.digest) is not is_old
    unpack(f"{archive}:app:1", tmp_path / "rootfs", platform=AMD64)
    assert sorted(str(path.relative_to(tmp_path / "rootfs")) for path in (tmp_path / "rootfs").rglob("*")) == [
        "b",
        "etc",
        "etc/base",
    ]


# Features that old engines lack


def test_several_platforms_are_refused(tmp_path: Path) -> None:
    index = build_index([build_image(TARS, platform=platform) for platform in (AMD64, ARM64)])
    with pytest.raises(UsageError) as caught:
        copy_to_archive([index.source("1", NAME)], str(tmp_path / "a.tar"), PullOptions(PlatformChoice(), legacy=True))
    assert str(caught.value) == "memory: expected one platform for a legacy archive, got 2"
    assert caught.value.hint == "--platform takes one of them"
    assert os.listdir(tmp_path) == []


def test_artifact_is_refused(tmp_path: Path) -> None:
    artifact = build_artifact(b"chart")
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        write(tmp_path / "a.tar", artifact.source())
    assert str(caught.value) == (
        f"manifest {artifact.digest}: expected an image, got an artifact, which docker does not load"
    )
    assert os.listdir(tmp_path) == []


def test_layout_is_no_legacy_archive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^legacy: expected an archive to write, got a layout$"):
        pull(IMAGE.source("1", NAME), tmp_path / "layout", platform=AMD64, legacy=True)


# The command


def test_command_tells_the_published_digest(tmp_path: Path) -> None:
    write_layout(tmp_path / "source", {NAME: IMAGE})
    command = ("pull", "--legacy", tmp_path / "source", "--platform", "linux/amd64", "-o")
    for words in (["a.tar"], ["b", "--format", "docker-archive"]):
        ended = run_command(*command, tmp_path / words[0], *words[1:], home=tmp_path)
        assert (ended.returncode, ended.stdout) == (0, f"{NAME}@{IMAGE.digest}\n")
        assert "was made" not in ended.stderr
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("words", [["-o", "layout"], ["-o", "a.tar", "--format", "oci-archive"]])
def test_legacy_is_a_docker_archive(tmp_path: Path, words: list[str]) -> None:
    ended = run_command("pull", "alpine", "--legacy", *words, home=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        [
            "ociexport: error: --legacy: expected a docker archive to write, got an OCI layout",
            "hint: --format docker-archive, or *.tar",
        ],
    )


# Engines and tools that read it


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write(tmp_path / "a.tar", IMAGE.source("1", NAME), OTHER.source("2", OTHER_NAME))


def named_images() -> list[tuple[str, BuiltImage]]:
    return [("app:1", IMAGE), (OTHER_NAME, OTHER)]


@pytest.mark.system
def test_skopeo_reads_it(archive: Path, tmp_path: Path) -> None:
    for number, (name, image) in enumerate(named_images()):
        skopeo_copy(f"docker-archive:{archive}:{name}", f"dir:{tmp_path / str(number)}")
        manifest = json.loads((tmp_path / str(number) / "manifest.json").read_bytes())
        assert manifest["config"]["digest"] == str(image.config.digest)


@pytest.mark.system
def test_podman_loads_it(archive: Path) -> None:
    """It puts localhost/ before names that docker shows without a registry, whichever tool wrote them."""
    with podman() as run:
        run("load", "-i", archive)
        listed = run("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}")
    assert set(listed.splitlines()) == {
        f"localhost/app:1 {IMAGE.config.digest.encoded}",
        f"{OTHER_NAME} {OTHER.config.digest.encoded}",
    }


@pytest.mark.system
def test_docker_loads_it_with_and_without_manifest(archive: Path) -> None:
    """Engines of 1.10 to 24 load an archive without manifest.json as older engines do."""
    with dockerd() as docker:
        docker("load", "-i", archive)
        listed = docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
        assert set(listed.splitlines()) == {f"{name} {image.config.digest}" for name, image in named_images()}
        docker("image", "rm", "--force", *(name for name, _ in named_images()))
        docker("load", "-i", without_manifest(archive))
        for name, image in named_images():
            (loaded,) = json.loads(docker("image", "inspect", name))
            assert loaded["RootFS"]["Layers"] == list(map(str, image.diff_ids))
            assert (loaded["Config"]["Cmd"], loaded["Architecture"]) == (["/bin/sh"], "amd64")


def test_platforms_of_one_image_differ_in_their_identity(tmp_path: Path) -> None:
    archives = []
    for platform in (AMD64, Platform("linux", "386")):
        image = build_image(TARS, platform=platform)
        archives.append(tmp_path / f"{platform.architecture}.tar")
        copy_to_archive([image.source("1", NAME)], str(archives[-1]), PullOptions(platform, legacy=True))
    ours, theirs = map(layers_of, archives)
    assert (ours[:2], ours[2] != theirs[2]) == (theirs[:2], True)
