"""An image and its updates, which share their two lowest layers, and the thin layouts and archives of these."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from ociexport.images.holdings import Holdings
from ociexport.spec.digest import Digest
from ociexport.storage.archive.names import is_archive_name
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.bundle.contents import open_contents
from ociexport.transfer.bundle.have import holdings_of
from ociexport.transfer.bundle.select import ThinOptions
from ociexport.transfer.copy import copy_image
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from tests.support.image_builder import AMD64, BuiltImage, build_image, write_layout
from tests.support.memory_source import Member, member

NAME = "docker.io/library/app"


def noise(seed: str, count: int = 20_000) -> bytes:
    """Return bytes that do not compress, always the same for one seed."""
    return random.Random(seed).randbytes(count)


def layer(name: str, count: int = 20_000) -> list[Member]:
    return [member(name, noise(name, count))]


BASE, RUNTIME = layer("base", 60_000), layer("runtime", 40_000)
V1 = build_image([BASE, RUNTIME, layer("app-1")])
V2 = build_image([BASE, RUNTIME, layer("app-2")])
V3 = build_image([BASE, RUNTIME, layer("app-2"), layer("patch-3")])


def write_whole(path: Path, image: BuiltImage, tag: str = "1") -> Path:
    """Write a whole image into a layout called ``app:TAG``; return its path."""
    write_layout(path, {f"{NAME}:{tag}": image})
    return path


def have(*paths: Path) -> tuple[Holdings, ...]:
    """Return what places of images have."""
    found = []
    for path in paths:
        with closing(open_contents(str(path))) as contents:
            found.append(holdings_of(contents, path.name))
    return tuple(found)


def write_update(
    path: Path, image: BuiltImage, tag: str, *since: Path, rule: str | None = None, seconds: int | None = None
) -> Path:
    """Write an image without what ``since`` has, into an archive if the path ends so; return its path."""
    rule = rule or ("docker" if is_archive_name(path.name) else "layout")
    options = PullOptions(AMD64, thin=ThinOptions(have(*since), rule, seconds))
    if is_archive_name(path.name):
        copy_to_archive([image.source(tag, f"{NAME}:{tag}")], str(path), options)
    else:
        copy_image(image.source(tag, f"{NAME}:{tag}"), ImageLayout(path), options)
    return path


def write_bundles(place: Path) -> Path:
    """Write a whole ``v1``, ``update2.tar`` from there, and ``update3`` from both, each with its number as its tag."""
    write_whole(place / "v1", V1, "1")
    write_update(place / "update2.tar", V2, "2", place / "v1")
    write_update(place / "update3", V3, "3", place / "v1", place / "update2.tar")
    return place


def blobs_in(path: Path) -> set[Digest]:
    return {Digest("sha256", file.name) for file in (path / "blobs" / "sha256").iterdir()}


def bundle_in(path: Path) -> Any:
    return json.loads((path / BUNDLE_FILE).read_bytes())


def names_in(path: Path) -> dict[str, str]:
    """Return the full names in a layout with their digests."""
    entries = json.loads((path / "index.json").read_bytes())["manifests"]
    return {entry["annotations"]["io.containerd.image.name"]: entry["digest"] for entry in entries}


def digests(items: Iterable[Any]) -> list[str]:
    return [str(item.digest) for item in items]
