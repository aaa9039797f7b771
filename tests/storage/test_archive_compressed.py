"""Archives compressed as a whole, ``*.tar.gz`` and ``*.tar.zst``: the same bytes each time, complete or absent."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull import pull
from ociexport.verification.verify import verify
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64
from tests.support.real_tools import dockerd, podman, skopeo_copy
from tests.support.updates import NAME, V1, V2, blobs_in, names_in, write_update, write_whole

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

INFLATE: Mapping[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.decompress,
    ".tgz": gzip.decompress,
    ".tar.zst": zstd.decompress,
    ".tzst": zstd.decompress,
}
SUFFIXES = list(INFLATE)


def pulled(place: Path, out: Path, *words: str) -> list[str]:
    ended = run_command(
        "pull", place / "v1", "--out", out, *words, home=place, variables={"DOCKER_DEFAULT_PLATFORM": "linux/amd64"}
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_whole(tmp_path / "v1", V1, "1")
    return tmp_path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_is_the_plain_archive_compressed(place: Path, suffix: str) -> None:
    printed = pulled(place, place / "a.tar")
    assert pulled(place, place / f"a{suffix}") == printed == [f"{NAME}:1@{V1.digest}"]
    assert INFLATE[suffix]((place / f"a{suffix}").read_bytes()) == (place / "a.tar").read_bytes()
    assert (place / f"a{suffix}").stat().st_size < (place / "a.tar").stat().st_size
    assert verify(place / f"a{suffix}").is_right


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_image_gives_the_same_bytes(place: Path, suffix: str) -> None:
    first, second = place / f"first{suffix}", place / f"second{suffix}"
    pulled(place, first)
    os.utime(place / "v1" / "index.json", (1, 1))
    pulled(place, second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
@pytest.mark.parametrize("option", ["--decompress", "--legacy"])
def test_layers_may_be_plain_in_it(place: Path, suffix: str, option: str) -> None:
    pulled(place, place / "a.tar", option)
    pulled(place, place / f"a{suffix}", option)
    assert INFLATE[suffix]((place / f"a{suffix}").read_bytes()) == (place / "a.tar").read_bytes()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_an_update_may_be_compressed(place: Path, suffix: str) -> None:
    write_whole(place / "v2", V2, "2")
    copy = place / f"update{suffix}"
    ended = run_command("pull", place / "v2", "--since", place / "v1", "--out", copy, home=place)
    assert ended.returncode == 0, ended.stderr
    assert "expects 2 blobs" in str(verify(copy))
    assert run_command("merge", place / "far", copy, place / "v1", home=place).returncode == 0
    assert sorted(names_in(place / "far")) == [f"{NAME}:1", f"{NAME}:2"]
    assert blobs_in(place / "far") == V1.all_digests | V2.all_digests


def test_the_library_tells_it_by_its_name_too(place: Path) -> None:
    pull(V1.source("1", f"{NAME}:1"), place / "a.tar.zst", platform=AMD64)
    assert verify(place / "a.tar.zst").is_right


def test_a_failed_pull_leaves_nothing(place: Path) -> None:
    with FakeRegistry() as registry:
        reference = V1.serve(registry, "library/app", "1")
        registry.misbehave(V1.layers[2].digest.encoded, Fault(status=404))
        ended = run_command("pull", reference, "--out", place / "a.tar.gz", home=place)
    assert ended.returncode == 3
    assert [path.name for path in place.iterdir() if path.name.startswith((".", "a"))] == []


def test_a_failed_pull_keeps_the_old_archive(place: Path) -> None:
    pulled(place, place / "a.tar.gz")
    before = (place / "a.tar.gz").read_bytes()
    os.unlink(ImageLayout(place / "v1").blob_path(V1.layers[0].digest))
    assert run_command("pull", place / "v1", "--out", place / "a.tar.gz", home=place).returncode == 3
    assert (place / "a.tar.gz").read_bytes() == before


@pytest.mark.system
@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_real_tools_load_it(place: Path, suffix: str) -> None:
    """docker reads zstd since 23, podman's oci-archive reads both."""
    path = place / f"a{suffix}"
    copy_to_archive([V1.source("1", f"{NAME}:1")], str(path), PullOptions(AMD64))
    skopeo_copy(f"oci-archive:{path}:1", f"dir:{place / 'copy'}")
    with podman() as run_podman:
        run_podman("load", "-i", path)
        assert f"sha256:{run_podman('image', 'inspect', '-f', '{{.Id}}', f'{NAME}:1').strip()}" == str(V1.config.digest)
    if suffix == ".tar.gz":
        with dockerd() as docker:
            docker("load", "-i", path)
            assert docker("image", "inspect", "-f", "{{.Id}}", "app:1").strip() == str(V1.config.digest)


def test_an_update_of_nothing_is_small(place: Path) -> None:
    write_update(place / "update.tar", V1, "1", place / "v1")
    assert (place / "update.tar").stat().st_size < 20_000
