"""selection: patterns choose the paths of an image to unpack."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ociexport.errors import UsageError
from ociexport.layers.paths import ImagePath
from ociexport.layers.selection import PathSelection
from ociexport.rootfs.unpack import UnpackOptions, unpack
from tests.support.memory_source import MemorySource, directory, hard_link, member, tar_of


def takes(path: str, *, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> bool:
    selection = PathSelection.parse(include, exclude)
    return selection is None or selection.takes(ImagePath(path.encode()))


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("usr/bin", "usr/bin", True),
        ("usr/bin", "usr/bin/ls", True),
        ("/usr/bin/", "usr/bin/ls", True),
        ("./usr/bin", "usr/bin/ls", True),
        ("usr/bin", "usr/binary", False),
        ("usr/*/ls", "usr/bin/ls", True),
        ("usr/*/ls", "usr/bin/x/ls", False),
        ("usr/**/ls", "usr/bin/x/ls", True),
        ("**.pyc", "a/b/c.pyc", True),
        ("*.pyc", "a/c.pyc", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab]x", "bx", True),
        ("[!ab]x", "bx", False),
        ("[a-c]x", "bx", True),
        ("a.c", "abc", False),
        ("line", "line\nbreak", False),
    ],
)
def test_patterns_are_the_shells(pattern: str, path: str, fits: bool) -> None:
    assert takes(path, include=(pattern,)) is fits
    assert takes(path, exclude=(pattern,)) is not fits


def fits_plainly(pattern: bytes, path: bytes) -> bool:
    """Return whether ``pattern`` matches ``path`` or a directory above it, by trying every possibility."""
    if not pattern:
        return path[:1] in (b"", b"/")
    if pattern.startswith(b"**"):
        return any(fits_plainly(pattern[2:], path[count:]) for count in range(len(path) + 1))
    if pattern.startswith(b"*"):
        longest = path.find(b"/") if b"/" in path else len(path)
        return any(fits_plainly(pattern[1:], path[count:]) for count in range(longest + 1))
    is_one = path[:1] == pattern[:1] or (pattern.startswith(b"?") and path[:1] not in (b"", b"/"))
    return is_one and fits_plainly(pattern[1:], path[1:])


@given(
    st.text("ab/*?", min_size=1, max_size=9), st.lists(st.sampled_from(["a", "b", "ab", "ba"]), min_size=1, max_size=5)
)
@example("**a*b**b", ["ab", "b", "ab"])
@example("a**/b*/**b", ["a", "ba", "ab", "b"])
def test_patterns_mean_what_trying_everything_finds(pattern: str, names: list[str]) -> None:
    stripped = pattern.strip("/")
    if stripped:
        path = "/".join(names)
        assert takes(path, exclude=(pattern,)) is not fits_plainly(stripped.encode(), path.encode())


def test_path_of_thousands_of_names_is_tried_in_one_way() -> None:
    """With backtracking for each ``**``, it would take some 10**15 steps."""
    assert not takes("x/y/" * 16_000 + "end", include=("**/x/**/y/**/x/**/z",))
    assert takes("x/y/" * 16_000 + "z/end", include=("**/x/**/y/**/x/**/z",))


def test_excludes_beat_includes_and_parents_come_along() -> None:
    include, exclude = ("usr/lib/x*",), ("usr/lib/x1",)
    assert takes("usr", include=include, exclude=exclude)
    assert takes("usr/lib", include=include, exclude=exclude)
    assert takes("usr/lib/x2/f", include=include, exclude=exclude)
    assert not takes("usr/lib/x1/f", include=include, exclude=exclude)
    assert not takes("usr/share", include=include, exclude=exclude)


@pytest.mark.parametrize("pattern", ["", "/", "a[b"])
def test_pattern_that_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"^pattern '"):
        PathSelection.parse((pattern,), ())


@given(st.text(max_size=20), st.binary(max_size=20))
def test_any_pattern_is_one_or_a_usage_error(pattern: str, path: bytes) -> None:
    try:
        selection = PathSelection.parse((pattern,), ())
    except UsageError:
        return
    assert selection is not None
    assert selection.takes(ImagePath(path)) in (True, False)


def test_selected_part_is_unpacked_and_whiteouts_hold(tmp_path: Path) -> None:
    source = MemorySource(
        [
            tar_of([directory("a", 0o700), member("a/x", b"1"), member("a/y", b"1"), member("b/z", b"1")]),
            tar_of([member("a/.wh.y"), member("a/w", b"2"), hard_link("a/h", "b/z"), hard_link("a/i", "a/w")]),
        ]
    )
    selection = PathSelection.parse(("a/*",), ("a/x",))
    result = unpack(source, tmp_path / "rootfs", options=UnpackOptions(selection=selection))
    assert sorted(os.listdir(tmp_path / "rootfs")) == ["a"]
    assert sorted(os.listdir(tmp_path / "rootfs" / "a")) == ["i", "w"]
    assert os.stat(tmp_path / "rootfs" / "a").st_mode & 0o777 == 0o700
    assert list(result.losses.lines()) == ["hard links: 1 left out, since their targets were not selected"]
