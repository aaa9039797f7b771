"""pull: any source to any destination, every byte verified, a name only for what is complete."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import (
    DigestMismatchError,
    InvalidImageError,
    NoMatchingPlatformError,
    NotFoundError,
    SizeMismatchError,
    TransferError,
    UsageError,
)
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import build_image
from tests.support.memory_source import MemorySource, member, tar_of
from tests.support.recording_progress import RecordingProgress

AMD64 = Platform("linux", "amd64")


@pytest.fixture
def source() -> MemorySource:
    return MemorySource([tar_of([member("a", os.urandom(3_000_000))]), tar_of([member("b", b"2")])])


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "layout")


@pytest.fixture
def registry(source: MemorySource) -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        for raw in source.blobs.values():
            registry.add_blob(raw)
        registry.add_manifest("team/app", "1", source.blobs[source.manifest.digest], mediatypes.OCI_MANIFEST)
        yield registry


def blobs_in(layout: ImageLayout) -> set[str]:
    return set(os.listdir(os.path.join(layout.path, "blobs", "sha256")))


def test_all_blobs_arrive_byte_for_byte(source: MemorySource, layout: ImageLayout) -> None:
    result = pull(source, layout, platform=AMD64)
    assert blobs_in(layout) == {digest.encoded for digest in source.blobs}
    for digest, raw in source.blobs.items():
        assert Path(layout.blob_path(digest)).read_bytes() == raw
    ((descriptor, name),) = layout.read_images()
    assert (descriptor.digest, descriptor.platform, name.tag) == (source.manifest.digest, AMD64, "latest")
    assert (result.fetched_blobs, result.reused_blobs, result.platform) == (3, 0, AMD64)
    assert result.fetched_bytes == sum(len(raw) for raw in source.blobs.values()) - source.manifest.size


def test_what_is_there_and_valid_is_not_fetched_again(registry: FakeRegistry, layout: ImageLayout) -> None:
    """docker's local check: it looks for the image ID and the layers before it downloads anything."""
    image = f"{registry.host}/team/app:1"
    pull(image, layout, platform=AMD64)
    registry.requests.clear()
    result = pull(image, layout, platform=AMD64)
    assert [path for path in registry.paths("GET") if "/blobs/" in path] == []
    assert (result.fetched_blobs, result.reused_blobs) == (0, 3)


def test_damaged_blob_is_fetched_again(registry: FakeRegistry, source: MemorySource, layout: ImageLayout) -> None:
    image = f"{registry.host}/team/app:1"
    pull(image, layout, platform=AMD64)
    path = Path(layout.blob_path(source.layers[0].digest))
    path.write_bytes(path.read_bytes()[:-1])
    result = pull(image, layout, platform=AMD64)
    assert (result.fetched_blobs, result.reused_blobs) == (1, 2)
    assert path.read_bytes() == source.blobs[source.layers[0].digest]


@pytest.mark.parametrize("jobs", [0, -1, 65])
def test_number_of_jobs_is_verified(source: MemorySource, layout: ImageLayout, jobs: int) -> None:
    with pytest.raises(UsageError) as caught:
        pull(source, layout, jobs=jobs)
    assert str(caught.value) == f"jobs: expected 1 to 64, got {jobs}"


def test_same_layer_twice_is_fetched_once(layout: ImageLayout) -> None:
    tar = tar_of([member("a", b"1")])
    source = MemorySource([tar, tar])
    assert pull(source, layout, platform=AMD64).fetched_blobs == 2


def test_bytes_altered_once_are_fetched_once_more(
    registry: FakeRegistry, source: MemorySource, layout: ImageLayout
) -> None:
    registry.misbehave(source.layers[0].digest.encoded, Fault(change=lambda raw: raw[::-1]), times=1)
    progress = RecordingProgress()
    pull(f"{registry.host}/team/app:1", layout, platform=AMD64, progress=progress)
    digest = source.layers[0].digest
    assert progress.warnings == [
        f"layer 1/2 {digest.short}: digest mismatch: expected {digest}, "
        f"got {Digest.of(source.blobs[digest][::-1])}; fetching it once more, from the beginning"
    ]


def test_bytes_altered_for_good_are_an_error_that_names_the_layer(source: MemorySource, layout: ImageLayout) -> None:
    digest = source.layers[1].digest
    source.blobs[digest] = source.blobs[digest][::-1]
    with pytest.raises(DigestMismatchError) as caught:
        pull(source, layout, platform=AMD64)
    assert str(caught.value) == (
        f"layer 2 of 2 ({digest}): digest mismatch: expected {digest}, got {Digest.of(source.blobs[digest])}"
    )
    assert not os.path.exists(layout.path)


def test_body_longer_than_declared_is_an_error(source: MemorySource, layout: ImageLayout) -> None:
    digest = source.layers[1].digest
    source.blobs[digest] += b"x"
    with pytest.raises(SizeMismatchError, match=rf"^layer 2 of 2 \({digest}\): size mismatch: expected "):
        pull(source, layout, platform=AMD64)


def test_image_whose_counts_differ_is_refused_before_anything_is_written(layout: ImageLayout) -> None:
    tar = tar_of([member("a", b"1")])
    source = MemorySource([tar, tar], diff_ids=[str(Digest.of(tar))])
    with pytest.raises(InvalidImageError, match="expected as many diff_ids as layers, got 2 layers but 1 diff_id"):
        pull(source, layout, platform=AMD64)
    assert not os.path.exists(layout.path)


def test_same_digest_with_two_sizes_is_refused(layout: ImageLayout) -> None:
    tar = tar_of([member("a", b"1")])
    source = MemorySource([tar, tar])
    manifest = json.loads(source.blobs[source.manifest.digest])
    manifest["layers"][1]["size"] += 1
    raw = json.dumps(manifest).encode()
    source.manifest = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(raw), len(raw))
    source.blobs[source.manifest.digest] = raw
    with pytest.raises(InvalidImageError, match="as for the same digest before"):
        pull(source, layout, platform=AMD64)


def test_first_failure_stops_the_others(layout: ImageLayout) -> None:
    """One blob fails at once; the other would never end."""

    class EndlessStream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return b"x"

    class StuckSource(MemorySource):
        def open_blob(self, descriptor: Descriptor, offset: int = 0) -> io.BytesIO:
            if descriptor == self.layers[0]:
                return EndlessStream()
            if descriptor == self.layers[1]:
                raise TransferError("connection refused")
            return super().open_blob(descriptor, offset)

    source = StuckSource([tar_of([member("a", os.urandom(9_000_000))]), tar_of([member("b", b"2")])])
    with pytest.raises(TransferError, match=r"^connection refused$"):
        pull(source, layout, platform=AMD64, jobs=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]
    assert layout.read_images() == []


def test_missing_layer_is_told_with_its_foreign_address(layout: ImageLayout) -> None:
    source = MemorySource([tar_of([member("a", b"1")])])
    manifest = json.loads(source.blobs[source.manifest.digest])
    manifest["layers"][0]["urls"] = ["https://go.microsoft.test/layer"]
    raw = json.dumps(manifest).encode()
    del source.blobs[source.layers[0].digest]
    source.manifest = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(raw), len(raw))
    source.blobs[source.manifest.digest] = raw
    with pytest.raises(NotFoundError) as caught:
        pull(source, layout, platform=AMD64)
    assert caught.value.hint == "a foreign layer, available from 'https://go.microsoft.test/layer'"


def index_source(*platforms: str) -> MemorySource:
    """Return an image with one manifest for each platform, and an attestation."""
    source = MemorySource([tar_of([member("a", b"1")])])
    entries = []
    for platform in platforms:
        system, architecture = platform.split("/")
        entries.append(source.manifest.to_json() | {"platform": {"os": system, "architecture": architecture}})
    entries.append(
        source.manifest.to_json()
        | {
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.digest": str(source.manifest.digest)},
        }
    )
    raw = json.dumps({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": entries}).encode()
    source.manifest = Descriptor(mediatypes.OCI_INDEX, Digest.of(raw), len(raw))
    source.blobs[source.manifest.digest] = raw
    return source


def test_platform_is_chosen_from_an_index_and_nothing_dangles(layout: ImageLayout) -> None:
    source = index_source("linux/arm64", "linux/amd64")
    pull(source, layout, platform=AMD64)
    ((descriptor, _),) = layout.read_images()
    assert descriptor.media_type == mediatypes.OCI_MANIFEST
    assert source.manifest.digest.encoded not in blobs_in(layout)


def test_platform_that_is_not_there_lists_those_that_are(layout: ImageLayout) -> None:
    source = index_source("linux/arm64", "windows/amd64")
    with pytest.raises(NoMatchingPlatformError) as caught:
        pull(source, layout, platform=AMD64)
    assert str(caught.value) == (
        f"manifest {source.manifest.digest}: no image for platform linux/amd64, there are: linux/arm64, windows/amd64"
    )
    assert not os.path.exists(layout.path)


def test_single_image_for_another_machine_is_taken_with_a_warning(source: MemorySource, layout: ImageLayout) -> None:
    progress = RecordingProgress()
    pull(source, layout, platform=Platform("linux", "arm64", is_default=True), progress=progress)
    assert progress.warnings == ["memory: is for linux/amd64 only, not for linux/arm64"]


def test_artifact_that_is_no_image_is_carried(layout: ImageLayout) -> None:
    source = MemorySource([tar_of([member("a", b"1")])])
    manifest = json.loads(source.blobs[source.manifest.digest])
    manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    raw = json.dumps(manifest).encode()
    source.manifest = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(raw), len(raw))
    source.blobs[source.manifest.digest] = raw
    progress = RecordingProgress()
    result = pull(source, layout, progress=progress)
    assert result.platform is None
    assert "memory: not an image but an artifact of type 'application/vnd.cncf.helm.config.v1+json'" in progress.lines
    assert len(blobs_in(layout)) == 3


def test_old_type_of_a_config_may_hide_something_else(layout: ImageLayout) -> None:
    """``application/octet-stream`` was once the type of configs but fits any content; the layer types decide."""

    def no_image(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["mediaType"] = "application/vnd.example.tar"

    image = build_image([b"weights"], media_types="legacy", edit_manifest=no_image)
    image.blobs[image.config.digest] = bytes(image.config.size)
    config = Digest.of(image.blobs[image.config.digest])
    with pytest.raises(DigestMismatchError):
        pull(image.source(), layout, platform=AMD64)

    def no_config(manifest: dict[str, Any]) -> None:
        no_image(manifest)
        manifest["config"].update(digest=str(config))

    artifact = build_image([b"weights"], media_types="legacy", edit_manifest=no_config)
    artifact.blobs[config] = bytes(artifact.config.size)
    progress = RecordingProgress()
    assert not pull(artifact.source(), layout, platform=AMD64, progress=progress).is_image
    assert progress.lines[0] == "memory: not an image but an artifact of unknown type"


def test_layout_is_copied_to_a_layout(source: MemorySource, layout: ImageLayout, tmp_path: Path) -> None:
    pull(source, layout, platform=AMD64)
    other = tmp_path / "other"
    pull(f"oci:{layout.path}:latest", other, platform=AMD64)
    assert blobs_in(ImageLayout(other)) == blobs_in(layout)


def test_cut_transfer_goes_on_in_the_next_run(
    registry: FakeRegistry, source: MemorySource, layout: ImageLayout
) -> None:
    """Bytes that arrived before the first run gave up are not fetched again."""
    digest = source.layers[0].digest
    registry.misbehave(f"/blobs/{digest}", Fault(cut_after=1_000_000), times=1)
    registry.misbehave(f"/blobs/{digest}", Fault(status=410), times=1)
    image = f"{registry.host}/team/app:1"
    with pytest.raises(Exception, match="410"):
        pull(image, layout, platform=AMD64)
    registry.requests.clear()
    progress = RecordingProgress()
    result = pull(image, layout, platform=AMD64, progress=progress)
    (request,) = [request for request in registry.requests if request.path.endswith(str(digest))]
    assert request.headers["range"] == "bytes=1000000-"
    assert result.fetched_bytes == source.layers[0].size - 1_000_000
    assert f"layer 1/2 {digest.short}: resumed at 1000000 of {source.layers[0].size} bytes" in progress.lines
