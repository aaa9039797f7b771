"""Sets of volumes, and the blobs that are in them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ociexport.system.progress.protocol import SILENT, Progress
from ociexport.transfer.bundle.select import ThinOptions
from ociexport.transfer.copy_to_archive import copy_to_archive
from ociexport.transfer.options import PullOptions
from ociexport.transfer.result import PullResult
from tests.support.image_builder import AMD64, BuiltImage
from tests.support.updates import NAME, have


def pull_volumes(
    out: Path, images: Sequence[tuple[BuiltImage, str]], size: int, *since: Path, progress: Progress = SILENT
) -> list[PullResult]:
    """Write images, each with its tag, into volumes called after ``out``."""
    options = PullOptions(AMD64, thin=ThinOptions(have(*since), "docker"), volume_bytes=size)
    sources = [image.source(tag, f"{NAME}:{tag}") for image, tag in images]
    return copy_to_archive(sources, str(out), options, progress)


def write_volumes(out: Path, image: BuiltImage, tag: str, size: int, *since: Path) -> list[Path]:
    """Write one image into volumes; return their paths, in order."""
    pull_volumes(out, [(image, tag)], size, *since)
    return volumes_of(out)


def volumes_of(out: Path) -> list[Path]:
    """Return the volumes called after ``out``, in order."""
    return sorted(out.parent.glob(f"{out.stem}.*-of-*.tar"))


def files_in(volume: Path) -> dict[str, bytes]:
    """Return the files of a volume."""
    with tarfile.open(volume) as tar:
        return {item.name: file.read() for item in tar if (file := tar.extractfile(item)) is not None}


def bundle_of(volume: Path) -> Any:
    """Return the ``bundle.json`` of a volume."""
    return json.loads(files_in(volume)["bundle.json"])


def joined(volumes: Sequence[Path]) -> dict[str, bytes]:
    """Return all blobs of some volumes by digest, with the ranges of cut blobs put together."""
    blobs: dict[str, bytes] = {}
    for volume in volumes:
        files = files_in(volume)
        blobs |= {name.removeprefix("blobs/"): content for name, content in files.items() if name.startswith("blobs/")}
        for one in bundle_of(volume)["volume"]["ranges"]:
            name = one["blob"].replace(":", "/")
            content = files[f"ranges/{name}.{one['offset']}"]
            assert len(blobs.setdefault(name, b"")) == one["offset"]
            assert len(content) == one["length"]
            blobs[name] += content
    return {name.replace("/", ":"): content for name, content in blobs.items()}
