"""limits: the cost of hostile layers is bounded: entries, bytes, depth, links, names and memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import LimitExceededError
from ociexport.layers.limits import Limits
from ociexport.rootfs.outputs.tar import flatten
from ociexport.rootfs.unpack import UnpackOptions, unpack
from ociexport.spec.descriptor import Platform
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, MemorySource, directory, member, symlink, tar_of
from tests.support.system_parts import OCIEXPORT, run
from tests.support.unpacker import Unpacker, resolver, unpacker_in

PLATFORM = Platform("linux", "amd64")


@pytest.fixture
def unpacker(unpacker_of_any_user: Unpacker) -> Unpacker:
    return unpacker_of_any_user


def test_deep_paths_are_refused(unpacker: Unpacker) -> None:
    with pytest.raises(LimitExceededError, match=r"path: expected at most 2000 directories, got 2500$"):
        unpacker([member("/".join("d" * 2500) + "/f")])
    unpacker.assert_refused_without_trace()


def test_entries_bytes_and_ratio_are_limited(unpacker: Unpacker) -> None:
    layer = [member("a", bytes(4_000_000)), member("b", b"x")]
    for limits, message in (
        (Limits(max_entries=1), "expected at most 1 entry"),
        (Limits(max_bytes=1_000_000), "expected at most 1000000 uncompressed bytes"),
        (Limits(max_ratio=50, ratio_from_bytes=1_000_000), "expected at most 50 times the"),
    ):
        with pytest.raises(LimitExceededError, match=message):
            unpacker(layer, limits=limits)
        unpacker.assert_refused_without_trace()


def sparse(name: str, sparse_map: str, size: int, data: bytes) -> Member:
    info, _ = member(name)
    info.pax_headers = {"GNU.sparse.map": sparse_map, "GNU.sparse.size": str(size)}
    info.size = len(data)
    return info, data


@pytest.mark.parametrize("target", ["t/" * 100, "/" + "t/" * 100])
def test_depth_is_limited_through_links_too(unpacker: Unpacker, target: str) -> None:
    """Each link of 4,000 bytes leads 2,000 directories deeper, and the next link starts there."""
    layer = [symlink("a", target), member("a/x"), symlink("a/b", target.lstrip("/")), member("a/b/x")]
    with pytest.raises(LimitExceededError, match=r"entry 'a/b/x': path: expected at most 150 directories, got 151$"):
        unpacker([*layer], limits=Limits(max_depth=150))
    unpacker.assert_refused_without_trace()


@pytest.mark.parametrize("target_bytes", [4000, 200])
def test_ways_through_links_are_counted(unpacker: Unpacker, target_bytes: int) -> None:
    """Each path through 40 links of 4,000 bytes walks 80,000 names, and there may be 20,000,000 such entries."""
    links = [symlink(f"l{number}", "./" * (target_bytes // 2) + f"l{number + 1}") for number in range(39)]
    layer = [directory("d"), *links, symlink("l39", "d"), *[member(f"l0/{number}/f") for number in range(20)]]
    limits = Limits(max_steps=400_000 if target_bytes > 256 else 10 * 64)
    source = MemorySource([tar_of(layer)])
    message = rf"entry 'l0/\d+/f': expected at most {limits.max_steps} names on paths through links"
    with pytest.raises(LimitExceededError, match=message):
        unpacker.unpack(source, limits=limits)
    unpacker.assert_refused_without_trace()
    with pytest.raises(LimitExceededError, match=message):
        flatten(source, bytes, platform=PLATFORM, limits=limits)


def test_deep_directories_that_are_opened_again_and_again_are_counted(unpacker: Unpacker) -> None:
    """A short name leads to one of two paths of 1,000 directories, of which only 256 stay open."""
    depth = 1000
    deep = [directory("/".join([side] * depth)) for side in "ab"]
    links = [symlink(f"to-{side}", f"{side}/" * depth) for side in "ab"]
    files = [member(f"to-{side}/f{number}") for number in range(30) for side in "ab"]
    with pytest.raises(LimitExceededError, match="names on paths through links and deep directories"):
        unpacker([*deep, *links, *files], limits=Limits(max_steps=400_000))
    unpacker.assert_refused_without_trace()


def test_metadata_of_deep_directories_is_set_branch_by_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Level by level, each directory would be reopened from the root: 4,000,000 calls for the 9,000 here."""
    opened = count()
    true_open: Callable[..., int] = os.open

    def counting_open(*words: Any, **keywords: Any) -> int:
        next(opened)
        return true_open(*words, **keywords)

    with unpacker_in(tmp_path, use_openat2=resolver("walk")) as unpacker:
        monkeypatch.setattr(os, "open", counting_open)
        unpacker([directory(f"{branch}/" + "/".join("d" * 300)) for branch in range(30)])
        monkeypatch.undo()
    assert next(opened) < 60_000


def test_ways_through_links_of_honest_images_are_far_from_the_limit(unpacker: Unpacker) -> None:
    """Such paths occur in a layer written by hand for a system whose /lib and /bin are in /usr."""
    merged = [directory("usr"), directory("usr/lib"), symlink("lib", "usr/lib"), symlink("lib64", "lib")]
    files = [member(f"lib64/d{number % 10}/f{number}") for number in range(300)]
    unpacker(merged, files, files, limits=Limits(max_steps=64 * 2 * 300))


def test_blocks_of_sparse_files_are_counted(unpacker: Unpacker) -> None:
    """With one byte in each block, a tar of 2 GB, which gzip packs into 2 MB, would fill 800 GB on disk."""
    layer = [sparse("s", ",".join(f"{number * 4096},1" for number in range(1000)), 4096 * 1000, b"x" * 1000)]
    for limits, message in (
        (Limits(max_bytes=4_000_000, max_ratio=10**9), "sparse file: expected at most 4000000 bytes, got 4096000"),
        (Limits(max_bytes=4_096_000), "expected at most 4096000 uncompressed bytes"),
        (Limits(max_ratio=500, ratio_from_bytes=1_000_000), "expected at most 500 times the"),
    ):
        with pytest.raises(LimitExceededError, match=message):
            unpacker(layer, limits=limits)
        unpacker.assert_refused_without_trace()
    unpacker(layer)


def test_attributes_and_long_names_are_counted(unpacker: Unpacker) -> None:
    """Those of directories stay in memory until the end, so a small blob could fill the memory."""
    layers = {
        "xattrs": [directory(f"d{number}", xattrs={"user.x": b"x" * 500}) for number in range(3)],
        "names": [directory(f"{'d' * 250}/{number:0250}") for number in range(3)],
        "targets": [symlink(f"l{number}", "t" * 500) for number in range(3)],
    }
    for layer in layers.values():
        with pytest.raises(LimitExceededError, match="expected at most 1400 bytes of attributes and long names"):
            unpacker(layer, limits=Limits(max_metadata_bytes=1400))
        unpacker.assert_refused_without_trace()
        unpacker(layer, limits=Limits(max_metadata_bytes=1600))
        unpacker.rootfs.rename(unpacker.rootfs.with_name("done"))
        os.rename(unpacker.rootfs.with_name("done"), unpacker.outside.parent / layer[0][0].name[:2])


NINE_XATTRS = {f"user.{number}": b"" for number in range(9)}


@pytest.mark.parametrize(
    ("layers", "bytes_each"),
    [
        ([[member(f"{number}/f") for number in range(30)]], 450),
        ([[member(f"{number}/" + "/".join("d" * 29) + "/f")] for number in range(1)], 450),
        ([[directory(f"{number}") for number in range(30)]], 750),
        (
            [[directory(f"{number}", xattrs=NINE_XATTRS) for number in range(30)]],
            2250,
        ),
        ([[directory("d")], [member(f"d/{number}") for number in range(30)]], 120),
    ],
    ids=["implied", "nested", "named", "attributes", "written over a lower layer"],
)
def test_memory_for_directories_is_bounded(unpacker: Unpacker, layers: list[list[Member]], bytes_each: int) -> None:
    """A path of 250 bytes can make 125 directories, and such a tar, mostly zeros, shrinks a hundredfold in gzip."""
    enough = 30 * (bytes_each + 10) + 1_500
    with pytest.raises(LimitExceededError) as caught:
        unpacker(*layers, limits=Limits(max_name_bytes=enough // 2))
    assert caught.value.message == f"expected at most {enough // 2} bytes of memory for names"
    assert caught.value.hint == "if you trust the image, raise --max-memory"
    unpacker.assert_refused_without_trace()
    unpacker(*layers, limits=Limits(max_name_bytes=enough))


def test_memory_for_owners_is_bounded(tmp_path: Path) -> None:
    files = [member(f"{number}", uid=number + 1) for number in range(30)]
    others = [member(f"{number}", xattrs={"user.x": b"x" * 300}) for number in range(30)]
    for layer, enough in ((files, 30 * 160), (others, 30 * 960)):
        source, owners = MemorySource([tar_of(layer)]), str(tmp_path / "owners")
        options = UnpackOptions(owners_file=owners, limits=Limits(max_name_bytes=enough // 2))
        with pytest.raises(LimitExceededError, match=f"expected at most {enough // 2} bytes of memory for names"):
            unpack(source, tmp_path / "rootfs", options=options)
        assert os.listdir(tmp_path) == []
        unpack(source, tmp_path / "rootfs", options=replace(options, limits=Limits(max_name_bytes=enough)))
        shutil.rmtree(tmp_path / "rootfs")
        os.unlink(owners)


def test_names_of_refused_attributes_do_not_fill_the_memory(unpacker: Unpacker) -> None:
    layer = [member("f", xattrs={f"nonsense.{number}": b"" for number in range(3000)})]
    result = unpacker(layer)
    assert result.losses.refused_xattrs.total() == 3000
    assert len(result.losses.refused_xattrs) <= 1001


def test_markers_cost_what_there_is_to_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is listed once for all markers of a layer; otherwise two million entries would take forever."""
    listed = count()
    true_listdir: Callable[..., list[str]] = os.listdir

    def listdir(*words: Any) -> list[str]:
        next(listed)
        return true_listdir(*words)

    lower = [member(f"d{number}/old", b"1") for number in range(100)]
    upper = [member(f"d{number}/new", b"2") for number in range(100)]
    markers = [member(name) for number in range(100) for name in (f"d{number}/.wh..wh..opq", f".wh.d{number}")]
    with unpacker_in(tmp_path, use_openat2=resolver("walk")) as unpacker:
        monkeypatch.setattr(os, "listdir", listdir)
        unpacker(lower, [*upper, member(".wh..wh..opq"), *markers, *[member(".wh..wh..opq")] * 100])
        monkeypatch.undo()
        assert unpacker.tree() == {
            name: text for n in range(100) for name, text in ((f"d{n}", "dir"), (f"d{n}/new", "2"))
        }
    assert next(listed) < 150


def test_depth_takes_neither_descriptors_nor_stack_afterwards(tmp_path: Path) -> None:
    """A tree within the limit can also be hashed, compared, written as a tar and removed, with 1,024 open files."""
    write_layout(tmp_path / "layout", {"1": build_image([[member("/".join(["d" * 9] * 1900) + "/f", b"x")]])})
    image, rootfs = str(tmp_path / "layout"), str(tmp_path / "rootfs")
    for words in (
        ("unpack", "-q", "--platform=linux/amd64", image, rootfs),
        ("treehash", rootfs),
        ("diff", "-q", "--platform=linux/amd64", rootfs, image),
        ("unpack", "-q", "--platform=linux/amd64", image, "--to-tar", str(tmp_path / "tar")),
        ("rm", rootfs),
    ):
        run("sh", "-c", 'ulimit -n 1024 && exec "$@"', "sh", *OCIEXPORT, *words)
