"""layout.cache, `pull --cache`: blobs that several layouts share are fetched once, and hashed before they are used."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.system_parts import OCIEXPORT, mounted, require, run
from tests.system_tests.test_file_systems import file_system

IMAGE = build_image([[member("a", os.urandom(200_000))], [member("b", b"2")]])


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        IMAGE.serve(registry, "team/app", "1")
        yield registry


def blobs_asked_for(registry: FakeRegistry) -> list[str]:
    return [path.rpartition("/")[2] for path in registry.paths("GET") if "/blobs/" in path]


def test_second_layout_fetches_no_layer(registry: FakeRegistry, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pull(f"{registry.host}/team/app:1", ImageLayout(tmp_path / name, cache=BlobCache(tmp_path / "cache")))
    layers = {str(layer.digest) for layer in IMAGE.layers}
    assert sorted(digest for digest in blobs_asked_for(registry) if digest in layers) == sorted(layers)
    for layer in IMAGE.layers:
        places = [Path(ImageLayout(tmp_path / name).blob_path(layer.digest)) for name in ("one", "two")]
        assert places[0].read_bytes() == places[1].read_bytes() == IMAGE.blobs[layer.digest]
        assert os.path.samefile(*places)


def test_cache_and_layouts_may_be_named_from_where_one_is(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        pull(f"{registry.host}/team/app:1", ImageLayout(name, cache=BlobCache("cache")))
    layer = IMAGE.layers[0]
    assert os.path.samefile(*(ImageLayout(name).blob_path(layer.digest) for name in ("one", "two")))
    assert blobs_asked_for(registry).count(str(layer.digest)) == 1


def test_damaged_blob_of_the_cache_is_not_used_but_replaced(registry: FakeRegistry, tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")
    pull(f"{registry.host}/team/app:1", ImageLayout(tmp_path / "one", cache=cache))
    damaged = Path(cache.blob_path(IMAGE.layers[0].digest))
    damaged.unlink()
    damaged.write_bytes(b"X" * IMAGE.layers[0].size)
    registry.requests.clear()
    layout = ImageLayout(tmp_path / "two", cache=cache)
    pull(f"{registry.host}/team/app:1", layout)
    assert str(IMAGE.layers[0].digest) in blobs_asked_for(registry)
    assert layout.has_blob(IMAGE.layers[0])
    assert damaged.read_bytes() == IMAGE.blobs[IMAGE.layers[0].digest]


def test_file_system_without_links_gets_copies(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    for name in ("one", "two"):
        pull(f"{registry.host}/team/app:1", ImageLayout(tmp_path / name, cache=BlobCache(tmp_path / "cache")))
    layer = IMAGE.layers[0]
    places = [Path(ImageLayout(tmp_path / name).blob_path(layer.digest)) for name in ("one", "two")]
    assert places[0].read_bytes() == places[1].read_bytes()
    assert not os.path.samefile(*places)
    assert blobs_asked_for(registry).count(str(layer.digest)) == 1


@pytest.mark.system
@pytest.mark.parametrize("name", ["btrfs", "xfs"])
def test_file_system_that_links_nowhere_but_shares_blocks_has_them_once(
    registry: FakeRegistry, tmp_path: Path, name: str
) -> None:
    """btrfs can't link files between subvolumes, and no file system can between two of its mounts."""
    require("filefrag")
    with file_system(name, tmp_path) as disk, ExitStack() as mounts:
        places = [disk / "cache", disk / "layout"]
        if name == "btrfs":
            for place in places:
                run("btrfs", "subvolume", "create", place)
        else:
            for number, place in enumerate(places):
                place.mkdir()
                places[number] = mounts.enter_context(mounted(tmp_path / place.name, "--bind", str(place)))
        cache, layout = BlobCache(places[0]), ImageLayout(places[1] / "one", cache=BlobCache(places[0]))
        (places[0] / "probe").touch()
        with pytest.raises(OSError, match="Invalid cross-device link"):
            os.link(places[0] / "probe", places[1] / "probe")
        pull(f"{registry.host}/team/app:1", ImageLayout(tmp_path / "first", cache=cache))
        registry.requests.clear()
        pull(f"{registry.host}/team/app:1", layout)
        layer = IMAGE.layers[0]
        assert str(layer.digest) not in blobs_asked_for(registry)
        kept, given = Path(cache.blob_path(layer.digest)), Path(layout.blob_path(layer.digest))
        assert given.read_bytes() == IMAGE.blobs[layer.digest]
        assert not os.path.samefile(kept, given)
        run("sync")
        extents = run("filefrag", "-v", given)
        assert "shared" in extents, extents


def test_cache_that_can_not_be_written_does_no_harm(registry: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    layout = ImageLayout(tmp_path / "one", cache=BlobCache(tmp_path / "cache"))
    pull(f"{registry.host}/team/app:1", layout)
    assert layout.has_blob(IMAGE.layers[0])
    assert (tmp_path / "cache").read_text() == "a file"


def test_command_has_the_cache(registry: FakeRegistry, tmp_path: Path) -> None:
    for name in ("one", "two"):
        words = [
            "pull",
            f"{registry.host}/team/app:1",
            "--out",
            str(tmp_path / name),
            "--cache",
            str(tmp_path / "cache"),
        ]
        result = subprocess.run([*OCIEXPORT, *words], capture_output=True, text=True, check=True)
    assert "0 blobs" in result.stderr or "already there" in result.stderr
    assert blobs_asked_for(registry).count(str(IMAGE.layers[0].digest)) == 1
    refused = subprocess.run(
        [*OCIEXPORT, *words[:3], str(tmp_path / "x.tar"), *words[4:]], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stderr) == (
        2,
        "ociexport: error: pull: --cache needs a layout for --out, got an archive\n",
    )
