"""rootfs: whiteouts hide files of lower layers, and nothing else."""

from __future__ import annotations

import os
import stat

import pytest

from ociexport.errors import (
    InvalidImageError,
)
from ociexport.layers.selection import PathSelection
from tests.support.memory_source import directory, hard_link, member, symlink
from tests.support.unpacker import Unpacker


def test_whiteout_hides_what_lower_layers_left(unpacker: Unpacker) -> None:
    """layer.md, "Whiteouts"."""
    unpacker(
        [member("a", b"1"), directory("d"), member("d/x", b"1"), member("keep", b"1"), symlink("l", "keep")],
        [member(".wh.a"), member(".wh.d"), member(".wh.l"), member(".wh.absent"), member("none/.wh.x")],
    )
    assert unpacker.tree() == {"keep": "1"}


@pytest.mark.parametrize("order", [1, -1])
def test_late_whiteout_spares_its_own_layer(unpacker: Unpacker, order: int) -> None:
    """layer.md, "Whiteouts": they apply to lower layers only, whatever the order."""
    upper = [member("d/new", b"2"), member("d/.wh.new"), member("f", b"2"), member(".wh.f"), member(".wh.d")]
    unpacker([member("d/old", b"1"), member("d/new", b"1"), member("f", b"1")], upper[::order])
    assert unpacker.tree() == {"d": "dir", "d/new": "2", "f": "2"}


@pytest.mark.parametrize("order", [1, -1])
def test_opaque_whiteout_spares_its_own_layer(unpacker: Unpacker, order: int) -> None:
    """layer.md, "Opaque Whiteout"."""
    upper = [member("d/.wh..wh..opq"), member("d/sub/new", b"2"), member("d/top", b"2")]
    unpacker([member("d/sub/old", b"1"), member("d/other", b"1"), member("e", b"1")], upper[::order])
    assert unpacker.tree() == {"d": "dir", "d/sub": "dir", "d/sub/new": "2", "d/top": "2", "e": "1"}


def test_opaque_whiteout_of_the_root_and_of_nothing(unpacker: Unpacker) -> None:
    unpacker(
        [member("old", b"1"), member("file", b"1")],
        [member("new", b"2"), member(".wh..wh..opq"), member("absent/.wh..wh..opq")],
    )
    assert unpacker.tree() == {"new": "2"}


def test_opaque_whiteout_before_its_directory_replaces_a_file(unpacker: Unpacker) -> None:
    unpacker([member("d", b"1")], [member("d/.wh..wh..opq"), directory("d"), member("d/x", b"2")])
    assert unpacker.tree() == {"d": "dir", "d/x": "2"}


def test_whiteouts_of_the_first_layer_hide_nothing(unpacker: Unpacker) -> None:
    unpacker([member("a", b"1"), member(".wh.a"), member("d/b", b"1"), member("d/.wh..wh..opq")])
    assert unpacker.tree() == {"a": "1", "d": "dir", "d/b": "1"}


def test_whiteout_through_a_link_stays_within(unpacker: Unpacker) -> None:
    unpacker(
        [directory("usr/lib"), member("usr/lib/a", b"1"), member("usr/lib/b", b"1"), symlink("lib", "/usr/lib")],
        [member("lib/.wh.a")],
    )
    assert unpacker.tree() == {"lib": "-> /usr/lib", "usr": "dir", "usr/lib": "dir", "usr/lib/b": "1"}


def test_other_aufs_names_are_ignored(unpacker: Unpacker) -> None:
    unpacker([directory(".wh..wh.plnk"), member(".wh..wh.plnk/1.2", b"x"), member(".wh..wh.aufs"), member("a", b"1")])
    assert unpacker.tree() == {"a": "1"}


def test_hard_links_into_aufs_bookkeeping_are_links_among_themselves(unpacker: Unpacker) -> None:
    """docker's first layers have such links (moby's UnpackLayer keeps the targets aside); the names share one file."""
    aufs = [
        directory(".wh..wh.plnk", 0o700),
        member(".wh..wh.plnk/12.34", b"x", mode=0o755),
        member(".wh..wh.plnk/13.34", b"unused"),
        symlink(".wh..wh.plnk/evil", "/"),
        hard_link("bin/a", ".wh..wh.plnk/12.34"),
        hard_link("bin/b", "/.wh..wh.plnk/12.34"),
    ]
    unpacker(aufs, [member("c", b"1"), hard_link("d", ".wh..wh.plnk/12.34"), member(".wh..wh..opq")])
    assert unpacker.tree() == {"c": "1", "d": "x"}
    unpacker.rootfs.rename(unpacker.rootfs.with_name("first"))
    unpacker(aufs, selection=PathSelection.parse(("bin",), ()))
    assert unpacker.tree() == {"bin": "dir", "bin/a": "x", "bin/b": "x"}
    status = os.stat(unpacker.rootfs / "bin/a")
    assert (status.st_nlink, stat.S_IMODE(status.st_mode)) == (2, 0o755)


@pytest.mark.parametrize("name", [".wh.", "d/.wh.", ".wh..", ".wh..."])
def test_bare_whiteout_is_refused(unpacker: Unpacker, name: str) -> None:
    with pytest.raises(InvalidImageError, match=r"whiteout: expected a name after '.wh.', got none$"):
        unpacker([member("d/a", b"1")], [member(name)])
    unpacker.assert_refused_without_trace()
