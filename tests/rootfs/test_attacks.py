"""rootfs: hostile layers, with both resolvers, as root and as an ordinary user; a file beside the tree stays unchanged.

Some come from attacks on umoci, containerd and moby; docstrings name the upstream tests.
"""

from __future__ import annotations

import os
import tarfile

import pytest

from ociexport.errors import InvalidImageError, UnsafeEntryError
from ociexport.inspection.access import Access
from ociexport.inspection.list_files import list_files, list_layers
from ociexport.inspection.trace_path import trace_path
from ociexport.layers.limits import Limits
from ociexport.rootfs.outputs.tar import flatten
from ociexport.spec.descriptor import Platform
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.unpacker import Unpacker

PLATFORM = Platform("linux", "amd64")
FIFO, CHARACTER_DEVICE = tarfile.FIFOTYPE, tarfile.CHRTYPE


@pytest.fixture
def unpacker(unpacker_of_any_user: Unpacker) -> Unpacker:
    return unpacker_of_any_user


# Attacks. Each has a file outside that must stay unchanged.


@pytest.mark.parametrize(
    "name", ["../outside/file", "../../outside/file", "a/../../../outside/file", "/../outside/file", ".."]
)
def test_dot_dot_is_refused(unpacker: Unpacker, name: str) -> None:
    with pytest.raises(UnsafeEntryError) as caught:
        unpacker([member("a/x"), member(name, b"evil")])
    assert str(caught.value).endswith(f"entry '{name}': path '{name}': leads out of the root filesystem")
    unpacker.assert_refused_without_trace()


@pytest.mark.parametrize("target", ["{outside}", "../../outside", "/../../../{outside}", "a/../../../../outside"])
@pytest.mark.parametrize("split", [1, 2])
def test_planted_link_leads_within(unpacker: Unpacker, target: str, split: int) -> None:
    """CVE-2019-10152 and similar: a link out of the tree, and then a file written through it."""
    link = target.format(outside=unpacker.outside)
    members = [
        directory("a"),
        symlink("evil", link),
        member("evil/file", b"evil"),
        directory("evil/dir", 0o777),
        member("evil/.wh.file"),
        symlink("evil/s", "x"),
        member("evil/pipe", type=tarfile.FIFOTYPE),
        member("evil/.wh..wh..opq"),
    ]
    unpacker(members[:2], members[2:]) if split == 2 else unpacker(members)
    assert (unpacker.rootfs / "evil").is_symlink()


@pytest.mark.parametrize("last", ["file", "dir", "hard", "whiteout", "opaque", "chmod"])
def test_link_in_last_place_is_not_followed(unpacker: Unpacker, last: str) -> None:
    outside = unpacker.outside
    lower = [symlink("f", str(outside / "file")), symlink("d", str(outside)), member("real", b"real")]
    upper = {
        "file": member("f", b"evil"),
        "dir": directory("d", 0o777, mtime=1),
        "hard": hard_link("f", "real"),
        "whiteout": member(".wh.d"),
        "opaque": member("d/.wh..wh..opq"),
        "chmod": member("f", b"", mode=0o7777, mtime=1),
    }
    unpacker(lower, [upper[last]])


def test_hard_link_through_links_stays_within(unpacker: Unpacker) -> None:
    layer = [symlink("evil", str(unpacker.outside)), hard_link("stolen", "evil/file")]
    with pytest.raises(InvalidImageError, match=r"hard link: expected a file at 'evil/file', got none$"):
        unpacker(layer)
    unpacker.assert_refused_without_trace()


@pytest.mark.parametrize("target", ["../outside/file", "/../outside/file"])
def test_hard_link_by_dot_dot_is_refused(unpacker: Unpacker, target: str) -> None:
    with pytest.raises(UnsafeEntryError):
        unpacker([hard_link("stolen", target)])
    unpacker.assert_refused_without_trace()


def test_hard_link_to_nothing_and_to_a_directory_are_refused(unpacker: Unpacker) -> None:
    for target in ("absent", "d", "/"):
        with pytest.raises(InvalidImageError, match="hard link: expected a file at"):
            unpacker([directory("d"), hard_link("x", target)])
        unpacker.assert_refused_without_trace()


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_root_as_anything_but_a_directory_is_refused(unpacker: Unpacker, kind: bytes) -> None:
    with pytest.raises(UnsafeEntryError, match="the root itself: expected a directory"):
        unpacker([member("./.", type=kind, linkname="x")])
    unpacker.assert_refused_without_trace()


def test_directory_swapped_for_a_link_midway_leads_within(unpacker: Unpacker) -> None:
    unpacker(
        [
            directory("d"),
            member("d/one", b"1"),
            symlink("d", str(unpacker.outside)),
            member("d/file", b"evil"),
            directory("d/new"),
        ]
    )
    inside = str(unpacker.outside).lstrip("/")
    assert unpacker.tree()[f"{inside}/file"] == "evil"


@pytest.mark.parametrize("parent", [member("p", b"file"), member("p", type=tarfile.FIFOTYPE)])
def test_parent_that_is_no_directory_is_refused(unpacker: Unpacker, parent: Member) -> None:
    with pytest.raises(InvalidImageError, match=r"entry 'p/child': parent 'p': expected a directory$"):
        unpacker([parent, member("p/child")])
    unpacker.assert_refused_without_trace()


@pytest.mark.parametrize("name", ["n" * 256, "d/" + "n" * 300 + "/x"])
def test_name_longer_than_the_system_takes_is_refused(unpacker: Unpacker, name: str) -> None:
    with pytest.raises(InvalidImageError, match=r"expected names of at most 255 bytes$"):
        unpacker([member(name)])
    unpacker.assert_refused_without_trace()


def test_nul_in_a_name_is_refused(unpacker: Unpacker) -> None:
    info, _ = member("a")
    info.pax_headers = {"path": "a\0b"}
    with pytest.raises(InvalidImageError, match=r"expected no NUL$"):
        unpacker([(info, b"")])
    unpacker.assert_refused_without_trace()


def test_paths_longer_than_path_max_work(unpacker: Unpacker) -> None:
    deep = "/".join(["d" * 200] * 40)
    unpacker([member(f"{deep}/f", b"x")], [member(f"{deep}/g", b"y"), member(f"{deep}/.wh.f")])
    fd = os.open(unpacker.rootfs, os.O_RDONLY)
    for _ in range(40):
        fd, old = os.open("d" * 200, os.O_RDONLY, dir_fd=fd), fd
        os.close(old)
    assert os.listdir(fd) == ["g"]
    os.close(fd)


def test_tree_deeper_than_the_stack_and_the_descriptors_works(unpacker: Unpacker) -> None:
    deep = "/".join("d" * 1500)
    unpacker([member(f"{deep}/f", b"x")], [member(".wh.d"), member("e", b"y")])
    assert unpacker.tree() == {"e": "y"}


# Kinds of files that must not be opened, and names that must not be followed.


@pytest.mark.parametrize("second", [member("p", b"new"), directory("p"), symlink("p", "x"), member(".wh.p"), None])
@pytest.mark.parametrize("split", [True, False])
def test_fifo_is_never_opened(unpacker: Unpacker, second: Member | None, split: bool) -> None:
    """Opening a fifo blocks until its other end is opened."""
    fifo = member("p", type=FIFO, xattrs={"user.x": b"1"})
    second = second or hard_link("q", "p")
    unpacker(*([fifo], [second]) if split else ([fifo, second],))
    assert (
        unpacker.tree()
        == {
            (tarfile.REGTYPE, "p"): {"p": "new"},
            (tarfile.DIRTYPE, "p"): {"p": "dir"},
            (tarfile.SYMTYPE, "p"): {"p": "-> x"},
            (tarfile.REGTYPE, ".wh.p"): {} if split else {"p": "0o10000"},
            (tarfile.LNKTYPE, "q"): {"p": "0o10000", "q": "0o10000"},
        }[second[0].type, second[0].name]
    )


@pytest.mark.parametrize("name", ["p/x", "p/.wh.x", "p/.wh..wh..opq", "p/d/.wh.x"])
@pytest.mark.parametrize("kind", [FIFO, CHARACTER_DEVICE, tarfile.BLKTYPE, tarfile.REGTYPE])
def test_what_is_no_directory_is_no_parent(unpacker: Unpacker, name: str, kind: bytes) -> None:
    layer = [member("p", type=kind, devmajor=1, devminor=5), member(name)]
    if name != "p/x":
        unpacker(layer[:1], layer[1:])
        unpacker.rootfs.rename(unpacker.rootfs.with_name("first"))
    elif (unpacker.as_user or os.geteuid() != 0) and kind in (CHARACTER_DEVICE, tarfile.BLKTYPE):
        unpacker(layer)  # the device is left out, so the name is free
        assert unpacker.tree() == {"p": "dir", "p/x": ""}
    else:
        with pytest.raises(InvalidImageError, match=r"parent 'p': expected a directory$"):
            unpacker(layer)
        unpacker.assert_refused_without_trace()


@pytest.mark.parametrize("kind", [FIFO, CHARACTER_DEVICE, tarfile.REGTYPE])
def test_what_a_lower_layer_left_gives_way_to_a_parent(unpacker: Unpacker, kind: bytes) -> None:
    """As overlayfs shows it after docker has unpacked each layer by itself; umoci agrees since 0.5 (its issue 546)."""
    lower = [member("p", type=kind, devmajor=1, devminor=5), member("d/p", type=kind, devmajor=1, devminor=5)]
    unpacker(lower, [member("p/x", b"1"), member("d/p/e/f", b"2")], [member("p/y", b"3")])
    assert unpacker.tree() == {
        "d": "dir",
        "d/p": "dir",
        "d/p/e": "dir",
        "d/p/e/f": "2",
        "p": "dir",
        "p/x": "1",
        "p/y": "3",
    }


def test_metadata_of_a_link_is_its_own(unpacker: Unpacker) -> None:
    outside = unpacker.outside
    fields = {"mode": 0o7777, "uid": 5, "gid": 6, "mtime": 7, "xattrs": {"user.x": b"1", "trusted.x": b"1"}}
    unpacker(
        [symlink("f", str(outside / "file"), **fields), symlink("d", str(outside), **fields), hard_link("h", "f")],
        [directory("d", 0o700), symlink("d", str(outside)), symlink("f", "../../outside/file", **fields)],
    )
    assert unpacker.tree() == {
        "d": f"-> {outside}",
        "f": "-> ../../outside/file",
        "h": f"-> {outside}/file",
    }


@pytest.mark.parametrize("last", ["/", "../..", "../../../outside", "{outside}"])
@pytest.mark.parametrize("marker", [".wh.file", ".wh..wh..opq", ".wh.outside", ".wh.work"])
def test_whiteout_in_a_linked_directory_stays_within(unpacker: Unpacker, last: str, marker: str) -> None:
    unpacker(
        [directory("d"), member("d/file", b"1"), symlink("d/evil", last.format(outside=unpacker.outside))],
        [member(f"d/evil/{marker}")],
    )


@pytest.mark.parametrize("loop", ["..", "../..", "/..", "d/../../../.."])
def test_link_above_the_root_is_the_root(unpacker: Unpacker, loop: str) -> None:
    """containerd's HardlinkRelativeLong, SymlinkUpAndOut; the kernel's chroot gives the same result."""
    unpacker([directory("d"), symlink("up", loop), member("up/file", b"1"), hard_link("up/h", "up/../up/file")])
    assert unpacker.tree() == {"d": "dir", "file": "1", "h": "1", "up": f"-> {loop}"}


def test_link_of_proc_leads_within(unpacker: Unpacker) -> None:
    """A magic link in the host's /proc would lead to files that this process has open."""
    unpacker([symlink("cwd", "/proc/self/cwd"), symlink("fd", "/proc/self/fd"), member("cwd/x"), member("fd/9/y")])
    assert "proc/self/cwd/x" in unpacker.tree()


def test_hard_link_to_a_directory_through_a_link_is_refused(unpacker: Unpacker) -> None:
    """moby's TestApplyLayerInvalidHardlink: a second name for a directory outside would be a way out."""
    with pytest.raises(InvalidImageError, match=r"hard link: expected a file at 'outside', got none$"):
        unpacker([symlink("evil", str(unpacker.outside)), hard_link("loophole", "evil/../outside")])
    unpacker.assert_refused_without_trace()


@pytest.mark.parametrize("target", ["a/b", "a"])
def test_hard_link_in_place_of_the_directory_that_it_is_to_is_refused(unpacker: Unpacker, target: str) -> None:
    with pytest.raises(InvalidImageError, match="hard link: expected a file at"):
        unpacker([member("a/b", b"1"), hard_link("a" if target == "a/b" else "c", target)])
    unpacker.assert_refused_without_trace()


def test_device_numbers_beyond_the_systems_are_refused(unpacker: Unpacker) -> None:
    """moby's TestHandleTarTypeBlockCharFifoDeviceRange: truncated numbers would name another device."""
    for major, minor in ((4096, 0), (0, 1 << 20), (2**21 - 1, 3)):
        with pytest.raises(
            InvalidImageError, match=f"device: expected numbers that Linux supports, got {major}:{minor}$"
        ):
            unpacker([member("n", type=CHARACTER_DEVICE, devmajor=major, devminor=minor)])
        unpacker.assert_refused_without_trace()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            member("n", type=CHARACTER_DEVICE, devmajor=4096, devminor=0),
            "entry 'n': device: expected numbers that Linux supports, got 4096:0",
        ),
        (
            member("n", type=CHARACTER_DEVICE, devmajor=2**21 - 1, devminor=2**21 - 1),
            "entry 'n': device: expected numbers that Linux supports, got 2097151:2097151",
        ),
        (symlink("l", "t" * 5000), "entry 'l': symlink: expected a target of at most 4095 bytes, got 5000"),
    ],
)
def test_what_linux_has_not_is_refused_by_all_who_apply_layers(bad: Member, message: str) -> None:
    """No system could make the device of the first case, and a tar header may not even hold its numbers."""
    source, access, limits = MemorySource([tar_of([bad])]), Access(platform=PLATFORM), Limits()
    for apply in (
        lambda: list_files(source, access=access),
        lambda: list(list_layers(source, access=access)),
        lambda: trace_path(source, "/n", access=access),
        lambda: flatten(source, bytes, platform=PLATFORM, limits=limits),
    ):
        with pytest.raises(InvalidImageError) as refusal:
            apply()
        assert str(refusal.value).endswith(f": {message}")


def test_link_target_longer_than_the_system_takes_is_refused(unpacker: Unpacker) -> None:
    message = "symlink: expected a target of at most 4095 bytes, got 5000"
    with pytest.raises(InvalidImageError, match=f"entry 'a': {message}$"):
        unpacker([symlink("a", "t" * 5000)])
    unpacker.assert_refused_without_trace()


def test_names_that_only_look_like_whiteouts_are_names(unpacker: Unpacker) -> None:
    """containerd's WhiteoutDirectoryName, moby's ".wh..baz": only the last part of a path is a whiteout."""
    unpacker([member("etc/passwd", b"1"), member(".baz", b"1")], [member(".wh.etc/file", b"2"), member(".wh..baz")])
    assert unpacker.tree() == {".wh.etc": "dir", ".wh.etc/file": "2", "etc": "dir", "etc/passwd": "1"}


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, FIFO])
def test_whiteout_is_one_whatever_its_type(unpacker: Unpacker, kind: bytes) -> None:
    """layer.md does not specify this; umoci checks only the name."""
    upper = [member(name, type=kind, linkname="keep") for name in (".wh.a", "d/.wh..wh..opq")]
    unpacker([member("a", b"1"), member("d/x", b"1"), member("keep", b"1")], upper)
    assert unpacker.tree() == {"d": "dir", "keep": "1"}
