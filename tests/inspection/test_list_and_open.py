"""inspection: listings and contents agree with the tree that `unpack` makes, and no unneeded layer is read."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, NotFoundError, UsageError
from ociexport.inspection.access import Access
from ociexport.inspection.list_files import ListedFile, list_files
from ociexport.inspection.open_files import copy_files, open_file
from ociexport.inspection.trace_path import PathTrace, Touch, trace_path
from ociexport.rootfs.unpack import unpack
from ociexport.spec.platforms import parse_platform
from tests.rootfs.test_tar_output import MEMBERS
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of

ACCESS = Access(platform=parse_platform("linux/amd64"))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners")
# The number of links that Linux follows.
MAX_LINKS = 40
TYPES = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


def numbered(layers: list[list[Member]]) -> list[list[Member]]:
    """Give each entry its own time, which identifies its layer: thousands count layers, the rest entries."""
    for layer_number, layer in enumerate(layers, start=1):
        for number, (info, _) in enumerate(layer, start=1):
            info.mtime = 1000 * layer_number + number
    return layers


def resolve(root: bytes, path: bytes, *, follow: bool) -> bytes | None:
    """Return where ``path`` leads in an unpacked tree, links followed within ``root``; None if nowhere: the oracle."""
    done: list[bytes] = []
    waiting = path.split(b"/")[::-1]
    links = 0
    while waiting:
        part = waiting.pop()
        here = os.path.join(root, *done)
        if not stat.S_ISDIR(os.lstat(here).st_mode):
            return None
        if part in (b"", b"."):
            continue
        if part == b"..":
            done = done[:-1]
            continue
        there = os.path.join(here, part)
        if not os.path.lexists(there):
            return None
        if os.path.islink(there) and (follow or waiting):
            links += 1
            if links > MAX_LINKS:
                return None
            target = os.readlink(there)
            if target.startswith(b"/"):
                done = []
            waiting += target.split(b"/")[::-1]
        else:
            done.append(part)
    return os.path.join(root, *done)


@dataclass(frozen=True)
class Prefixes:
    """The trees of the lowest layers, one for each number of layers; None from the first that can't be unpacked."""

    trees: list[bytes | None]

    def state(self, layers: int, path: bytes, *, follow: bool) -> tuple[object, ...] | None:
        tree = self.trees[layers]
        assert tree is not None
        place = resolve(tree, path, follow=follow)
        if place is None:
            return None
        status = os.lstat(place)
        return TYPES[stat.S_IFMT(status.st_mode)], status.st_mtime


def unpacked_prefixes(tars: list[bytes], work: Path) -> Prefixes:
    empty = work / "0"
    empty.mkdir()
    os.utime(empty, (0, 0))
    trees: list[bytes | None] = [os.fsencode(empty)]
    for count in range(1, len(tars) + 1):
        target = work / str(count)
        try:
            unpack(MemorySource(tars[:count]), target)
        except InvalidImageError:
            return Prefixes([None] * (len(tars) + 1))
        trees.append(os.fsencode(target))
    return Prefixes(trees)


def described(file: ListedFile, place: bytes) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Return the listed and the actual files, for comparison."""
    status = os.lstat(place)
    there = TYPES[stat.S_IFMT(status.st_mode)]
    target = os.readlink(place) if there == "symlink" else b""
    mode = stat.S_IMODE(status.st_mode)
    size = status.st_size if there == "file" else 0
    return (
        (file.type.value, file.mode, file.uid, file.gid, file.size, file.mtime_ns, file.link_target),
        (there, mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, target),
    )


def paths_below(root: bytes) -> Iterator[bytes]:
    for above, directories, files in os.walk(root):
        for name in directories + files:
            yield os.path.relpath(os.path.join(above, name), root)


QUERIES = st.lists(st.sampled_from([b"a", b"b", b"c", b".."]), min_size=1, max_size=4).map(b"/".join)
LAYERS = st.lists(st.lists(MEMBERS, max_size=6), min_size=1, max_size=4)


@needs_root
@example([[member("a/a"), directory("b")], [directory("a")], [symlink("c", "a")]], [b"c/a"])
@example([[symlink("a", "b")], [member("a/c", b"1")], [member("b/c", b"2")]], [b"a/c", b"b/c"])
@example([[directory("a"), symlink("b", "a")], [member("a/c"), hard_link("a/b", "b/c")], [member("b/.wh.c")]], [b"a/b"])
# An entry leads through a link of a lower layer: a file with the same last name may be replaced or hidden.
@example([[symlink("b", ".")], [member("c", b"1"), member("b/c", b"2")]], [b"c"])
@example([[directory("a"), symlink("b", "a")], [directory("a"), member("a/c")], [member("b/.wh.c")]], [b"a/c"])
# A hidden directory may come back, or be spared, since this layer wrote into it.
@example([[directory("a"), symlink("b", "a")], [member(".wh.a"), member("b/c")]], [b"a", b"a/c"])
@example([[directory("a"), symlink("b", "a")], [member("b/c"), member(".wh.a")]], [b"a", b"a/c"])
# The target of a hard link may be unknown.
@example([[member("a")], [member("b")], [hard_link("b", "a")]], [b"b"])
# A file of a lower layer may have been replaced by a directory.
@example([[symlink("b", "c")], [member("c")], [member("b/a")]], [b"c", b"c/a"])
# A directory of any name may have lost its content.
@example([[symlink("b", "a")], [directory("a"), member("a/c")], [member("b/.wh..wh..opq")]], [b"a/c"])
@given(LAYERS, st.lists(QUERIES, max_size=3))
@settings(max_examples=100)
def test_any_image_looks_as_unpack_makes_it(layers: list[list[Member]], queries: list[bytes]) -> None:
    """`ls -R`, `ls`, `cat` and `which-layer` agree with the tree, for any paths and links."""
    tars = [tar_of(layer) for layer in numbered(layers)]
    source = MemorySource(tars)
    with tempfile.TemporaryDirectory() as name:
        prefixes = unpacked_prefixes(tars, Path(name))
        tree = prefixes.trees[-1]
        if tree is None:
            return  # an invalid image may give any listing
        listed = list_files(source, recursive=True, access=ACCESS)
        assert sorted(b"/" + path for path in paths_below(tree)) == sorted(file.path for file in listed)
        for file in listed:
            ours, theirs = described(file, tree + file.path)
            assert ours == theirs
        for path in [file.path for file in listed] + [b"/" + query for query in queries]:
            verify_path(source, prefixes, path)


def verify_path(source: MemorySource, prefixes: Prefixes, path: bytes) -> None:
    tree = prefixes.trees[-1]
    assert tree is not None
    place, end = (resolve(tree, path, follow=follow) for follow in (False, True))
    if place is None:
        for look in (list_files, open_file):
            with pytest.raises(NotFoundError):
                look(source, path, access=ACCESS)
    else:
        (itself,) = list_files(source, path, itself=True, access=ACCESS)
        ours, theirs = described(itself, place)
        assert ours == theirs
    if end is not None and os.path.isdir(end):
        found = list_files(source, path, access=ACCESS)
        assert [os.path.basename(file.path) for file in found] == sorted(os.listdir(end))
        with pytest.raises(UsageError):
            open_file(source, path, access=ACCESS)
    elif end is not None:
        with open(end, "rb") as expected, open_file(source, path, access=ACCESS) as file:
            content = expected.read()
            assert file.read() == content
        copied: list[bytes] = []
        copy_files(source, [path], lambda chunk: copied.append(bytes(chunk)), access=ACCESS)
        assert b"".join(copied) == content
    for follow in (False, True):
        verify_trace(source, prefixes, path, follow=follow)


def verify_trace(source: MemorySource, prefixes: Prefixes, path: bytes, *, follow: bool) -> None:
    """Compare with the trees of the lowest layers: which layer made a difference, and of which kind."""
    count = len(source.layers)
    states = [prefixes.state(number, path, follow=follow) for number in range(count + 1)]
    expected = []
    for number in range(1, count + 1):
        before, after = states[number - 1], states[number]
        if before != after:
            touch = Touch.ADDED if before is None else Touch.DELETED if after is None else Touch.CHANGED
            expected.append((number, touch))
    if not expected:
        # The root, which no layer may name, and paths that never existed.
        if states[-1] is None:
            with pytest.raises(NotFoundError):
                trace_path(source, path, follow=follow, access=ACCESS)
        return
    trace = trace_path(source, path, follow=follow, access=ACCESS)
    assert trace.is_complete
    told = [(touch.origin.layer.number, touch.touch) for touch in reversed(trace.touches)]
    if any(state is not None and state[1] == 0 for state in states):
        # An implied directory looks the same after one layer removes it and another implies it again.
        assert {entry for entry in expected if entry[1] is not Touch.CHANGED} <= set(told)
    else:
        assert told == expected
    latest = trace_path(source, path, follow=follow, latest=True, access=ACCESS)
    for found in (trace, latest):
        verify_present(found, prefixes, path, follow=follow)
    # An upper layer may hide a path already gone, or repeat a link on the way: without the lower layers it is unknown.
    assert latest.touches[0].origin.layer.number >= trace.touches[0].origin.layer.number


def verify_present(trace: PathTrace, prefixes: Prefixes, path: bytes, *, follow: bool) -> None:
    tree = prefixes.trees[-1]
    assert tree is not None
    place = resolve(tree, path, follow=follow)
    assert (trace.file is None) == (place is None)
    if trace.file is None or place is None:
        assert (trace.origin, trace.real_path) == (None, None)
        return
    assert tree + (trace.real_path or b"").rstrip(b"/") == place
    seconds = int(os.lstat(place).st_mtime)
    if seconds:
        assert trace.origin is not None
        assert trace.origin.layer.number == seconds // 1000
