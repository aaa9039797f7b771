"""Layouts and archives in the formats of tools that are not installed, modelled on the tools' sources.

The archives of docker, crane and kaniko are in `tests.support.saved_archives`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ociexport.images.choose import PlatformChoice
from ociexport.images.source import ImageName
from ociexport.rootfs.unpack import unpack
from ociexport.spec import mediatypes
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from ociexport.verification.verify import verify
from tests.support.image_builder import AMD64, ARM64, build_attestation, build_image, build_index, to_json, write_layout
from tests.support.memory_source import directory, member
from tests.support.saved_archives import CONFIG as TAR_CONFIG
from tests.support.saved_archives import CONFIG_ID, LAYER_IDS, TARS, Files, docker_manifest, tree_of, write_tar
from tests.support.saved_archives import IMAGE as TAR_IMAGE

IMAGE = build_image([[directory("etc"), member("etc/a", b"1")], [member("b", b"2")]])
OTHER = build_image([[member("c", b"3")]], platform=ARM64)
INDEX = build_index([IMAGE, OTHER, build_attestation(IMAGE), build_attestation(OTHER)])


def write_entries(path: Path, *entries: dict[str, Any], **members: Any) -> Path:
    """Write a layout of ``INDEX`` with these entries in ``index.json``."""
    write_layout(path, {"": INDEX})
    document = {"schemaVersion": 2, "manifests": list(entries), **members}
    (path / "index.json").write_bytes(to_json(document))
    return path


def entry(image: Any, **more: Any) -> dict[str, Any]:
    return {**image.descriptor.to_json(), **more}


def of_crane(path: Path) -> Path:
    """go-containerregistry pkg/v1/layout: no name, and the type of the config as artifactType."""
    return write_entries(path, entry(IMAGE, artifactType=mediatypes.OCI_CONFIG), mediaType=mediatypes.OCI_INDEX)


def of_crane_annotated(path: Path) -> Path:
    """crane pull --format=oci --annotate-ref."""
    annotations = {"org.opencontainers.image.ref.name": "registry.test/team/app:1"}
    return write_entries(path, entry(IMAGE, annotations=annotations))


def of_regctl(path: Path) -> Path:
    """regclient scheme/ocidir: the tag, and a list of referrers under the tag that replaces the API."""
    tag = f"sha256-{IMAGE.digest.encoded}"
    return write_entries(
        path,
        entry(INDEX, annotations={"org.opencontainers.image.ref.name": "1"}),
        entry(OTHER, annotations={"org.opencontainers.image.ref.name": tag}),
    )


def of_buildkit(path: Path) -> Path:
    """moby/buildkit exporter/oci: both names and the time; one index with attestations."""
    annotations = {
        "io.containerd.image.name": "docker.io/library/app:1",
        "org.opencontainers.image.created": "2024-11-05T22:03:34Z",
        "org.opencontainers.image.ref.name": "1",
    }
    (path / "ingest").mkdir(parents=True)
    return write_entries(path, entry(INDEX, annotations=annotations), mediaType=mediatypes.OCI_INDEX)


LAYOUTS: dict[Callable[[Path], Path], ImageName] = {
    of_crane: ImageName(None, None),
    of_crane_annotated: ImageName("1", "registry.test/team/app:1"),
    of_regctl: ImageName("1", None),
    of_buildkit: ImageName("1", "docker.io/library/app:1"),
}


@pytest.mark.parametrize("is_archive", [False, True])
@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
def test_layout_is_read_without_a_name(tmp_path: Path, write: Callable[[Path], Path], is_archive: bool) -> None:
    source = write(tmp_path / "source")
    if is_archive:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            tar.add(source, ".")
        source = tmp_path / "a.tar"
    result = pull(str(source), tmp_path / "layout", platform=AMD64)
    assert result.manifest_digest == IMAGE.digest
    ((_, name),) = ImageLayout(tmp_path / "layout").read_images()
    assert name == LAYOUTS[write]
    unpack(str(source), tmp_path / "rootfs", platform=AMD64)
    assert (tmp_path / "rootfs" / "etc" / "a").read_bytes() == b"1"
    assert verify(source).is_right


def test_index_of_buildkit_comes_whole(tmp_path: Path) -> None:
    source = of_buildkit(tmp_path / "source")
    assert pull(str(source), tmp_path / "layout", platform=PlatformChoice()).digest == INDEX.digest
    assert verify(tmp_path / "layout").findings == ()


def of_crane_legacy() -> Files:
    """crane pull --format=legacy: each layer has a directory with its own copy, even if the layers are the same."""
    files: Files = {f"{CONFIG_ID}.json": TAR_CONFIG}
    for layer_id, tar in zip(LAYER_IDS, TARS, strict=True):
        files |= {f"{layer_id}/layer.tar": tar, f"{layer_id}/json": b"{}", f"{layer_id}/VERSION": b"1.0"}
    files["manifest.json"] = docker_manifest(
        f"{CONFIG_ID}.json", [f"{layer_id}/layer.tar" for layer_id in LAYER_IDS], ["registry.test/team/app:1"]
    )
    return files | {"repositories": json.dumps({"registry.test/team/app": {"1": LAYER_IDS[2]}}).encode()}


def test_legacy_tarball_of_crane_is_read(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", of_crane_legacy())
    result = pull(f"{archive}:registry.test/team/app:1", tmp_path / "layout", platform=AMD64)
    assert result.config_digest == TAR_IMAGE.config.digest
    unpack(str(archive), tmp_path / "rootfs", platform=AMD64)
    assert tree_of(tmp_path / "rootfs") == ["c 1", "etc ", "etc/a 1", "etc/b 1"]
