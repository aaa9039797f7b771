"""Archives of several platforms: tools that support one platform load the right one, other tools get all platforms."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ociexport.images.choose import PlatformChoice
from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull import pull
from tests.support.command import run_command
from tests.support.image_builder import BuiltImage, build_attestation, build_image, build_index, write_layout
from tests.support.memory_source import directory, member
from tests.support.real_tools import containerd, podman, skopeo_copy

HOST = replace(host_platform(), variant=None)
OTHER = Platform("linux", "arm64" if HOST.architecture != "arm64" else "amd64")
THIRD = Platform("linux", "riscv64")
BASE = [directory("etc"), member("etc/base", b"the same for all")]
NAME = "ghcr.io/team/app:1"


def build(platform: Platform) -> BuiltImage:
    return build_image([BASE, [member("etc/platform", str(platform).encode())]], platform=platform)


# The host's platform is not the first, so a tool that takes the first one gets the wrong one.
IMAGES = {platform: build(platform) for platform in (OTHER, HOST, THIRD)}
INDEX = build_index([*IMAGES.values(), build_attestation(IMAGES[OTHER]), build_attestation(IMAGES[HOST])])
CHOICES = {"subset": PlatformChoice((HOST, OTHER)), "all": PlatformChoice()}


@pytest.fixture(params=CHOICES)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    copy_to_archive([INDEX.source("1", NAME)], str(path), PullOptions(CHOICES[request.param]))
    return path


def test_docker_finds_one_image_for_this_machine(archive: Path) -> None:
    """manifest.json has no platforms: the later of two images with the same name would replace the earlier."""
    listing = subprocess.run(["tar", "xOf", archive, "manifest.json"], check=True, capture_output=True).stdout
    (image,) = json.loads(listing)
    assert image["Config"] == f"blobs/sha256/{IMAGES[HOST].config.digest.encoded}"
    assert image["RepoTags"] == [NAME]


def test_we_read_each_platform_again(archive: Path, tmp_path: Path) -> None:
    for platform in (HOST, OTHER):
        result = pull(str(archive), tmp_path / platform.architecture, platform=platform)
        assert result.manifest_digest == IMAGES[platform].digest


def test_whole_index_comes_back_byte_for_byte(tmp_path: Path) -> None:
    copy_to_archive([INDEX.source("1", NAME)], str(tmp_path / "a.tar"), PullOptions(PlatformChoice()))
    assert pull(str(tmp_path / "a.tar"), tmp_path / "layout", platform=PlatformChoice()).digest == INDEX.digest
    blobs = {path.name for path in (tmp_path / "layout" / "blobs" / "sha256").iterdir()}
    assert blobs == {digest.encoded for digest in INDEX.all_digests}


def test_command_takes_several_platforms_into_an_archive(tmp_path: Path) -> None:
    write_layout(tmp_path / "source", {NAME: INDEX})
    for words in (["--all"], ["--platform", f"{HOST},{OTHER}"]):
        ended = run_command("pull", tmp_path / "source", "-q", *words, "-o", tmp_path / "a.tar", home=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        name, _, digest = ended.stdout.strip().partition("@")
        assert (name, digest == str(INDEX.digest)) == (NAME, words == ["--all"])


@pytest.mark.system
@pytest.mark.parametrize("platform", [HOST, OTHER], ids=str)
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_skopeo_reads_it(archive: Path, tmp_path: Path, transport: str, platform: Platform) -> None:
    name = NAME if transport == "docker-archive" else "1"
    options = ["--override-os", platform.os, "--override-arch", platform.architecture]
    skopeo_copy(f"{transport}:{archive}:{name}", f"dir:{tmp_path / 'copy'}", *options)
    config = json.loads((tmp_path / "copy" / "manifest.json").read_bytes())["config"]["digest"]
    # As a docker archive it is one image, whatever platform is requested.
    expected = HOST if transport == "docker-archive" else platform
    assert config == str(IMAGES[expected].config.digest)


@pytest.mark.system
def test_podman_loads_it(archive: Path) -> None:
    with podman() as run:
        run("load", "-i", archive)
        listed = run("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}")
    assert listed.splitlines() == [f"{NAME} {IMAGES[HOST].config.digest.encoded}"]


@pytest.mark.system
def test_containerd_imports_it(archive: Path, request: pytest.FixtureRequest) -> None:
    with containerd() as ctr:
        ctr("images", "import", "--no-unpack", "--all-platforms", archive)
        listed = ctr("images", "ls")
        manifests = ctr("content", "ls", "-q").split()
    name, _, digest, *_ = listed.splitlines()[1].split()
    assert name == NAME
    assert f"{HOST}" in listed
    assert {str(IMAGES[HOST].digest), str(IMAGES[OTHER].digest), digest} <= set(manifests)
    if "all" in request.node.name:
        assert digest == str(INDEX.digest)
