"""Volumes as HAVE: those of one set count as one update, in any order, and one of them only as what is whole in it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ociexport.system.progress.protocol import SILENT
from ociexport.transfer.bundle.have_volumes import read_haves
from ociexport.transfer.sources.open import SourceOpener
from tests.support.command import command_environment, command_line
from tests.support.image_builder import AMD64, build_image
from tests.support.updates import V1, V2, blobs_in, layer, write_whole
from tests.support.volumes import write_volumes

IMAGE = build_image([layer("big", 70_000), layer("small", 500), layer("other", 20_000)])
NEXT = build_image([layer("big", 70_000), layer("small", 500), layer("other", 20_000), layer("patch")])


@pytest.fixture
def volumes(tmp_path: Path) -> list[str]:
    return [str(path) for path in write_volumes(tmp_path / "u.tar", IMAGE, "1", 38_000)]


def test_all_volumes_of_a_set_have_all_its_blobs(volumes: list[str]) -> None:
    for texts in (volumes, volumes[::-1]):
        (found,) = read_haves(texts, SourceOpener().open, AMD64, SILENT)
        assert found.blobs == IMAGE.all_digests
        assert [len(chain) for chain in found.chains] == [3]


def test_some_of_them_have_what_is_whole_in_them(volumes: list[str]) -> None:
    """A cut blob of which a volume is missing was perhaps never completed."""
    (found,) = read_haves(volumes[1:], SourceOpener().open, AMD64, SILENT)
    assert found.blobs == IMAGE.all_digests - {IMAGE.layers[0].digest}
    assert found.chains == ()


def test_they_count_beside_other_haves(tmp_path: Path, volumes: list[str]) -> None:
    write_whole(tmp_path / "v1", V1)
    first, second = read_haves([volumes[0], str(tmp_path / "v1"), *volumes[1:]], SourceOpener().open, AMD64, SILENT)
    assert [first.blobs, second.blobs] == [frozenset(V1.all_digests), frozenset(IMAGE.all_digests)]


@pytest.mark.parametrize("rule", ["docker", "layout"])
def test_the_next_update_leaves_out_what_they_have(tmp_path: Path, volumes: list[str], rule: str) -> None:
    write_whole(tmp_path / "next", NEXT)
    words = [word for volume in volumes for word in ("--since", volume)]
    ended = subprocess.run(
        command_line("pull", "./next", *words, "--for", rule, "-o", "update"),
        env=command_environment(tmp_path, DOCKER_DEFAULT_PLATFORM=str(AMD64)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert blobs_in(tmp_path / "update") == {NEXT.digest, NEXT.config.digest, NEXT.layers[3].digest}


def test_the_update_that_is_not_a_volume_is_read_as_before(tmp_path: Path) -> None:
    write_whole(tmp_path / "v2", V2)
    (found,) = read_haves([str(tmp_path / "v2")], SourceOpener().open, AMD64, SILENT)
    assert found.blobs == V2.all_digests
