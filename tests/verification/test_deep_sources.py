"""verify(deep=True) of archives and registries, of any image, and beside umoci."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport import verify
from ociexport.errors import InvalidImageError
from ociexport.images.choose import PlatformChoice
from ociexport.layers.limits import Limits
from ociexport.rootfs.outputs.tar import flatten
from ociexport.transfer.pull import pull
from tests.rootfs.test_tar_output import MEMBERS
from tests.support.damaged_layout import DamagedLayout
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import (
    AMD64,
    ARM64,
    build_image,
    build_index,
    write_layout,
)
from tests.support.memory_source import Member, directory, hard_link, member, tar_of
from tests.support.system_parts import require

BASE = [directory("d"), member("d/a", b"x"), member("b")]
IMAGE = build_image([BASE, [member("d/.wh.a"), hard_link("c", "b")]])


def test_archives_of_every_generation_are_looked_into(tmp_path: Path) -> None:
    """Docker's before 1.10 have plain layers, and no manifest."""
    bad = build_image([BASE, [hard_link("c", "nowhere")]])
    for image, count in ((IMAGE, 0), (bad, 1)):
        for wishes in ({}, {"legacy": True}, {"decompress": True}):
            path = tmp_path / "image.tar"
            pull(image.source("1", "docker.io/library/app:1"), path, **wishes)  # type: ignore[arg-type]
            found = verify(path, deep=True)
            assert ([finding.kind.value for finding in found.findings], found.layers) == (["tar"] * count, 2)
    with tarfile.open(path) as tar, tarfile.open(tmp_path / "old.tar", "w") as old:
        for item in tar:
            if item.name != "manifest.json":
                old.addfile(item, tar.extractfile(item) if item.isfile() else None)
    pull(bad.source("1", "docker.io/library/app:1"), path, legacy=True)
    with tarfile.open(path) as tar, tarfile.open(tmp_path / "old.tar", "w") as old:
        for item in tar:
            if item.name != "manifest.json":
                old.addfile(item, tar.extractfile(item) if item.isfile() else None)
    assert [finding.kind.value for finding in verify(tmp_path / "old.tar", deep=True).findings] == ["tar"]


def test_registry_gives_each_blob_once(registry: FakeRegistry) -> None:
    name = build_index([IMAGE, build_image([BASE], platform=ARM64)]).serve(registry, "library/app", "1")
    assert verify(name, deep=True, platform=PlatformChoice()).findings == ()
    blobs = Counter(path for path in registry.paths("GET") if "/blobs/" in path)
    assert set(blobs.values()) == {1}


def test_layer_that_the_registry_lacks_is_missing(registry: FakeRegistry) -> None:
    name = IMAGE.serve(registry, "library/app", "1")
    registry.misbehave(str(IMAGE.layers[0].digest), Fault(status=404))
    found = verify(name, deep=True, platform=AMD64)
    assert [(finding.kind.value, finding.message) for finding in found.findings if finding.is_wrong] == [
        ("missing", "not there")
    ]


def test_no_room_for_names_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**settings: object) -> io.BytesIO:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space left") as caught:
        verify(IMAGE.source(), deep=True)
    assert caught.value.filename == tempfile.gettempdir()


def test_nothing_is_written_beside_the_layout(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    before = sorted(os.walk(layout.path))
    assert verify(layout.path, deep=True).is_right
    assert sorted(os.walk(layout.path)) == before


# Properties.


@given(st.lists(st.lists(MEMBERS, max_size=6), min_size=1, max_size=3))
def test_any_image_is_right_if_it_can_be_unpacked(layers: list[list[Member]]) -> None:
    image = build_image(layers)
    try:
        flatten(image.source(), lambda chunk: None, platform=AMD64, limits=Limits())
        is_right = True
    except InvalidImageError:
        is_right = False
    assert verify(image.source(), deep=True).is_right == is_right


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=3), st.integers(0, 3000), st.integers(0, 255))
def test_any_bytes_give_findings_and_no_exception(tails: list[bytes], place: int, value: int) -> None:
    tar = bytearray(tar_of(BASE))
    tar[place % len(tar)] = value
    image = build_image([bytes(tar), *tails], compression="plain")
    for finding in verify(image.source(), deep=True).findings:
        assert "\n" not in str(finding)


@pytest.mark.system
@pytest.mark.parametrize(
    ("layer", "is_right"),
    [
        ([hard_link("c", "b")], True),
        ([hard_link("c", "nowhere")], False),
        ([member(".wh.")], False),
        ([member("e"), member("e/below")], False),
    ],
    ids=["link", "link to nothing", "whiteout of nothing", "file in the place of a directory"],
)
def test_umoci_unpacks_what_is_right(tmp_path: Path, layer: list[Member], is_right: bool) -> None:
    """Debian's umoci, which refuses what we say is wrong."""
    require("umoci", root=True)
    write_layout(tmp_path / "layout", {"1": build_image([BASE, layer])})
    unpacked = subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{tmp_path / 'layout'}:1", str(tmp_path / "rootfs")],
        capture_output=True,
        check=False,
    )
    assert verify(tmp_path / "layout", deep=True).is_right == is_right
    assert (unpacked.returncode == 0) == is_right, unpacked.stderr
