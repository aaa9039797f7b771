"""ls, which-layer and cat fetch no layer twice from a registry, and read a layer once that an image has twice."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from ociexport.errors import DigestMismatchError
from ociexport.images import kept_blobs
from ociexport.images.kept_blobs import KeptBlobs
from ociexport.inspection.access import Access
from ociexport.inspection.list_files import list_files, list_layers
from ociexport.inspection.open_files import open_files
from ociexport.inspection.trace_path import trace_path
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream
from ociexport.spec.platforms import parse_platform
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import BuiltImage, BuiltSource, build_image
from tests.support.memory_source import directory, hard_link, member, symlink

ACCESS = Access(platform=parse_platform("linux/amd64"))
SHELL = b"shell" * 100
EMPTY = [directory(".")]
BASE = [directory("bin"), member("bin/dash", SHELL), symlink("bin/sh", "dash"), hard_link("bin/ash", "bin/dash")]
TOP = [directory("etc"), member("etc/a", b"a"), symlink("etc/b", "a"), symlink("etc/c", "/bin/sh")]
IMAGE = build_image([BASE, EMPTY, EMPTY, TOP, EMPTY])


def fetches(registry: FakeRegistry) -> Counter[str]:
    return Counter(path.rpartition("/")[2] for path in registry.paths("GET") if "/blobs/" in path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ls"], "/bin/\n/etc/\n"),
        (["ls", "-R"], None),
        (["ls", "/etc/"], "/etc/a\n/etc/b\n/etc/c\n"),
        (["ls", "--layers"], None),
        (["ls", "--layers", "/etc"], None),
        (["which-layer", "/etc/a"], None),
        (["which-layer", "-L", "/etc/c"], None),
        (["which-layer", "--latest", "/bin/sh"], None),
        (["cat", "/etc/a"], "a"),
        (["cat", "/etc/b"], "a"),
        (["cat", "/etc/c"], "shell" * 100),
        (["cat", "/bin/ash", "/etc/b", "/bin/sh", "/bin/sh"], "shell" * 100 + "a" + "shell" * 200),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_layer_is_fetched_twice(
    registry: FakeRegistry, tmp_path: Path, words: list[str], expected: str | None
) -> None:
    """Issue 16: "`which-layer` and `ls` read each layer once"."""
    command, *options = words
    reference = IMAGE.serve(registry, "app", "1")
    paths = [word for word in options if word.startswith("/")]
    flags = [word for word in options if not word.startswith("/")]
    ended = run_command(command, *flags, "--platform", "linux/amd64", reference, *paths, home=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert expected is None or ended.stdout == expected
    assert fetches(registry)
    assert set(fetches(registry).values()) == {1}


@pytest.mark.parametrize("look", ["ls", "ls -R", "which-layer", "cat", "layers"])
def test_a_layer_that_an_image_has_twice_is_read_once(look: str) -> None:
    """BuildKit writes the same empty layer for each WORKDIR of a directory that exists."""
    source = IMAGE.source()
    if look == "ls":
        assert [file.path for file in list_files(source, access=ACCESS)] == [b"/bin", b"/etc"]
    elif look == "ls -R":
        assert len(list_files(source, "/bin", recursive=True, access=ACCESS)) == 3
    elif look == "which-layer":
        trace = trace_path(source, "/", access=ACCESS)
        assert [touch.origin.layer.number for touch in trace.touches] == [5, 3, 2]
    elif look == "cat":
        (file,) = open_files(source, ["bin/dash"], access=ACCESS)
        with file:
            assert file.read() == b"shell" * 100
    else:
        changes = [[change.path for change in layer.changes] for layer in list_layers(source, access=ACCESS)]
        assert [len(paths) for paths in changes] == [4, 1, 1, 4, 1]
    assert set(Counter(source.opened).values()) == {1}


def test_file_in_a_layer_that_occurs_twice_is_found() -> None:
    """Its content was kept when the upper of the two was read."""
    layer = [directory("d"), member("d/f", b"content")]
    source = build_image([layer, [member("x")], layer]).source()
    trace = trace_path(source, "d/f", access=ACCESS)
    assert trace.origin is not None
    assert trace.origin.layer.number == 3
    hidden = build_image([layer, [member("d/.wh.f")], layer, [symlink("l", "d/f")]]).source()
    for one in (source, hidden):
        (file,) = open_files(one, ["d/f"], access=ACCESS)
        with file:
            assert file.read() == b"content"


def test_full_temporary_directory_is_no_error(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the layer is fetched a second time."""
    reference = IMAGE.serve(registry, "app", "1")
    monkeypatch.setattr(kept_blobs, "_MAX_KEPT_BYTES", 10)
    (file,) = open_files(reference, ["/bin/sh"], access=ACCESS)
    with file:
        assert file.read() == b"shell" * 100
    assert max(fetches(registry).values()) == 2


class LyingSource(BuiltSource):
    """Returns longer blobs than declared."""

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        self.image.blobs[descriptor.digest] += b"more"
        return super().open_blob(descriptor, offset)


def read_all(stream: ByteStream) -> bytes:
    parts = []
    while chunk := stream.read(100):
        parts.append(chunk)
    stream.close()
    return b"".join(parts)


def test_only_whole_blobs_are_kept() -> None:
    source = IMAGE.source()
    layer = IMAGE.layers[0]
    raw = IMAGE.blobs[layer.digest]
    before = len(os.listdir("/proc/self/fd"))
    blobs = KeptBlobs(source)
    partial = blobs.open_blob(layer)
    assert partial.read(10) == raw[:10]
    partial.close()
    assert read_all(blobs.open_blob(layer)) == raw
    assert source.opened.count(layer.digest) == 2
    first, second = blobs.open_blob(layer), blobs.open_blob(layer, 5)
    assert (first.read(3), read_all(second), read_all(first)) == (raw[:3], raw[5:], raw[3:])
    assert source.opened.count(layer.digest) == 2
    blobs.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_blob_that_is_too_long_is_not_kept() -> None:
    image = build_image([[member("f", b"x")]])
    source = LyingSource(BuiltImage(**{**vars(image), "blobs": dict(image.blobs)}), image.source().image_name)
    blobs = KeptBlobs(source)
    for count in (1, 2):
        assert read_all(blobs.open_blob(image.layers[0])).endswith(b"more" * count)
    blobs.close()


def test_what_is_kept_is_verified_again(registry: FakeRegistry) -> None:
    """The second look hashes the temporary file as it would hash a body."""
    image = build_image([[member("f", b"x")]])
    source = image.source()
    blobs = KeptBlobs(source)
    source.image.blobs[image.layers[0].digest] = bytes(image.layers[0].size)
    read_all(blobs.open_blob(image.layers[0]))
    with pytest.raises(DigestMismatchError):
        list_files(_Opening(source, blobs), access=ACCESS)
    blobs.close()


class _Opening(BuiltSource):
    def __init__(self, source: BuiltSource, blobs: KeptBlobs) -> None:
        super().__init__(source.image, source.image_name)
        self._blobs = blobs

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        return self._blobs.open_blob(descriptor, offset)
