"""diff reads each layer once, says what it does, and finds the same differences as a comparison of two trees."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ociexport.errors import LimitExceededError
from ociexport.layers.limits import Limits
from ociexport.rootfs.changes import Change
from ociexport.rootfs.compare import compare_tree
from ociexport.rootfs.unpack import unpack
from ociexport.spec.platforms import parse_platform
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import Member, directory, hard_link, member, symlink

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners")

AMD64 = parse_platform("linux/amd64")
LAYERS = [
    [directory("d"), member("d/f", b"first" * 99), member("kept", b"kept"), symlink("l", "d"), member("gone", b"x")],
    [member("l/g", b"through a link"), member(".wh.gone"), member("d/f", b"second" * 99)],
    [hard_link("name", "kept"), member(".wh.kept")],
]


def sparse_member(name: str, stored: bytes, at: int, size: int) -> Member:
    info, _ = member(name)
    info.pax_headers = {"GNU.sparse.map": f"{at},{len(stored)}", "GNU.sparse.size": str(size)}
    info.size = len(stored)
    return info, stored


def test_each_layer_is_fetched_once(tmp_path: Path) -> None:
    """Issue 16: "`diff` does not unpack the same layers twice, nor say "unpacking" when it unpacks nothing"."""
    image = build_image(LAYERS)
    with FakeRegistry() as registry:
        reference = image.serve(registry, "app", "1")
        words = ("--platform", "linux/amd64")
        assert run_command("unpack", reference, tmp_path / "r", *words, home=tmp_path).returncode == 0
        registry.requests.clear()
        ended = run_command("diff", tmp_path / "r", reference, *words, home=tmp_path)
        fetched = Counter(path.rpartition("/")[2] for path in registry.paths("GET") if "/blobs/" in path)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert fetched == Counter(map(str, [image.config.digest, *(layer.digest for layer in image.layers)]))
    assert "unpack" not in ended.stderr
    layers = enumerate(image.layers, start=1)
    *reading, comparing = ended.stderr.splitlines()
    # Layers are fetched ahead of their turn, so a small one may be complete first.
    assert sorted(reading) == [
        f"ociexport: reading layer {number}/3 {layer.digest.short}: {layer.size} B" for number, layer in layers
    ]
    assert comparing == "ociexport: comparing 3 files: 612 B"


def test_each_layer_of_a_layout_is_opened_once(tmp_path: Path) -> None:
    source = build_image(LAYERS).source()
    unpack(source, tmp_path / "r", platform=AMD64)
    source.opened.clear()
    assert compare_tree(str(tmp_path / "r"), source, platform=AMD64, limits=Limits()) == []
    assert Counter(source.opened) == Counter([source.image.config.digest, *(one.digest for one in source.image.layers)])


def test_a_tar_is_read_and_written_and_not_unpacked(tmp_path: Path) -> None:
    write_layout(tmp_path / "l", {"1": build_image(LAYERS[:1])})
    ended = run_command("unpack", tmp_path / "l", "--to-tar", tmp_path / "t", "--platform=linux/amd64", home=tmp_path)
    words = [line.split()[1] for line in ended.stderr.splitlines() if " layer 1/1 " in line]
    assert words == ["reading", "writing"]


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("d/f", b"second" * 98 + b"Second", [Change(b"d/f", "M", ("content",))]),
        ("d/g", b"through a lump", [Change(b"d/g", "M", ("content",))]),
        ("name", b"left", [Change(b"name", "M", ("content",))]),
        ("name", b"kept", []),
        ("d/f", b"first" * 99, [Change(b"d/f", "M", ("content",))]),
    ],
)
def test_content_is_compared_with_the_file_that_remains(
    tmp_path: Path, path: str, content: bytes, expected: list[Change]
) -> None:
    """Under its own name, through a link of a lower layer, by a hard link whose first name is gone."""
    source = build_image(LAYERS).source()
    unpack(source, tmp_path / "r", platform=AMD64)
    file = tmp_path / "r" / path
    times = os.stat(file)
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert compare_tree(str(tmp_path / "r"), source, platform=AMD64, limits=Limits()) == expected


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 5000), stored=st.binary(max_size=300), after=st.integers(0, 5000), data=st.data())
def test_sparse_files_are_compared_with_their_holes(
    tmp_path_factory: pytest.TempPathFactory, at: int, stored: bytes, after: int, data: st.DataObject
) -> None:
    work = tmp_path_factory.mktemp("sparse")
    source = build_image([[sparse_member("f", stored, at, at + len(stored) + after)]], compression="plain").source()
    unpack(source, work / "r", platform=AMD64)
    file = work / "r" / "f"
    content, times = bytearray(file.read_bytes()), os.stat(file)
    changes = []
    if content and data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1
        changes = [Change(b"f", "M", ("content",))]
    file.write_bytes(content)  # without holes
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert compare_tree(str(work / "r"), source, platform=AMD64, limits=Limits()) == changes


def test_holes_of_a_file_that_is_not_on_disk_cost_nothing(tmp_path: Path) -> None:
    """A hostile image may have many sparse files of the greatest size; hashing their zeros would take hours."""
    size = 1 << 40
    image = build_image([[sparse_member(f"f{number}", b"x", size - 1, size) for number in range(50)]])
    (tmp_path / "r").mkdir()
    limits = Limits(max_bytes=1 << 50)
    changes = compare_tree(str(tmp_path / "r"), image.source(), platform=AMD64, limits=limits)
    assert [change.kind for change in changes].count("D") == 50


def test_memory_for_contents_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    source = build_image([[member(f"{number}", b"x") for number in range(1000)]]).source()
    compare_tree(str(tmp_path / "r"), source, platform=AMD64, limits=Limits(max_name_bytes=1_500_000))
    with pytest.raises(LimitExceededError, match="bytes of memory for names"):
        compare_tree(str(tmp_path / "r"), source, platform=AMD64, limits=Limits(max_name_bytes=800_000))


def test_device_has_no_content(tmp_path: Path) -> None:
    source = build_image([[member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)]]).source()
    unpack(source, tmp_path / "r", platform=AMD64)
    assert compare_tree(str(tmp_path / "r"), source, platform=AMD64, limits=Limits()) == []
