"""compare_images, `ociexport diff IMAGE IMAGE`: what one image has otherwise than another."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from ociexport.cli.main import main
from ociexport.errors import LimitExceededError
from ociexport.layers.limits import Limits
from ociexport.rootfs.changes import Change
from ociexport.rootfs.compare_images import compare_images
from ociexport.spec.platforms import host_platform
from ociexport.storage.layout.layer_indexes import MIN_INDEXED_BYTES
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of
from tests.support.read_bytes import bytes_read_by
from tests.support.sparse_members import sparse_member
from tests.support.system_parts import OCIEXPORT

PLATFORM = host_platform()
LARGE = os.urandom(MIN_INDEXED_BYTES)


def layout_of(place: Path, *layers: list[Member]) -> Path:
    pull(MemorySource([tar_of(layer) for layer in layers], compress=bytes), place, platform=PLATFORM)
    return place


def compared(changed: Path, base: Path, *, owners: bool = True) -> list[Change]:
    images = [ImageLayout(place).open_image() for place in (changed, base)]
    return compare_images(images[0], images[1], platform=PLATFORM, limits=Limits(), owners=owners)


BASE = [
    directory("d"),
    member("d/f", b"content"),
    hard_link("d/twin", "d/f"),
    symlink("s", "d"),
    member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    member("x", b"x", xattrs={"user.note": b"1"}),
    directory("gone"),
    member("gone/below", b"1"),
    sparse_member("sparse", 200_000, {4096: b"a" * 100}),
    member("empty"),
    member("implied/f", b"3"),
    member("last", LARGE),
]


def test_image_and_itself_have_no_differences(tmp_path: Path) -> None:
    one = layout_of(tmp_path / "one", BASE)
    two = layout_of(tmp_path / "two", BASE[:5], BASE[5:])
    assert compared(one, one) == compared(one, two) == compared(two, one) == []


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ([member("d/new", b"1")], [Change(b"d/new", "A")]),
        ([directory("new"), member("new/below")], [Change(b"new", "A")]),
        ([member(".wh.gone")], [Change(b"gone", "D")]),
        ([member(".wh.s"), member("s", b"file")], [Change(b"s", "T")]),
        ([symlink("s", "elsewhere")], [Change(b"s", "M", ("target",))]),
        ([member("x", b"y", xattrs={"user.note": b"1"})], [Change(b"x", "M", ("content",))]),
        ([member("x", b"longer", xattrs={"user.note": b"1"})], [Change(b"x", "M", ("content",))]),
        ([member("x", b"x", xattrs={"user.note": b"2"})], [Change(b"x", "M", ("xattrs",))]),
        ([member("x", b"x", mode=0o600, uid=7, mtime=9)], [Change(b"x", "M", ("mode", "owner", "xattrs", "mtime"))]),
        ([member("empty", b"1")], [Change(b"empty", "M", ("content",))]),
        ([member("d/twin", b"content")], [Change(b"d/twin", "M", ("links",))]),
        (
            [hard_link("empty", "x")],
            [Change(b"empty", "M", ("content", "xattrs")), Change(b"x", "M", ("links",))],
        ),
        ([member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=5)], [Change(b"null", "M", ("device",))]),
        ([directory("d", 0o700, mtime=5)], [Change(b"d", "M", ("mode",))]),
        ([directory(".", 0o700)], [Change(b".", "M", ("mode",))]),
        # The same content with other holes, and other content with other holes.
        ([member("sparse", bytes(4096) + b"a" * 100 + bytes(195_804), mtime=0)], []),
        (
            [member("sparse", bytes(4095) + b"a" * 100 + bytes(195_805), mtime=0)],
            [Change(b"sparse", "M", ("content",))],
        ),
    ],
)
def test_each_difference_is_listed(layer: list[Member], expected: list[Change], tmp_path: Path) -> None:
    base = layout_of(tmp_path / "base", BASE)
    changed = layout_of(tmp_path / "changed", BASE, layer)
    found = compared(changed, base)
    if layer[0][0].name == "sparse":
        found = [change for change in found if change.what != ("mtime",)]
        expected = [Change(path.path, "M", (*path.what, *found[0].what[1:])) for path in expected]
    assert found == expected
    back = {"A": "D", "D": "A", "T": "T", "M": "M"}
    assert [(change.path, change.kind) for change in compared(base, changed) if change.what != ("mtime",)] == [
        (change.path, back[change.kind]) for change in expected
    ]


def test_hard_links_to_files_with_other_holes(tmp_path: Path) -> None:
    filled = member("a", bytes(4096) + b"a" * 100 + bytes(95_804))
    base = layout_of(tmp_path / "base", [sparse_member("a", 100_000, {4096: b"a" * 100}), hard_link("b", "a")])
    changed = layout_of(tmp_path / "changed", [filled, member("b", bytes(100_000))])
    for pair in ((changed, base), (base, changed)):
        assert [change.path for change in compared(*pair) if "content" in change.what] == [b"b"]


def test_owners_are_left_out(tmp_path: Path) -> None:
    base = layout_of(tmp_path / "base", [member("f", b"1")])
    changed = layout_of(tmp_path / "changed", [member("f", b"1", uid=5)])
    assert compared(changed, base) == [Change(b"f", "M", ("owner",))]
    assert compared(changed, base, owners=False) == []


def test_second_diff_reads_no_layer(tmp_path: Path) -> None:
    base = layout_of(tmp_path / "base", BASE)
    changed = layout_of(tmp_path / "changed", BASE, [member("new", LARGE[::-1])])
    first = bytes_read_by(lambda: compared(changed, base))
    second = bytes_read_by(lambda: compared(changed, base))
    assert first > 3 * MIN_INDEXED_BYTES > MIN_INDEXED_BYTES > second


def diff(*words: object) -> tuple[int, str, str]:
    ended = subprocess.run(
        [*OCIEXPORT, "diff", "-q", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_command_takes_an_archive_or_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = build_image([[member("a", b"1")]], platform=PLATFORM)
    two = build_image([[member("a", b"2"), member("b", b"2")]], platform=PLATFORM)
    layout = tmp_path / "layout"
    write_layout(layout, {"1": one, "2": two})
    assert diff(f"{layout}:2", f"{layout}:1") == (1, "M a  (content)\nA b\n", "")
    assert main(["copy", "-q", f"{layout}:2", str(tmp_path / "two.tar")]) == 0
    capsys.readouterr()
    assert main(["diff", "-q", str(tmp_path / "two.tar"), f"{layout}:1"]) == 1
    assert capsys.readouterr().out == "M a  (content)\nA b\n"
    assert main(["diff", "-q", str(tmp_path / "two.tar"), f"{layout}:2"]) == 0


def test_tree_that_has_the_files_of_a_layout_is_compared_as_a_tree(tmp_path: Path) -> None:
    """What a container writes to the top of its tree does not decide what is compared."""
    layout, tree = tmp_path / "layout", tmp_path / "tree"
    write_layout(layout, {"1": build_image([[member("a", b"1")]], platform=PLATFORM)})
    assert main(["unpack", "-q", f"{layout}:1", str(tree)]) == 0
    shutil.copytree(layout, tree, dirs_exist_ok=True)
    (tree / "a").write_bytes(b"2")
    code, out, _ = diff(tree, f"{layout}:1")
    assert (code, [line for line in out.splitlines() if line.startswith("M a")]) == (1, ["M a  (content, mtime)"])


def test_holes_are_filled_only_within_the_limit_of_size(tmp_path: Path) -> None:
    """A few hundred bytes of layer can declare any number of zeros."""
    one, two = (
        ImageLayout(layout_of(tmp_path / f"{begin}", [sparse_member("a", 100_000, {begin: b"a" * 100})])).open_image()
        for begin in (4096, 8192)
    )
    with pytest.raises(LimitExceededError, match="files: expected at most 150000 bytes in all, got 200000"):
        compare_images(one, two, platform=PLATFORM, limits=Limits(max_bytes=150_000))


def test_mistyped_directory_is_not_searched_in_a_registry(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"1": build_image([[member("a")]], platform=PLATFORM)})
    assert diff("rootfz", tmp_path / "layout") == (
        3,
        "",
        "ociexport: error: 'rootfz': expected a directory, got none\n"
        "hint: the name of an image needs a tag or digest here\n",
    )
