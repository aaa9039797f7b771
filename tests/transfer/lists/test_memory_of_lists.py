"""What a run keeps of each image of a long list is small. Source: issue 18, "10,000 images: memory flat at 96 MiB"."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from ociexport.images.choose import PlatformChoice
from ociexport.registry.client import RegistryClient
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.reference import ImageReference
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.lists.lock import parse_lock_line
from ociexport.transfer.lists.locked import LockedImage, LockedManifest

COUNT = 200


def lock_line(number: int) -> str:
    digest, config = Digest.of(b"manifest %d" % number), Digest.of(b"config %d" % number)
    name = f"registry.example/team/image-{number}:1"
    manifest = LockedManifest("linux/amd64", digest, config, 1)
    choice = PlatformChoice((Platform("linux", "amd64"),))
    return LockedImage(name, name, digest, digest, choice, (manifest,), 1, None, None).to_line()


def locked_images(_: Path) -> Callable[[int], object]:
    return lambda number: parse_lock_line(lock_line(number))


def small_blobs(directory: Path) -> Callable[[int], object]:
    layout = ImageLayout(directory)
    names = [str(number).encode() for number in range(COUNT + 1)]
    with layout.begin():
        for name in names:
            with layout.new_blob(Descriptor("", Digest.of(name), len(name))) as writer:
                writer.write(name)
    return lambda number: layout.has_blob(Descriptor("", Digest.of(names[number]), len(names[number]))) and layout


def repositories(_: Path) -> Callable[[int], object]:
    client = RegistryClient()

    def ask(number: int) -> RegistryClient:
        client.session(client.home(ImageReference.parse(f"registry.example/team/image-{number}:1")))
        return client

    return ask


@pytest.mark.parametrize(("kept_of", "limit"), [(locked_images, 1150), (small_blobs, 50), (repositories, 600)])
def test_little_is_kept_of_each(
    kept_of: Callable[[Path], Callable[[int], object]], limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", os.devnull)
    keep = kept_of(tmp_path)
    kept = [keep(COUNT)]  # what is the same for all
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept += [keep(number) for number in range(COUNT)]
        each = (tracemalloc.get_traced_memory()[0] - before) / COUNT
    finally:
        tracemalloc.stop()
    assert each < limit
