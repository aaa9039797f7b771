"""pull with deep: layers that are there before, and layers that come in pieces, are compared too."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import DiffIdMismatchError, DigestMismatchError
from ociexport.images.destination import BlobWriter
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.registry.download import ranges
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.storage.layout.cache import BlobCache
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.pull import pull
from ociexport.transfer.result import PullResult
from ociexport.transfer.sources.open import open_source
from tests.support.broken_layers import FIRST, PAGE, SOUND, TARS, diff_ids_of, image_of
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import (
    AMD64,
    build_image,
)
from tests.support.memory_source import member, tar_of

MIB = 1 << 20

# Blobs that are there before.


def test_layer_that_is_there_is_proven_and_stays(tmp_path: Path) -> None:
    """It may belong to an image that has a name, so a failure does not remove it."""
    image = image_of([FIRST, PAGE])
    layout = tmp_path / "layout"
    pull(image.source("1"), layout, platform=AMD64)
    before = {path: path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    with pytest.raises(DiffIdMismatchError, match=rf"^layer 2 of 2 \({image.layers[1].digest}\): "):
        pull(image.source("2"), layout, platform=AMD64, deep=True)
    assert {path: path.read_bytes() for path in layout.rglob("*") if path.is_file()} == before
    result = pull(SOUND.source("3"), layout, platform=AMD64, deep=True)
    assert pull(SOUND.source("3"), layout, platform=AMD64, deep=True).reused_blobs == 1 + len(SOUND.layers)
    assert result.is_deep


def test_layer_in_the_cache_is_proven(tmp_path: Path) -> None:
    image, cache = image_of([FIRST, PAGE]), BlobCache(tmp_path / "cache")
    pull(image.source(), ImageLayout(tmp_path / "first", cache=cache), platform=AMD64)
    with pytest.raises(DiffIdMismatchError, match=r"^layer 2 of 2 "):
        pull(image.source(), ImageLayout(tmp_path / "second", cache=cache), platform=AMD64, deep=True)
    pull(SOUND.source(), ImageLayout(tmp_path / "first", cache=cache), platform=AMD64)
    source = SOUND.source()
    assert pull(source, ImageLayout(tmp_path / "third", cache=cache), platform=AMD64, deep=True).is_deep
    assert not {layer.digest for layer in SOUND.layers} & set(source.opened)


class Plain:
    """A destination of someone else, which knows nothing of checks; see docs/guide/library.md."""

    def __init__(self, layout: ImageLayout) -> None:
        self.layout = layout

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self.layout.has_blob(descriptor)

    @contextmanager
    def new_blob(self, descriptor: Descriptor) -> Iterator[BlobWriter]:
        with self.layout.new_blob(descriptor) as writer:
            yield writer

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        return self.layout.open_blob(descriptor, offset)

    def begin(self) -> Any:
        return self.layout.begin()

    def write_manifest(self, manifest: ReceivedManifest) -> None:
        self.layout.write_manifest(manifest)

    def write_name(self, descriptor: Descriptor, name: ImageName) -> None:
        self.layout.write_name(descriptor, name)


def test_destination_that_knows_nothing_of_checks_is_read_back(tmp_path: Path) -> None:
    image, destination = image_of([FIRST, PAGE]), Plain(ImageLayout(tmp_path / "layout"))
    assert pull(SOUND.source(), destination, platform=AMD64, deep=True).is_deep
    assert pull(SOUND.source(), destination, platform=AMD64, deep=True).fetched_blobs == 0
    for _ in range(2):
        with pytest.raises(DiffIdMismatchError, match=r"^layer 2 of 2 "):
            pull(image.source(), destination, platform=AMD64, deep=True)
        pull(image.source("broken"), tmp_path / "layout", platform=AMD64)


# Layers that come in pieces.


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("was_deep", [True, False])
def test_partial_layer_is_proven_from_its_beginning(
    registry: FakeRegistry, tmp_path: Path, was_deep: bool, is_right: bool
) -> None:
    tar = TARS[0] if is_right else TARS[0][:-1]
    image = build_image([tar], edit_config=diff_ids_of([TARS[0]]))
    reference, layer = image.serve(registry, "library/app", "1"), str(image.layers[0].digest)
    registry.misbehave(layer, Fault(cut_after=2_000_000), times=1)
    registry.misbehave(layer, Fault(status=410), times=1)
    with pytest.raises(Exception, match="410"):
        pull(reference, tmp_path / "layout", platform=AMD64, deep=was_deep)
    registry.requests.clear()
    if is_right:
        assert pull(reference, tmp_path / "layout", platform=AMD64, deep=True).is_deep
    else:
        with pytest.raises(DiffIdMismatchError, match=r"^layer 1 of 1 "):
            pull(reference, tmp_path / "layout", platform=AMD64, deep=True)
        assert not list(tmp_path.rglob(f"*{image.layers[0].digest.encoded}"))
    (request,) = [request for request in registry.requests if request.path.endswith(layer)]
    assert request.headers["range"] == "bytes=2000000-"


@pytest.mark.parametrize("is_right", [True, False])
def test_layer_in_an_unfinished_archive_is_proven(registry: FakeRegistry, tmp_path: Path, is_right: bool) -> None:
    image = SOUND if is_right else build_image([TARS[0][:-1], TARS[1]], edit_config=diff_ids_of(TARS))
    reference, (first, second) = image.serve(registry, "library/app", "1"), image.layers
    registry.misbehave(str(second.digest), Fault(status=400), times=1)
    with pytest.raises(Exception, match="400"):
        pull(reference, tmp_path / "a.tar", platform=AMD64, deep=False, jobs=1)
    registry.requests.clear()
    if is_right:
        assert pull(reference, tmp_path / "a.tar", platform=AMD64, jobs=1).is_deep
    else:
        with pytest.raises(DiffIdMismatchError, match=r"^layer 1 of 2 "):
            pull(reference, tmp_path / "a.tar", platform=AMD64, jobs=1)
        assert os.listdir(tmp_path) == []
    assert not [request for request in registry.requests if request.path.endswith(str(first.digest))]


@pytest.mark.parametrize("name", ["layout", "a.tar", "stream"])
@pytest.mark.parametrize("is_right", [True, False])
def test_layer_over_several_connections_is_proven(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_right: bool
) -> None:
    """Its bytes are written to their places out of order, or wait in a ring."""
    monkeypatch.setattr(ranges, "_WORTHWHILE_SECONDS", 0.0)
    monkeypatch.setattr(ranges, "_FAST_BYTES_PER_SECOND", float("inf"))
    monkeypatch.setattr(ranges, "_BUSY_SHARE", float("inf"))
    tar = tar_of([member("big", random.Random(3).randbytes(20 * MIB))])
    image = build_image([tar], edit_config=diff_ids_of([tar if is_right else TARS[0]]))
    reference = image.serve(registry, "library/app", "1")

    def pull_it() -> PullResult:
        if name != "stream":
            return pull(reference, tmp_path / name, platform=AMD64, deep=True)
        with closing(open_source(reference)) as source:
            return copy_to_archive([source], io.BytesIO(), PullOptions(AMD64, deep=True))[0]

    if is_right:
        assert pull_it().is_deep
    else:
        with pytest.raises(DiffIdMismatchError, match=rf"^layer 1 of 1 .*, got {Digest.of(tar)}$"):
            pull_it()
        assert os.listdir(tmp_path) == []
    assert sum("bytes=" in request.headers.get("range", "") for request in registry.requests) > 2


def test_wrong_digest_is_the_error_and_is_tried_again(registry: FakeRegistry, tmp_path: Path) -> None:
    """Damage on the way also damages the tar; the digest says so, and the second try brings the right bytes."""
    reference = SOUND.serve(registry, "library/app", "1")
    layer = SOUND.layers[0]
    damaged = Fault(change=lambda raw: raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))
    registry.misbehave(str(layer.digest), damaged, times=1)
    assert pull(reference, tmp_path / "layout", platform=AMD64, deep=True).is_deep
    registry.misbehave(str(layer.digest), damaged)
    with pytest.raises(DigestMismatchError, match=r"^layer 1 of 2 .*: digest mismatch: ") as caught:
        pull(reference, tmp_path / "again", platform=AMD64, deep=True)
    assert not isinstance(caught.value, DiffIdMismatchError)
    assert os.listdir(tmp_path) == ["layout"]
