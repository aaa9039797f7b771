"""unpack_layers with EROFS_FILES: the kernel makes the tree of the layers' files that unpack makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.rootfs.outputs.layers.commands import layer_commands
from ociexport.rootfs.outputs.layers.erofs_files import EROFS_FILES
from ociexport.rootfs.outputs.layers.unpack import LayersResult, unpack_layers
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.rootfs.outputs.test_layers import BASE, CASES, source_of
from tests.support.disk_images import hard_source
from tests.support.image_builder import build_image
from tests.support.memory_source import MemorySource, member

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")


def mounted_hash(result: LayersResult, target: Path) -> str:
    """Mount by the command that is printed, and return the digest of the tree."""
    target.mkdir()
    try:
        subprocess.run(layer_commands(result).mount.replace(" /mnt", f" {target}"), shell=True, check=True)
        return str(hash_tree(target, mtimes=True))
    finally:
        mount_points = [str(target), *layer_commands(result).lower]
        for path in mount_points:
            if os.path.ismount(path):
                subprocess.run(["umount", path], check=True)


@needs_root
@pytest.mark.parametrize(
    "source",
    [hard_source(), *(source_of(*CASES[name]) for name in ("opaque", "hard links to files of lower layers"))],
    ids=["hard", "opaque", "links"],
)
def test_kernel_makes_the_same_tree(source: MemorySource, tmp_path: Path) -> None:
    unpack(source, tmp_path / "tree")
    result = unpack_layers(source, tmp_path / "layers", kind=EROFS_FILES)
    assert mounted_hash(result, tmp_path / "mount") == str(hash_tree(tmp_path / "tree", mtimes=True))


def test_files_have_the_names_of_containerds_cache_and_the_same_bytes_everywhere(tmp_path: Path) -> None:
    first, second = build_image([BASE, [member("etc/a")]]), build_image([BASE, [member("etc/b")]])
    unpack_layers(first.source(), tmp_path / "layers", kind=EROFS_FILES)
    source = second.source()
    result = unpack_layers(source, tmp_path / "layers", kind=EROFS_FILES)
    assert source.opened == [second.config.digest, second.layers[1].digest]
    expected = [str(tmp_path / "layers" / "sha256" / f"{diff_id.encoded}.erofs") for diff_id in second.diff_ids]
    assert [layer.path for layer in result.layers] == expected
    other = unpack_layers(second.source(), tmp_path / "other", kind=EROFS_FILES)
    for one, two in zip(result.layers, other.layers, strict=True):
        assert Path(one.path).read_bytes() == Path(two.path).read_bytes()
    assert layer_commands(result).mstack == {"layer@0.raw": expected[0], "layer@1.raw": expected[1]}


def test_what_has_no_meaning_for_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--rootless: expected ROOTFS or --layers-dir beside it, got --erofs-layers"):
        unpack_layers(source_of(BASE), tmp_path / "layers", kind=EROFS_FILES, options=UnpackOptions(rootless=True))
