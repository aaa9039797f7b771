"""A locked pull of 1,000 images with nothing to do takes under a second. Source: issue 18, "Lists and locks"."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from ociexport.images.choose import PlatformChoice
from ociexport.spec.descriptor import Platform
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.lists.locked import LockedImage, LockedManifest
from ociexport.transfer.lists.unchanged import Unchanged
from tests.support.command import run_command
from tests.support.image_builder import BuiltImage, build_image, write_layout
from tests.support.memory_source import member

AMD64 = PlatformChoice((Platform("linux", "amd64"),))


def locked(name: str, image: BuiltImage) -> LockedImage:
    one = LockedManifest("linux/amd64", image.digest, image.config.digest, 1)
    return LockedImage(name, f"127.0.0.1:1/none:{name}", image.digest, image.digest, AMD64, (one,), 1, None, None)


def test_a_thousand_images(tmp_path: Path) -> None:
    images = {f"t{number}": build_image([[member(f"own {number}")]]) for number in range(1000)}
    write_layout(tmp_path / "layout", images)
    (tmp_path / "images.lock").write_text("".join(locked(name, image).to_line() for name, image in images.items()))
    before = os.stat(tmp_path / "layout/index.json")
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = run_command("pull", "--locked", tmp_path / "images.lock", "--out", tmp_path / "layout", home=tmp_path)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    after = os.stat(tmp_path / "layout/index.json")
    assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 1000), ended.stderr
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    # Of the processor, since other tests may run beside this one.
    assert used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime < 1.5


def test_what_is_not_as_it_was_locked_is_pulled(tmp_path: Path) -> None:
    image, other = build_image([[member("a")]]), build_image([[member("b")]])

    def has(name: str = "1", expected: BuiltImage = image) -> bool:
        return Unchanged(ImageLayout(tmp_path / "layout")).has(locked(name, expected))

    assert not has()
    write_layout(tmp_path / "layout", {"1": image})
    assert has()
    assert not has("2")
    assert not has("1", other)
    layer = Path(ImageLayout(tmp_path / "layout").blob_path(image.layers[0].digest))
    whole = layer.read_bytes()
    layer.write_bytes(whole[:-1])
    assert not has()
    layer.unlink()
    assert not has()
    layer.write_bytes(whole)
    assert has()
    manifest = Path(ImageLayout(tmp_path / "layout").blob_path(image.digest))
    manifest.write_bytes(manifest.read_bytes().replace(b"2", b"3", 1))
    assert not has()
