"""reuse: a tree that is replaced is kept where it is proven to have the image's lower layers, unchanged."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ociexport.rootfs.disk.tree_copy import stamp_of_tree
from ociexport.rootfs.receipt import write_receipt
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import UnpackOptions, UnpackResult, unpack
from ociexport.system.progress.protocol import SilentProgress
from tests.rootfs.outputs.test_layers import CASES
from tests.support.disk_images import hard_source
from tests.support.image_builder import BuiltSource, build_image
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.ordinary_user import GID, UID
from tests.support.system_parts import mounted, require
from tests.support.unpacker import as_ordinary_user

BASE: list[Member] = [
    directory("etc", 0o2750, uid=3, gid=4, mtime=5),
    member("etc/f", b"x" * 5000, uid=7, xattrs={"user.note": b"v"}),
    hard_link("twin", "etc/f"),
    symlink("l", "etc"),
    member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    member("pipe", type=tarfile.FIFOTYPE),
    member("gone/x"),
    member("closed", b"c", mode=0),
]
UPPER: list[Member] = [member("l/g", b"2"), member(".wh.gone"), hard_link("third", "twin"), directory("etc", 0o700)]


class Said(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def update(
    work: Path, source: BuiltSource | MemorySource, *, replace: bool = True, **options: object
) -> tuple[UnpackResult, list[str]]:
    """Unpack as the command does with ``--replace --receipt``; return the result and what was said about the tree."""
    said, rootfs, receipt = Said(), work / "rootfs", str(work / "receipt")
    chosen = UnpackOptions(replace=replace, receipt=receipt, **options)  # type: ignore[arg-type]
    result = unpack(source, rootfs, options=chosen, progress=said)
    write_receipt(receipt, result, "memory", str(rootfs))
    return result, [line.removeprefix(f"{rootfs}: ") for line in said.lines if line.startswith(f"{rootfs}: ")]


def expected_hash(work: Path, source: BuiltSource | MemorySource) -> str:
    unpack(source, work / "expected")
    return str(hash_tree(work / "expected", mtimes=True))


def test_only_new_layers_are_read(tmp_path: Path) -> None:
    first, second = build_image([BASE]), build_image([BASE, UPPER, [member("top")]])
    before, _ = update(tmp_path, first.source(), replace=False)
    source = second.source()
    result, said = update(tmp_path, source)
    assert said == [f"has 1 layer of the image, unchanged since {tmp_path}/receipt"]
    assert source.opened == [second.config.digest, *(layer.digest for layer in second.layers[1:])]
    assert (result.kept_layers, result.entries) == (1, before.entries + len(UPPER) + 1)
    assert str(hash_tree(tmp_path / "rootfs", mtimes=True)) == expected_hash(tmp_path, second.source())
    assert sorted(os.listdir(tmp_path)) == ["expected", "receipt", "rootfs"]
    # And once more, from the receipt of a tree that was kept.
    third = build_image([BASE, UPPER, [member("top")], [member(".wh.top")]])
    assert update(tmp_path, third.source())[0].kept_layers == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners")
@pytest.mark.parametrize("name", ["hard", *CASES])
def test_tree_is_that_of_a_full_unpack(name: str, tmp_path: Path) -> None:
    source = hard_source() if name == "hard" else MemorySource([tar_of(layer) for layer in CASES[name]])
    tars = tars_of(source)
    update(tmp_path, MemorySource(tars[:1]), replace=False)
    result, _ = update(tmp_path, MemorySource(tars))
    assert result.kept_layers == 1
    assert str(hash_tree(tmp_path / "rootfs", mtimes=True)) == expected_hash(tmp_path, source)


def tars_of(source: MemorySource) -> list[bytes]:
    return [gzip.decompress(source.blobs[layer.digest]) for layer in source.layers]


def touch(rootfs: Path) -> None:
    (rootfs / "etc" / "f").write_bytes((rootfs / "etc" / "f").read_bytes())


def copy(rootfs: Path) -> None:
    subprocess.run(["cp", "-a", rootfs, rootfs.with_name("copy")], check=True)
    shutil.rmtree(rootfs)
    rootfs.with_name("copy").rename(rootfs)


def add_attribute(rootfs: Path) -> None:
    os.setxattr(rootfs / "etc", "user.new", b"1")


def set_back(rootfs: Path) -> None:
    """Change a file, and give it its size and time back."""
    path = rootfs / "twin"
    status = path.stat()
    path.write_bytes(b"y" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def forget_stamp(rootfs: Path) -> None:
    receipt = rootfs.with_name("receipt")
    told = json.loads(receipt.read_bytes())
    del told["tree"]
    receipt.write_text(json.dumps(told))


CHANGED = "all layers are unpacked: the tree was changed since it was unpacked"


@pytest.mark.skipif(os.geteuid() != 0, reason="the tree has files of other users")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (touch, CHANGED),
        (copy, CHANGED),
        (add_attribute, CHANGED),
        (set_back, CHANGED),
        (lambda rootfs: (rootfs / "etc" / "f").rename(rootfs / "etc" / "g"), CHANGED),
        (lambda rootfs: (rootfs / "closed").chmod(0o644), CHANGED),
        (forget_stamp, "all layers are unpacked: the receipt has no stamp of the tree"),
    ],
)
def test_changed_tree_is_unpacked_anew(change: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    first, second = build_image([BASE]), build_image([BASE, UPPER])
    update(tmp_path, first.source(), replace=False)
    change(tmp_path / "rootfs")
    result, said = update(tmp_path, second.source())
    assert (said, result.kept_layers) == ([reason], 0)
    assert str(hash_tree(tmp_path / "rootfs", mtimes=True)) == expected_hash(tmp_path, second.source())


def test_tree_of_the_same_image_stays(tmp_path: Path) -> None:
    image = build_image([BASE, UPPER])
    before, _ = update(tmp_path, image.source(), replace=False)
    inode, source = (tmp_path / "rootfs").stat().st_ino, image.source()
    result, _ = update(tmp_path, source)
    assert source.opened == [image.config.digest]
    assert (result.kept_layers, result.entries, result.tar_bytes) == (2, before.entries, before.tar_bytes)
    assert (tmp_path / "rootfs").stat().st_ino == inode


def test_another_image_or_another_way_is_unpacked_anew(tmp_path: Path) -> None:
    base, other = [member("f", b"1")], [member("f", b"2")]
    update(tmp_path, build_image([base, UPPER[:1]]).source(), replace=False)
    _, said = update(tmp_path, build_image([other, UPPER[:1]]).source())
    assert said == ["all layers are unpacked: the image does not begin with the layers of the receipt"]
    _, said = update(tmp_path, build_image([other, UPPER[:1], [member("x")]]).source(), holes=True)
    assert said == ["all layers are unpacked: it is to be made in another way than before"]


def test_layer_that_needs_more_than_the_tree_is_unpacked_anew(tmp_path: Path) -> None:
    """AUFS's directory of linked files is not in the tree."""
    base = [member(".wh..wh.plnk/1.2", b"x"), hard_link("a", ".wh..wh.plnk/1.2")]
    second = build_image([base, [hard_link("b", ".wh..wh.plnk/1.2")]])
    update(tmp_path, build_image([base]).source(), replace=False)
    result, said = update(tmp_path, second.source())
    assert (len(said), result.kept_layers) == (2, 0)
    assert said[1].startswith("all layers are unpacked: layer 2 of 2")
    assert (tmp_path / "rootfs" / "a").samefile(tmp_path / "rootfs" / "b")


def test_losses_of_kept_layers_are_told_again(tmp_path: Path) -> None:
    base = [member("f", xattrs={"security.selinux": b"x", "trusted.overlay.opaque": b"y"})]
    first, second = build_image([base]), build_image([base, [member("g", xattrs={"security.selinux": b"x"})]])
    update(tmp_path, first.source(), replace=False)
    result, _ = update(tmp_path, second.source())
    assert result.kept_layers == 1
    assert next(result.losses.lines()).startswith("xattrs: 3 left out")


@pytest.mark.skipif(os.geteuid() != 0, reason="root changes its user")
def test_ordinary_user_keeps_recorded_owners() -> None:
    # pytest's directories are closed to other users.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        _keep_recorded_owners(Path(name))


def _keep_recorded_owners(tmp_path: Path) -> None:
    base = [member for member in BASE if member[0].name != "closed"]
    first, second = MemorySource([tar_of(base)]), MemorySource([tar_of(base), tar_of(UPPER)])
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, UID, GID)

    def both() -> tuple[int, bool]:
        update(work, first, replace=False)
        result, _ = update(work, second)
        return result.kept_layers, str(hash_tree(work / "rootfs", mtimes=True)) == expected_hash(work, second)

    assert as_ordinary_user(both) == (1, True)


@pytest.mark.system
@pytest.mark.parametrize("maker", ["mkfs.btrfs", "mkfs.xfs"])
def test_data_is_shared_where_the_file_system_can(maker: str, tmp_path: Path) -> None:
    require(maker, "mount", root=True)
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 350 * 1024 * 1024)
    subprocess.run([maker, "-q", image], check=True, capture_output=True)
    data = os.urandom(20_000_000)
    first = build_image([[member("f", data)]], compression="plain")
    second = build_image([[member("f", data)], [member("g")]], compression="plain")
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:
        (disk / "work").mkdir()
        update(disk / "work", first.source(), replace=False)
        before = stamp_of_tree(str(disk / "work" / "rootfs"))
        with open(disk / "work" / "rootfs" / "f", "rb") as kept:
            os.sync()
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            assert update(disk / "work", second.source())[0].kept_layers == 1
            os.sync()
            assert free - os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize < 10_000_000
            assert kept.read(100) == data[:100]
        assert before != stamp_of_tree(str(disk / "work" / "rootfs"))
        assert stat.S_ISREG(os.stat(disk / "work" / "rootfs" / "g").st_mode)
