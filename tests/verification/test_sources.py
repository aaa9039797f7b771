"""verify(): archives of all kinds, and images in registries."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from ociexport import verify
from ociexport.errors import NotFoundError, RegistryNotFoundError, TransferError
from ociexport.images.choose import PlatformChoice
from ociexport.registry.options import RegistryOptions
from ociexport.spec.digest import Digest
from ociexport.transfer.pull import pull
from tests.support.damaged_layout import DamagedLayout
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import (
    AMD64,
    ARM64,
    build_image,
    build_index,
    to_json,
)
from tests.support.memory_source import member

IMAGE = build_image([[member("a", b"x")], [member("b")]])
OTHER = build_image([[member("c")]], platform=ARM64)
INDEX = build_index([OTHER, IMAGE])
FIRST, SECOND = IMAGE.layers


def test_one_tag_of_several_repositories_is_right(tmp_path: Path, registry: FakeRegistry) -> None:
    """So we write it ourselves: the full names tell them apart."""
    for repository, image in (("a/app", IMAGE), ("b/app", OTHER)):
        pull(image.serve(registry, repository, "1"), tmp_path / "layout", platform=PlatformChoice())
    assert verify(tmp_path / "layout").findings == ()


# Archives.


def tar_from(directory: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(directory, arcname=".")
    return buffer.getvalue()


def test_layout_in_an_archive_is_looked_at_in_the_same_way(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(one=IMAGE, all=INDEX)
    archive = tmp_path / "images.tar"
    archive.write_bytes(tar_from(layout.path))
    assert verify(archive).findings == ()
    layout.blob(FIRST.digest).write_bytes(bytes(FIRST.size))
    layout.blob(OTHER.config.digest).unlink()
    (layout.path / "blobs" / "sha256" / "README").write_bytes(b"")
    layout.blob(Digest.of(b"left")).write_bytes(b"left")
    (layout.path / "oci-layout").unlink()
    archive.write_bytes(tar_from(layout.path))
    assert layout.told(map(str, verify(archive).findings)) == layout.findings()
    assert len(layout.findings()) == 5


def test_our_own_archive_is_right(tmp_path: Path) -> None:
    pull(IMAGE.source("1", "docker.io/library/app:1"), tmp_path / "app.tar")
    found = verify(tmp_path / "app.tar")
    assert (found.findings, found.images) == ((), 1)


def test_docker_archive_is_looked_at_as_docker_reads_it(tmp_path: Path) -> None:
    pull(IMAGE.source("1", "docker.io/library/app:1"), tmp_path / "app.tar", legacy=True)
    found = verify(tmp_path / "app.tar")
    assert (found.findings, found.images, found.blobs) == ((), 1, 2)
    damaged = bytearray((tmp_path / "app.tar").read_bytes())
    with tarfile.open(tmp_path / "app.tar") as tar:
        layer = next(item for item in tar if item.name.endswith("layer.tar") and item.isreg())
    damaged[layer.offset_data + 1024] ^= 1
    (tmp_path / "app.tar").write_bytes(damaged)
    assert [finding.kind.value for finding in verify(tmp_path / "app.tar").findings] == ["digest"]


def test_files_that_dockers_list_names_must_be_there(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(one=IMAGE)
    config = f"blobs/sha256/{IMAGE.config.digest.encoded}"
    (layout.path / "manifest.json").write_bytes(
        to_json([{"Config": config, "RepoTags": None, "Layers": ["a/layer.tar"]}])
    )
    (tmp_path / "a.tar").write_bytes(tar_from(layout.path))
    assert list(map(str, verify(tmp_path / "a.tar").findings)) == [
        "wrong: manifest.json: [0]: 'a/layer.tar': not there"
    ]
    (layout.path / "index.json").unlink()
    (tmp_path / "a.tar").write_bytes(tar_from(layout.path))
    assert list(map(str, verify(tmp_path / "a.tar").findings)) == [
        f"wrong: manifest.json: '{config}': expected as many diff_ids as layers, got 1 layer but 2 diff_ids"
    ]


def test_image_that_docker_listed_but_did_not_save_is_read_from_its_own_list(
    layout: DamagedLayout, tmp_path: Path
) -> None:
    layout.write(one=IMAGE)
    layout.blob(IMAGE.digest).unlink()
    names = [f"blobs/sha256/{digest.encoded}" for digest in (IMAGE.config.digest, FIRST.digest, SECOND.digest)]
    (layout.path / "manifest.json").write_bytes(
        to_json([{"Config": names[0], "RepoTags": ["app:1"], "Layers": names[1:]}])
    )
    (tmp_path / "a.tar").write_bytes(tar_from(layout.path))
    assert layout.told(map(str, verify(tmp_path / "a.tar").findings)) == [
        "note: one: manifest <one>: docker did not save it"
    ]


@pytest.mark.parametrize("content", [b"", b"no tar at all", None])
def test_archive_that_can_not_be_read_is_a_finding(
    layout: DamagedLayout, tmp_path: Path, content: bytes | None
) -> None:
    layout.write(one=IMAGE)
    path = tmp_path / "images.tar"
    path.write_bytes(tar_from(layout.path)[:3000] if content is None else content)
    found = verify(path)
    assert not found.is_right
    assert str(found.findings[0]).startswith(f"wrong: {path}: expected ")


# Registries.


def test_image_in_a_registry_is_looked_at_for_this_platform_or_all(registry: FakeRegistry) -> None:
    name = INDEX.serve(registry, "library/app", "1")
    del registry.blobs[str(OTHER.layers[0].digest)]
    assert verify(name, platform=AMD64).findings == ()
    found = verify(name, platform=PlatformChoice())
    assert list(map(str, found.findings)) == [
        f"wrong: {name} (linux/arm64): manifest {OTHER.digest}: layer 1 of 1 ({OTHER.layers[0].digest}): not there"
    ]
    assert sum(path.endswith("/manifests/1") for path in registry.paths("GET")) == 2


def test_registry_that_gives_wrong_bytes_is_told(registry: FakeRegistry) -> None:
    name = IMAGE.serve(registry, "library/app", "1")
    registry.misbehave(str(FIRST.digest), Fault(change=lambda body: body[::-1]))
    found = verify(name)
    wrong = Digest.of(IMAGE.blobs[FIRST.digest][::-1])
    assert list(map(str, found.findings)) == [
        f"wrong: {name}: manifest {IMAGE.digest}: layer 1 of 2 ({FIRST.digest}): "
        f"digest mismatch: expected {FIRST.digest}, got {wrong}"
    ]


def test_registry_that_does_not_answer_is_an_error_and_no_finding(registry: FakeRegistry) -> None:
    name = IMAGE.serve(registry, "library/app", "1")
    with pytest.raises(RegistryNotFoundError):
        verify(f"{name}-none")
    registry.misbehave(str(FIRST.digest), Fault(reset_after=-1))
    with pytest.raises(TransferError):
        verify(name, registry=RegistryOptions(retry_times=0))


def test_place_without_a_layout_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(NotFoundError):
            verify(path)
