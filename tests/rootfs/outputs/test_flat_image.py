"""flat_image: what remains of all layers, with the data in one file."""

from __future__ import annotations

import errno
import io
import tarfile
import tempfile
import threading
import time
import tracemalloc

import pytest

from ociexport.errors import DigestMismatchError, LimitExceededError, UsageError
from ociexport.layers.limits import Limits
from ociexport.layers.tar.reader import EntryType
from ociexport.rootfs.outputs.flat_image import Extent, FlatImage, FlatNode, flat_image
from ociexport.rootfs.outputs.tar import flatten
from ociexport.spec.config import Layer
from tests.support.disk_images import AMD64, flattened, hard_source
from tests.support.memory_source import MemorySource, hard_link, member, symlink, tar_of


def paths_of(image: FlatImage) -> dict[bytes, FlatNode]:
    found, waiting = {b".": image.root}, [(b"", image.root)]
    while waiting:
        prefix, node = waiting.pop()
        for name, child in node.children or ():
            found[prefix + name] = child
            if child.is_directory:
                waiting.append((prefix + name + b"/", child))
    return found


def test_nodes_have_what_the_flattened_tar_has() -> None:
    buffer = io.BytesIO()
    flatten(hard_source(), buffer.write, platform=AMD64, limits=Limits())
    buffer.seek(0)
    with flattened(hard_source()) as image, tarfile.open(fileobj=buffer) as tar:
        found = paths_of(image)
        members = {info.name.encode("utf-8", "surrogateescape"): info for info in tar}
        assert set(found) == set(members)
        for path, info in members.items():
            node = found[path]
            if info.islnk():
                assert node is found[info.linkname.encode()]
                continue
            assert (node.entry.mode, node.entry.uid, node.entry.gid) == (info.mode, info.uid, info.gid)
            if info.isfile():
                content = tar.extractfile(info)
                assert content is not None
                assert b"".join(image.chunks(node, 1000)) == content.read()


def test_names_and_numbers_are_in_order() -> None:
    with flattened(hard_source()) as image:
        assert [node.number for node in image.nodes] == list(range(len(image.nodes)))
        for node in image.nodes:
            names = [name for name, _ in node.children or ()]
            assert names == sorted(names)
            if node.is_directory:
                assert node.links == 2 + sum(child.is_directory for _, child in node.children or ())
        found = paths_of(image)
        assert found[b"opaque/new"].links == 2
        assert found[b"opaque/new"].parent is found[b"opaque"]


def test_holes_stay_holes_and_are_read_as_zeros() -> None:
    info, _ = member("big")
    info.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "big",
        "GNU.sparse.size": "20000", "GNU.sparse.map": "5000,3,9000,4,9004,2",
    }  # fmt: skip
    info.size = 9
    with flattened(MemorySource([tar_of([(info, b"abcdefghi")])])) as image:
        node = paths_of(image)[b"big"]
        assert [(extent.offset, extent.size) for extent in node.extents or ()] == [(5000, 3), (9000, 6)]
        content = b"".join(image.chunks(node, 4096))
        expected = bytes(5000) + b"abc" + bytes(3997) + b"defghi" + bytes(20_000 - 9006)
        assert content == expected
        for offset in (0, 4999, 5000, 5002, 5003, 8999, 9000, 9003, 9005, 9006, 19_999, 20_000, 30_000):
            for size in (0, 1, 2, 4000, 4001, 30_000):
                assert image.read(node, offset, size) == expected[offset : offset + size]


def test_a_file_of_many_extents_is_read_in_many_pieces_without_a_search_through_all() -> None:
    with flattened(MemorySource([tar_of([member("f", b"x" * 5000)])])) as image:
        node = paths_of(image)[b"f"]
        node.entry = node.entry._replace(size=4_000_000)
        node.extents = [Extent(number * 10, 1, 0) for number in range(400_000)]
        began = time.process_time()
        assert all(image.read(node, offset, 10) == b"x" + bytes(9) for offset in range(0, 4_000_000, 1000))
        assert time.process_time() - began < 5


def test_time_is_clamped_and_links_count_names() -> None:
    source = MemorySource([tar_of([member("a", b"x", mtime=100), hard_link("b", "a"), member("c", mtime=5)])])
    with flattened(source, max_mtime_ns=7_000_000_000) as image:
        found = paths_of(image)
    assert (found[b"a"].entry.mtime_ns, found[b"c"].entry.mtime_ns) == (7_000_000_000, 5_000_000_000)
    assert found[b"a"].links == 2
    assert found[b"a"].entry.type is EntryType.FILE


def test_wrong_layer_and_too_large_trees_are_refused() -> None:
    tar = tar_of([member("a", b"x" * 10_000)])
    source = MemorySource([tar], diff_ids=["sha256:" + "0" * 64])
    with pytest.raises(DigestMismatchError), flattened(source):
        pass
    with pytest.raises(LimitExceededError), flattened(MemorySource([tar]), limits=Limits(max_bytes=100)):
        pass


def test_full_disk_is_an_error_whichever_file_is_read_by_then() -> None:
    source = MemorySource([tar_of(member(f"f{number}", b"x" * 5000) for number in range(2000))])
    with (
        open("/dev/full", "r+b", buffering=0) as spool,
        pytest.raises(OSError, match="No space left") as caught,
        flat_image(source, spool.fileno(), platform=AMD64, limits=Limits()),
    ):
        pass
    assert caught.value.errno == errno.ENOSPC
    assert not any(thread.name == "spool" for thread in threading.enumerate())


def test_layers_are_shown_before_the_first_is_read() -> None:
    source = MemorySource([tar_of([member("a", b"x")])])
    layers: list[int] = []
    source.blobs.pop(source.layers[0].digest)

    def refuse(shown: tuple[Layer, ...]) -> None:
        layers.extend(layer.descriptor.size for layer in shown)
        raise UsageError("no room")

    with (
        tempfile.TemporaryFile() as spool,
        pytest.raises(UsageError, match="no room"),
        flat_image(source, spool.fileno(), platform=AMD64, limits=Limits(), verify_layers=refuse),
    ):
        pass
    assert layers == [source.layers[0].size]


def test_memory_of_many_paths_is_small() -> None:
    """So that a disk image of 70,000 paths takes at most 128 MiB."""
    layer = [member(f"usr/share/documents/{number % 100}/{number:05}.text", b"x" * 20) for number in range(5000)]
    source = MemorySource([tar_of(layer)])
    with flattened(source):  # loads modules
        pass
    tracemalloc.start()
    try:
        with flattened(source) as image:
            taken, _ = tracemalloc.get_traced_memory()
            count = len(image.nodes)
    finally:
        tracemalloc.stop()
    assert taken / count < 650


def test_hard_links_to_all_kinds_are_one_node_each() -> None:
    layer = [
        member("a/file", b"x"),
        symlink("a/link", "file"),
        member("a/pipe", type=tarfile.FIFOTYPE),
        *(hard_link(f"b/{name}{number}", f"a/{name}") for name in ("file", "link", "pipe") for number in range(2)),
    ]
    with flattened(MemorySource([tar_of(layer)])) as image:
        found = paths_of(image)
        for name in (b"file", b"link", b"pipe"):
            node = found[b"a/" + name]
            assert (node.links, node.path) == (3, b"a/" + name)
            assert found[b"b/" + name + b"0"] is found[b"b/" + name + b"1"] is node
        assert image.root.path == b"."
