"""unpack_layers: overlayfs makes the tree of the layers that unpack makes."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import DigestMismatchError, OciexportError, UsageError
from ociexport.rootfs.outputs.layers.commands import layer_commands
from ociexport.rootfs.outputs.layers.unpack import unpack_layers
from ociexport.rootfs.treehash import hash_tree
from ociexport.rootfs.unpack import UnpackOptions, unpack
from ociexport.spec.digest import Digest
from tests.rootfs.test_tar_output import MEMBERS, PATHS
from tests.support.disk_images import hard_source
from tests.support.image_builder import build_image
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.ordinary_user import GID, UID
from tests.support.overlays import enter_namespace, mount_overlay, overlay_hash
from tests.support.system_parts import mounted
from tests.support.unpacker import as_ordinary_user

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")


def source_of(*layers: list[Member]) -> MemorySource:
    return MemorySource([tar_of(layer) for layer in layers])


def hashes(source: MemorySource, work: Path) -> tuple[str, str]:
    """Return the digests of the tree that overlayfs makes and of the one that unpack makes."""
    unpack(source, work / "tree")
    return overlay_hash(unpack_layers(source, work / "layers")), str(hash_tree(work / "tree", mtimes=True))


@needs_root
def test_overlayfs_makes_the_same_tree(tmp_path: Path) -> None:
    source = hard_source()
    shown, expected = hashes(source, tmp_path)
    assert shown == expected
    # Bubblewrap mounts with this option always.
    assert overlay_hash(unpack_layers(source, tmp_path / "layers"), "userxattr") == expected


CASES: dict[str, list[list[Member]]] = {
    "whiteouts": [
        [member("a", b"1"), directory("d"), member("d/x", b"1"), member("keep", b"1"), symlink("l", "keep")],
        [member(".wh.a"), member(".wh.d"), member(".wh.l"), member(".wh.absent"), member("none/.wh.x")],
    ],
    "late whiteouts": [
        [member("d/old", b"1"), member("d/new", b"1"), member("f", b"1")],
        [member("d/new", b"2"), member("d/.wh.new"), member("f", b"2"), member(".wh.f"), member(".wh.d")],
    ],
    "early whiteouts": [
        [member("d/old", b"1"), member("d/new", b"1"), member("f", b"1")],
        [member(".wh.d"), member(".wh.f"), member("f", b"2"), member("d/.wh.new"), member("d/new", b"2")],
    ],
    "opaque": [
        [member("d/sub/old", b"1"), member("d/other", b"1"), member("e", b"1")],
        [member("d/.wh..wh..opq"), member("d/sub/new", b"2"), member("d/top", b"2")],
    ],
    "opaque root": [
        [member("old", b"1"), member("d/old", b"1"), member("file", b"1")],
        [member("d/new", b"2"), member(".wh..wh..opq"), member("absent/.wh..wh..opq")],
    ],
    "whiteouts of the first layer": [[member("a", b"1"), member(".wh.a"), member("d/b"), member("d/.wh..wh..opq")]],
    "whiteout in a directory of this layer only": [[member("f")], [directory("d"), member("d/.wh.x"), member("d/y")]],
    "whiteout through a link": [
        [directory("usr/lib"), member("usr/lib/a", b"1"), member("usr/lib/b", b"1"), symlink("lib", "/usr/lib")],
        [member("lib/.wh.a"), member("lib/c", b"2")],
    ],
    "directories and files replace each other": [
        [member("a/x", b"1"), member("b", b"1"), directory("c"), member("c/y", b"1")],
        [member("a", b"2"), directory("b"), member("b/x", b"2"), symlink("c", "b")],
        [directory("a"), member("a/z", b"3"), member("c/new", b"3")],
    ],
    "replaced twice in one layer": [
        [member("d/old", b"1")],
        [member("d", b"2"), directory("d", 0o700), member("d/new", b"2")],
    ],
    "metadata of directories that a layer implies": [
        [directory("./", 0o711, mtime=5), directory("d", 0o3775, uid=5, gid=6, mtime=7), member("d/f", b"1")],
        [member("d/g", b"2")],
        [directory("d", 0o700, mtime=8), member("d/h/i", b"3")],
        [member("d/h/j", b"4"), member("new", b"4")],
    ],
    "hard links to files of lower layers": [
        [member("a", b"x" * 9000, mode=0o6755, uid=7), hard_link("d/b", "a"), hard_link("gone", "a"), member("e", b"")],
        [member(".wh.gone"), member("d/other")],
        [hard_link("c", "a"), hard_link("f", "e")],
        [hard_link("d/c2", "c"), member("a", b"new")],
    ],
    "hard links to itself": [
        [directory("d"), member("d/a", b"x"), hard_link("b", "d/a")],
        [member("d/.wh..wh..opq"), hard_link("d/a", "d/a")],
    ],
    "the same layer twice": [
        [directory("d"), member("d/a", b"1")],
        [member("b")],
        [directory("d"), member("d/a", b"1")],
    ],
    "only empty layers": [[], []],
}


@needs_root
@pytest.mark.parametrize("layers", CASES.values(), ids=CASES)
def test_overlayfs_agrees_in_each_case(layers: list[list[Member]], tmp_path: Path) -> None:
    shown, expected = hashes(source_of(*layers), tmp_path)
    assert shown == expected


MORE_MEMBERS = st.one_of(
    MEMBERS,
    st.builds(hard_link, PATHS, PATHS),
    st.builds(lambda path: directory(path, 0o750, mtime=77, uid=5), PATHS),
    st.sampled_from([directory("./", 0o711, mtime=3), member(".wh..wh..opq")]),
)
POOLS = st.lists(st.lists(MORE_MEMBERS, max_size=5), min_size=3, max_size=5)


@needs_root
@given(
    POOLS.flatmap(
        lambda pool: st.lists(st.lists(st.sampled_from(pool), min_size=1, max_size=4), min_size=2, max_size=2)
    )
)
@settings(max_examples=40)
def test_images_that_share_layers_are_all_what_unpack_makes(images: list[list[list[Member]]]) -> None:
    """A layer that is there is taken only where it would be the same; errors are the same too."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for number, layers in enumerate(images):
            source, tree = source_of(*layers), work / f"tree{number}"
            message = ""
            try:
                unpack(source, tree)
            except OciexportError as error:
                message = str(error)
            if message:
                with pytest.raises(OciexportError, match=f"^{re.escape(message)}$"):
                    unpack_layers(source, work / "layers")
                continue
            assert overlay_hash(unpack_layers(source, work / "layers")) == str(hash_tree(tree, mtimes=True))


@needs_root
def test_whiteouts_are_devices_and_opaque_directories_have_attributes(tmp_path: Path) -> None:
    """Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"."""
    source = source_of([member("a"), member("d/x")], [member(".wh.a"), directory("d"), member("d/.wh..wh..opq")])
    top = Path(unpack_layers(source, tmp_path / "layers").layers[-1].path)
    status = os.lstat(top / "a")
    assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)
    assert os.getxattr(top / "d", "trusted.overlay.opaque") == b"y"
    assert (tmp_path / "layers").stat().st_mode & 0o077 == 0


BASE = [directory("etc"), member("etc/os", b"base"), *(member(f"usr/{number}", b"x" * 100) for number in range(50))]


def test_second_image_reads_only_its_own_layers(tmp_path: Path) -> None:
    first, second = build_image([BASE, [member("etc/a")]]), build_image([BASE, [member("etc/b"), member("usr/.wh.7")]])
    before = unpack_layers(first.source(), tmp_path / "layers")
    source = second.source()
    result = unpack_layers(source, tmp_path / "layers")
    assert [layer.is_new for layer in before.layers] == [True, True]
    assert [layer.is_new for layer in result.layers] == [False, True]
    assert [Path(layer.path).name for layer in result.layers] == [diff_id.encoded for diff_id in second.diff_ids]
    assert source.opened == [second.config.digest, second.layers[1].digest]
    again = second.source()
    assert not any(layer.is_new for layer in unpack_layers(again, tmp_path / "layers").layers)
    assert again.opened == [second.config.digest]


def test_layer_above_other_layers_is_shared_only_where_it_is_the_same(tmp_path: Path) -> None:
    own, implied = [directory("etc"), member("etc/f", b"1")], [member("etc/g", b"1")]
    bases = [[directory("etc", 0o700)], [directory("etc", 0o755)]]
    names = []
    for base in bases:
        result = unpack_layers(source_of(base, own, implied), tmp_path / "layers")
        names.append([Path(layer.path).name for layer in result.layers[1:]])
    assert names[0][0] == names[1][0]
    chain = Digest.of(tar_of(bases[1]))
    for layer in (own, implied):
        chain = Digest.of(f"{chain} {Digest.of(tar_of(layer))}".encode())
    assert names[1][1] == f"{names[0][1]}-{chain.encoded[:16]}"


def test_time_of_a_second_image(tmp_path: Path) -> None:
    base = [directory("usr"), *(member(f"usr/{number}", b"%d" % number * 500) for number in range(4000))]
    first, second = (build_image([base, [directory("usr"), member("usr/n", name)]]) for name in (b"1", b"2"))
    began = time.process_time()
    unpack_layers(first.source(), tmp_path / "layers")
    between = time.process_time()
    unpack_layers(second.source(), tmp_path / "layers")
    assert time.process_time() - between < 0.1 * (between - began)


@needs_root
def test_ordinary_user_mounts_in_a_user_namespace() -> None:
    source = source_of(
        [member("a", b"1", uid=5), member("d/x", b"1"), hard_link("l", "a"), directory("gone"), member("gone/y")],
        [member(".wh.gone"), member("d/.wh..wh..opq"), member("d/new", b"2"), hard_link("m", "a")],
        [member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), directory("d"), member("d/n2")],
    )
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.chown(work, UID, GID)

        def digests() -> tuple[str, str]:
            unpack(source, work / "tree")
            result = unpack_layers(source, work / "layers")
            (work / "mount").mkdir()
            enter_namespace()
            mount_overlay(layer_commands(result).lower, work / "mount")
            return str(hash_tree(work / "mount", mtimes=True)), str(hash_tree(work / "tree", mtimes=True))

        shown, expected = as_ordinary_user(digests)
        assert shown == expected


@needs_root
def test_device_that_overlayfs_takes_for_a_whiteout_is_left_out(tmp_path: Path) -> None:
    """It would hide a file of a layer below; as in unpack, the name that it replaces is gone."""
    device = member("etc/os", type=tarfile.CHRTYPE, devmajor=0, devminor=0)
    source = source_of(BASE, [device, hard_link("etc/twin", "etc/os"), member("new")])
    result = unpack_layers(source, tmp_path / "layers")
    assert result.losses == ("devices: 1 left out, since overlayfs takes 0:0 for a whiteout",)
    assert overlay_hash(result) == overlay_hash(
        unpack_layers(source_of(BASE, [member("etc/.wh.os"), member("new")]), tmp_path / "other")
    )


@pytest.mark.parametrize("prefix", ["trusted.overlay.", "user.overlay."])
def test_attributes_of_overlayfs_in_an_image_are_left_out(prefix: str, tmp_path: Path) -> None:
    """Else a layer could show a file of the host's other layers by redirect and metacopy."""
    xattrs = {f"{prefix}{name}": b"/etc/shadow" for name in ("redirect", "metacopy", "opaque", "whiteout", "overlay.x")}
    hostile = [member("f", b"", xattrs=xattrs), directory("d", xattrs=xattrs)]
    result = unpack_layers(source_of(BASE, hostile), tmp_path / "layers")
    for name in ("f", "d"):
        assert os.listxattr(Path(result.layers[1].path) / name) == []


def test_wrong_layer_leaves_nothing(tmp_path: Path) -> None:
    source = MemorySource(
        [tar_of(BASE), tar_of([member("a")])], diff_ids=[str(Digest.of(tar_of(BASE))), f"sha256:{'a' * 64}"]
    )
    with pytest.raises(DigestMismatchError, match="diff_id mismatch"):
        unpack_layers(source, tmp_path / "layers")
    assert os.listdir(tmp_path / "layers" / "sha256") == [Digest.of(tar_of(BASE)).encoded]


class _Deadly(BytesIO):
    """A blob at whose end the process is killed."""

    def read(self, size: int | None = -1) -> bytes:
        chunk = super().read(size)
        if not chunk:
            os.kill(os.getpid(), signal.SIGKILL)
        return chunk


def in_child(action: Callable[[], object]) -> int:
    """Run ``action`` in a child, and return its process id."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def test_killed_process_leaves_no_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(BASE)
    real = source.open_blob
    monkeypatch.setattr(
        source,
        "open_blob",
        lambda descriptor, offset=0: (_Deadly if descriptor in source.layers else BytesIO)(
            real(descriptor, offset).getvalue()
        ),
    )
    child = in_child(lambda: unpack_layers(source, tmp_path / "layers"))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    name = Digest.of(tar_of(BASE)).encoded
    assert not (tmp_path / "layers" / "sha256" / name).exists()
    monkeypatch.undo()
    assert unpack_layers(source, tmp_path / "layers").layers[0].is_new
    assert os.listdir(tmp_path / "layers" / "sha256") == [name]


def test_processes_at_once_make_each_layer_once(tmp_path: Path) -> None:
    source = source_of(BASE, [member("etc/a")], [member("etc/b")])

    def work(number: int) -> None:
        result = unpack_layers(source, tmp_path / "layers")
        (tmp_path / f"made{number}").write_text(str(sum(layer.is_new for layer in result.layers)))

    children = [in_child(lambda number=number: work(number)) for number in range(4)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert sum(int((tmp_path / f"made{number}").read_text()) for number in range(4)) == 3
    assert len(os.listdir(tmp_path / "layers" / "sha256")) == 3


def test_layer_whose_stamp_is_damaged_is_made_again(tmp_path: Path) -> None:
    source = source_of(BASE)
    unpack_layers(source, tmp_path / "layers")
    (stamp,) = (tmp_path / "layers" / ".ociexport").glob("*.stamp.json")
    stamp.write_bytes(stamp.read_bytes()[:50])
    assert unpack_layers(source, tmp_path / "layers").layers[0].is_new


@needs_root
def test_layers_made_in_another_way_are_refused(tmp_path: Path) -> None:
    unpack_layers(source_of(BASE), tmp_path / "layers")
    with pytest.raises(UsageError) as caught:
        unpack_layers(source_of(BASE), tmp_path / "layers", options=UnpackOptions(rootless=True))
    assert str(caught.value) == (
        f"'{tmp_path}/layers': expected layers made by user 0 for userxattr, got some made by root"
    )


@needs_root
@pytest.mark.parametrize("name", ["layers", "a,b:c d\\e'"])
def test_command_mounts_many_layers_below_any_name(name: str, tmp_path: Path) -> None:
    """mount(2) takes one page of options: 100 absolute paths would not fit."""
    source = source_of(*([member(f"f{number}")] for number in range(100)))
    result = unpack_layers(source, tmp_path / name)
    command = layer_commands(result).mount.replace(" /mnt", f" {tmp_path}/mount")
    (tmp_path / "mount").mkdir()
    assert os.system(command) == 0
    try:
        assert len(os.listdir(tmp_path / "mount")) == 100
    finally:
        assert os.system(f"umount {tmp_path}/mount") == 0


@needs_root
@pytest.mark.parametrize("name", ["whiteouts", "opaque root", "whiteout through a link"])
def test_whiteouts_are_marked_files_where_devices_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a sandbox that refuses mknod(2); Linux 6.7 and later take such files for whiteouts."""

    def refuse(*_words: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    source = source_of(*CASES[name])
    unpack(source, tmp_path / "tree")
    monkeypatch.setattr(os, "mknod", refuse)
    result = unpack_layers(source, tmp_path / "layers")
    assert (result.has_marked_whiteouts, layer_commands(result).bwrap) == (True, None)
    assert overlay_hash(result) == str(hash_tree(tmp_path / "tree", mtimes=True))


@needs_root
@pytest.mark.parametrize("preflight", [True, False])
def test_full_disk_is_named_and_leaves_no_layer(preflight: bool, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=200k", "tmpfs") as disk:
        layers = disk / "layers"
        with pytest.raises(OSError, match=r"No space left|free") as caught:
            unpack_layers(source_of([member("a", bytes(500_000))]), layers, options=UnpackOptions(preflight=preflight))
        assert str(layers) in str(caught.value)
        assert os.listdir(layers / "sha256") == []
