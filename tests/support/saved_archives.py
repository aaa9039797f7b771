"""Archives in the formats of docker save (any version), skopeo, podman, crane and kaniko, from literals."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ociexport.spec.digest import Digest
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from tests.support.image_builder import AMD64, BuiltImage, build_image, to_json
from tests.support.memory_source import directory, hard_link, member, symlink, tar_of

BASE = [directory("etc"), member("etc/a", b"1"), hard_link("etc/b", "etc/a")]
TARS = [tar_of(BASE), tar_of([member("etc/.wh.a"), symlink("c", "etc/b")]), tar_of(BASE)]
IMAGE = build_image(TARS, compression="plain")
CONFIG = IMAGE.blobs[IMAGE.config.digest]
CONFIG_ID = IMAGE.config.digest.encoded
LAYER_IDS = ["1" * 64, "2" * 64, "3" * 64]
V1_IDS = ["a" * 64, "b" * 64]
FULL_NAME = "docker.io/library/app:1"
Files = dict[str, bytes | tarfile.TarInfo]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.linkname = kind, target
    return item


def write_tar(path: Path, files: Mapping[str, bytes | tarfile.TarInfo], prefix: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            item = tarfile.TarInfo(prefix + name)
            if isinstance(content, tarfile.TarInfo):
                item.type, item.linkname = content.type, content.linkname
                tar.addfile(item)
            else:
                item.size = len(content)
                tar.addfile(item, io.BytesIO(content))
    return path


def docker_manifest(config: str, layers: list[str], tags: list[str] | None) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": tags, "Layers": layers}]).encode()


def of_docker_1_10(image: BuiltImage = IMAGE, tags: list[str] | None = None) -> Files:
    """1.10 to 24: a directory for each layer, whose ``layer.tar`` is a link if the layer occurred before."""
    files: Files = {}
    for number, (layer_id, layer) in enumerate(zip(LAYER_IDS, image.layers, strict=False)):
        files[f"{layer_id}/VERSION"] = b"1.0"
        files[f"{layer_id}/json"] = b'{"id": "%b"}' % layer_id.encode()
        first = image.layers.index(layer)
        content = image.blobs[layer.digest]
        is_first = first == number
        files[f"{layer_id}/layer.tar"] = content if is_first else link("", f"../{LAYER_IDS[first]}/layer.tar")
    names = [f"{layer_id}/layer.tar" for layer_id, _ in zip(LAYER_IDS, image.layers, strict=False)]
    config = f"{image.config.digest.encoded}.json"
    files[config] = image.blobs[image.config.digest]
    files["manifest.json"] = docker_manifest(config, names, ["app:1"] if tags is None else tags)
    files["repositories"] = json.dumps({"app": {"1": LAYER_IDS[2]}}).encode()
    return files


def of_docker_25() -> Files:
    """A layout and a docker archive at once."""
    stream = io.BytesIO()
    copy_to_archive([IMAGE.source("1", FULL_NAME)], stream, PullOptions(AMD64))
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]


def of_docker_25_with_an_index_of_more() -> Files:
    """docker save of one platform: its index.json names an index that was not saved (kind issue 3795)."""
    files = of_docker_25()
    index = json.loads(files["index.json"])  # type: ignore[arg-type]
    index["manifests"][0].update(digest=str(Digest.of(b"absent")), mediaType="application/vnd.oci.image.index.v1+json")
    return files | {"index.json": to_json(index)}


def of_crane(suffix: str = ".tar.gz") -> Files:
    """crane and kaniko: compressed layers named by digest, a config named by its digest."""
    layers = {f"{Digest.of(gzip.compress(tar, mtime=0)).encoded}{suffix}": gzip.compress(tar, mtime=0) for tar in TARS}
    names = [f"{Digest.of(gzip.compress(tar, mtime=0)).encoded}{suffix}" for tar in TARS]
    manifest = docker_manifest(f"sha256:{CONFIG_ID}", names, ["docker.io/library/app:1"])
    return {f"sha256:{CONFIG_ID}": CONFIG, **layers, "manifest.json": manifest}


def of_skopeo() -> Files:
    """skopeo and podman: plain layers named by diff_id, and links for readers that expect directories."""
    names = [f"{diff_id.encoded}.tar" for diff_id in IMAGE.diff_ids]
    layers: Files = dict(zip(names, TARS, strict=True))
    for layer_id, name in zip(LAYER_IDS, names, strict=True):
        layers[f"{layer_id}/layer.tar"] = link("", f"../{name}")
    manifest = docker_manifest(f"{CONFIG_ID}.json", names, ["docker.io/library/app:1"])
    return {**layers, f"{CONFIG_ID}.json": CONFIG, "manifest.json": manifest}


def with_hard_links() -> Files:
    files = of_docker_1_10()
    return files | {f"{LAYER_IDS[2]}/layer.tar": link("", f"{LAYER_IDS[0]}/layer.tar", tarfile.LNKTYPE)}


GENERATIONS: dict[str, Callable[[], Files]] = {
    "docker 1.10": of_docker_1_10,
    "docker 25": of_docker_25,
    "docker 25, one platform": of_docker_25_with_an_index_of_more,
    "crane": of_crane,
    "skopeo": of_skopeo,
    "hard links": with_hard_links,
}


def tree_of(rootfs: Path) -> list[str]:
    found = sorted(rootfs.rglob("*"))
    return [f"{path.relative_to(rootfs)} {path.read_text() if path.is_file() else ''}" for path in found]


def of_docker_1_9(**top: object) -> Files:
    """Before 1.10: no manifest.json; a chain of layers, each with its JSON, and names in ``repositories``."""
    base = {"id": V1_IDS[0], "created": "2015-01-01T00:00:00Z", "container_config": {"Cmd": ["/bin/sh", "-c", "x"]}}
    last = {
        "id": V1_IDS[1],
        "parent": V1_IDS[0],
        "created": "2015-01-02T00:00:00Z",
        "author": "me",
        "config": {"Env": ["A=b"], "Cmd": ["sh"]},
        "architecture": "amd64",
        "os": "linux",
        "Size": 7,
        **top,
    }
    files: Files = {"repositories": json.dumps({"app": {"1": V1_IDS[1]}}).encode()}
    for layer_id, document, tar in zip(V1_IDS, [base, last], TARS, strict=False):
        files |= {f"{layer_id}/VERSION": b"1.0", f"{layer_id}/json": to_json(document), f"{layer_id}/layer.tar": tar}
    return files
