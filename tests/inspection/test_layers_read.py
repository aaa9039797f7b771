"""inspection: which layers are read, what is kept of them, and the errors for paths that do not exist."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ociexport.errors import (
    DiffIdMismatchError,
    DigestMismatchError,
    InvalidImageError,
    LimitExceededError,
    NotFoundError,
    SizeMismatchError,
    UsageError,
)
from ociexport.images.source import ImageName, ImageSource
from ociexport.inspection.access import Access
from ociexport.inspection.list_files import list_files, list_layers
from ociexport.inspection.open_files import copy_files, open_file, open_files
from ociexport.inspection.trace_path import Touch, trace_path
from ociexport.layers.limits import Limits
from ociexport.layers.record import ChangeKind
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream
from ociexport.spec.platforms import parse_platform
from tests.support.image_builder import BuiltSource, build_image
from tests.support.memory_source import Member, MemorySource, directory, hard_link, member, symlink, tar_of

ACCESS = Access(platform=parse_platform("linux/amd64"))


def source_of(*layers: list[Member]) -> BuiltSource:
    return build_image(layers).source()


def layers_read(source: BuiltSource) -> list[int]:
    """Return the numbers of the layers that were opened, in the order of opening."""
    numbers = {layer.digest: number for number, layer in enumerate(source.image.layers, start=1)}
    return [numbers[digest] for digest in source.opened if digest in numbers]


def content_of(source: ImageSource, path: str) -> bytes:
    with open_file(source, path, access=ACCESS) as file:
        return file.read()


def names_in(source: ImageSource, path: str = "/", *, recursive: bool = False) -> list[bytes]:
    return [file.path for file in list_files(source, path, recursive=recursive, access=ACCESS)]


def is_missing(source: ImageSource, path: str) -> None:
    with pytest.raises(NotFoundError):
        open_file(source, path, access=ACCESS)


BASE = [directory("etc"), member("etc/x", b"old"), directory("d"), member("d/f", b"f"), symlink("l", "d")]


@pytest.mark.parametrize(
    ("top", "look"),
    [
        ([directory("etc"), member("etc/x", b"new")], lambda source: content_of(source, "/etc/x") == b"new"),
        ([directory("etc"), member("etc/x", b"1"), member("etc/x")], lambda source: content_of(source, "etc/x")),
        ([directory("etc"), member("etc/.wh.x")], lambda source: is_missing(source, "/etc/x")),
        ([member(".wh.etc")], lambda source: is_missing(source, "/etc/x")),
        ([directory("d"), member("d/.wh..wh..opq")], lambda source: is_missing(source, "/d/f")),
        ([directory("d"), member("d/.wh..wh..opq"), member("d/g")], lambda source: names_in(source, "/d")),
        ([member("d", b"a file now")], lambda source: is_missing(source, "/d/f")),
        ([symlink("d", "e"), directory("e"), member("e/f", b"new")], lambda source: content_of(source, "/d/f")),
        ([directory("etc"), symlink("etc/x", "/y"), member("y")], lambda source: content_of(source, "/etc/x")),
        ([member(".wh..wh..opq"), member("a/b/c")], lambda source: names_in(source, "/a", recursive=True)),
        ([directory("etc"), member("etc/x")], lambda source: trace_path(source, "etc/x", latest=True, access=ACCESS)),
        ([directory("etc", mtime=3)], lambda source: list_files(source, "/etc", itself=True, access=ACCESS)),
    ],
    ids=[
        "file", "twice", "whiteout", "whiteout above", "opaque", "in an opaque one", "file above", "link above",
        "link at the end", "opaque root", "provenance", "directory itself",
    ],
)  # fmt: skip
def test_what_the_top_layer_settles_needs_no_other(top: list[Member], look: Callable[[ImageSource], object]) -> None:
    """Issue 5, Looking: layers are read only as far as needed."""
    source = source_of(BASE, [member("between")], top)
    look(source)
    assert set(layers_read(source)) == {3}


def test_layer_is_read_until_its_directories_are_known() -> None:
    """Without an entry for ``etc``, the path might lead through a link of a lower layer."""
    source = source_of(BASE, [directory("etc")], [member("other")], [member("etc/x", b"new")])
    assert content_of(source, "/etc/x") == b"new"
    assert layers_read(source) == [4, 3, 2]


def test_layers_that_only_seem_to_settle_it_are_not_tried_without_end() -> None:
    """Each layer has the requested name in another directory; replaying them must cost no more than reading them."""
    layers = [[member(f"d{number}/x", b"%d" % layer) for number in range(1_500)] for layer in range(40)]
    source = source_of([member("x")], *layers)
    is_missing(source, "/x/x")
    assert layers_read(source) == list(range(41, 0, -1))


def test_all_layers_may_add_to_a_directory() -> None:
    source = source_of(BASE, [directory("d"), member("d/g")], [directory("d"), member("d/.wh.f")])
    assert names_in(source, "/d") == [b"/d/g"]
    assert layers_read(source) == [3, 2, 1]
    assert names_in(source_of(BASE), "/l") == [b"/l/f"]


def test_link_that_leads_to_a_file_is_listed_itself() -> None:
    source = source_of([member("f"), symlink("l", "f"), symlink("loop", "loop"), symlink("gone", "nowhere")])
    for name in ("l", "loop", "gone"):
        (listed,) = list_files(source, name, access=ACCESS)
        assert (listed.path, listed.type.value) == (f"/{name}".encode(), "symlink")


def test_hard_link_to_a_lower_layer_has_that_layers_content() -> None:
    source = source_of([member("a", b"old")], [hard_link("b", "a")], [member("a", b"new")])
    assert content_of(source, "/b") == b"old"
    trace = trace_path(source, "/b", access=ACCESS)
    assert trace.origin is not None
    assert trace.origin.layer.number == 1
    assert [(touch.origin.layer.number, touch.touch, touch.by.kind) for touch in trace.touches] == [
        (2, Touch.ADDED, ChangeKind.HARD_LINK)
    ]


def test_file_under_another_name_costs_a_second_look_at_its_layer_only() -> None:
    source = source_of([member("dash", b"shell"), symlink("sh", "dash")], [member("other")])
    assert content_of(source, "/sh") == b"shell"
    assert layers_read(source) == [2, 1, 1]


def test_of_many_files_of_one_name_each_is_found() -> None:
    """The number of files kept while a layer is read is bounded; beyond it the layer is read again."""
    files = [member(f"d{number}/f", b"%d" % number) for number in range(12)]
    source = source_of(files)
    assert [content_of(source, f"d{number}/f") for number in range(12)] == [b"%d" % number for number in range(12)]


def test_large_and_sparse_files_are_whole() -> None:
    large = bytes(range(256)) * 8192
    info, _ = member("sparse")
    info.pax_headers = {"GNU.sparse.map": "0,3,3000000,4", "GNU.sparse.size": "4000000"}
    info.size = 7
    source = source_of([member("large", large), (info, b"abcdefg")])
    expected = b"abc" + bytes(2_999_997) + b"defg" + bytes(999_996)
    assert content_of(source, "large") == large
    assert content_of(source, "sparse") == expected
    copied = bytearray()
    copy_files(source, ["sparse", "large"], copied.extend, access=ACCESS)
    assert copied == expected + large


def test_memory_for_a_listing_is_bounded() -> None:
    """Each path of a deep tree repeats all names above: two million paths of 2,000 bytes would be gigabytes."""
    source = source_of([member("/".join(["d" * 100] * 60) + "/f")])
    access = Access(platform=ACCESS.platform, limits=Limits(max_name_bytes=100_000))
    assert len(list_files(source, access=access)) == 1
    with pytest.raises(LimitExceededError, match="expected at most 100000 bytes of memory for names"):
        list_files(source, recursive=True, access=access)
    assert len(list_files(source, recursive=True, access=ACCESS)) == 61


def test_hundreds_of_files_take_few_descriptors() -> None:
    """Each large or sparse file is kept in a temporary file; ulimit -n is 1024, or 256 on some systems."""
    layer = []
    for number in range(300):
        info, _ = member(f"d/{number}")
        info.pax_headers = {"GNU.sparse.map": f"{number},3", "GNU.sparse.size": "4000"}
        info.size = 3
        layer.append((info, b"abc"))
    layer.append(member("d/large", b"x" * 1_500_000))
    paths = [f"d/{number}" for number in range(300)] + ["d/large"]
    before = len(os.listdir("/proc/self/fd"))
    files = open_files(source_of(layer), paths, access=ACCESS)
    assert len(os.listdir("/proc/self/fd")) <= before + 70
    for number, file in enumerate(files[:-1]):
        assert file.read(5) == (bytes(number) + b"abc")[:5].ljust(5, b"\0")
        assert file.seek(number) == number
        assert file.read() == b"abc" + bytes(3997 - number)
        assert file.seek(-3997 + number, os.SEEK_END) == number + 3
        assert file.read(1) == b"\0"
    assert files[-1].read() == b"x" * 1_500_000
    for file in files:
        file.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_small_sparse_file_keeps_the_hole_at_its_end() -> None:
    info, _ = member("sparse")
    info.pax_headers = {"GNU.sparse.map": "2,3", "GNU.sparse.size": "4000"}
    info.size = 3
    assert content_of(source_of([(info, b"abc")]), "sparse") == bytes(2) + b"abc" + bytes(3995)


def test_entry_that_can_not_be_applied_is_told_with_its_layer() -> None:
    with pytest.raises(InvalidImageError) as caught:
        list_files(source_of([member("f")], [hard_link("a", "b")]), access=ACCESS)
    where, _, message = str(caught.value).partition("): ")
    assert (where[:20], message) == ("layer 2 of 2 (sha256", "entry 'a': hard link: expected a file at 'b', got none")


def test_file_beyond_the_limit_is_refused() -> None:
    source = source_of([member("f", b"12345")])
    with pytest.raises(LimitExceededError):
        open_file(source, "f", access=Access(platform=ACCESS.platform, limits=Limits(max_bytes=4)))


class ChangingSource(BuiltSource):
    """A source that returns another layer the second time."""

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        if descriptor.digest in self.opened:
            self.image.blobs[descriptor.digest] = tar_of([member("f", b"evil")])
        return super().open_blob(descriptor, offset)


def test_streamed_content_is_proven_as_it_ends() -> None:
    image = build_image([[member("f", b"true")]], compression="plain")
    source = ChangingSource(image, ImageName("latest", None))
    written: list[bytes] = []
    with pytest.raises(DigestMismatchError):
        copy_files(source, ["f"], lambda chunk: written.append(bytes(chunk)), access=ACCESS)
    assert written == [b"evil"]


def test_layer_that_changes_before_the_second_look_is_not_given() -> None:
    image = build_image([[member("f", b"x" * 2_000_000), symlink("l", "f")]], compression="plain")
    with pytest.raises(SizeMismatchError):
        open_file(ChangingSource(image, ImageName("latest", None)), "l", access=ACCESS)


@pytest.mark.parametrize("kind", ["blob", "diff_id"])
def test_nothing_is_given_of_a_layer_that_is_not_right(kind: str) -> None:
    tar = tar_of([member("f", b"content"), member("g")])
    source = MemorySource([tar], diff_ids=[f"sha256:{'a' * 64}"] if kind == "diff_id" else None)
    if kind == "blob":
        digest = source.layers[0].digest
        damaged = bytearray(source.blobs[digest])
        damaged[4] ^= 1  # the time in gzip's header, which decompression ignores
        source.blobs[digest] = bytes(damaged)
    for look in (open_file, list_files, trace_path):
        with pytest.raises(DiffIdMismatchError if kind == "diff_id" else DigestMismatchError):
            look(source, "f", access=ACCESS)
    with pytest.raises(DigestMismatchError):
        list(list_layers(source, access=ACCESS))


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        ("/etc/hostnam", "'/etc/hostnam': no such path in the image", "did you mean '/etc/hostname'?"),
        ("lib/hostname", "'lib/hostname': no such path in the image", None),
        ("/etc/hostname/x", "'/etc/hostname/x': no such path in the image", "'/etc/hostname' is not a directory"),
        (
            "gone/x",
            "'gone/x': no such path in the image",
            "'/gone' is a link to 'off', which does not exist",
        ),
        ("loop", "'loop': expected at most 40 links", "the symbolic links form a loop"),
    ],
)
def test_path_that_is_not_there_is_told(path: str, message: str, hint: str | None) -> None:
    source = source_of(
        [
            directory("etc"),
            member("etc/hostname"),
            symlink("lib", "etc/hostname/y"),
            symlink("gone", "off"),
            symlink("loop", "loop"),
        ]
    )
    with pytest.raises(NotFoundError) as caught:
        open_file(source, path, access=ACCESS)
    expected_hint = hint if path != "lib/hostname" else "'/lib' is a link to 'etc/hostname/y', which does not exist"
    assert (str(caught.value), caught.value.hint) == (message, expected_hint)


@pytest.mark.parametrize(
    ("path", "got"), [("/", "directory"), ("d", "directory"), ("null", "character device"), ("pipe", "fifo")]
)
def test_only_files_have_content(path: str, got: str) -> None:
    source = source_of([directory("d"), member("null", type=tarfile.CHRTYPE), member("pipe", type=tarfile.FIFOTYPE)])
    with pytest.raises(UsageError, match=f"^'{path}': expected a file, got a {got}$"):
        open_file(source, path, access=ACCESS)


@pytest.mark.parametrize("path", ["", b"a\0b"])
def test_path_that_no_image_has_is_a_mistake(path: str | bytes) -> None:
    for look in (open_file, list_files, trace_path):
        with pytest.raises(UsageError):
            look(source_of(BASE), path, access=ACCESS)


def test_file_that_is_missing_leaves_none_open() -> None:
    """An unclosed temporary file causes a warning, and warnings are errors."""
    with pytest.raises(NotFoundError):
        open_files(source_of([member("f", b"x" * 2_000_000)]), ["f", "g"], access=ACCESS)


def test_image_without_layers_is_empty() -> None:
    source = source_of()
    assert names_in(source) == []
    is_missing(source, "/etc")
    (root,) = list_files(source, itself=True, access=ACCESS)
    assert (root.path, root.mode, root.layer) == (b"/", 0o755, 0)
    trace = trace_path(source, "/", access=ACCESS)
    assert (trace.origin, trace.touches, trace.real_path) == (None, (), b"/")


def test_provenance_has_the_place_that_links_lead_to() -> None:
    source = source_of([directory("a"), symlink("a/l", "../b/f"), symlink("m", "/a/l"), directory("b"), member("b/f")])
    for path, follow, real_path in (
        ("m", True, b"/b/f"),
        ("m", False, b"/m"),
        ("a/../m", False, b"/m"),
        ("b/.", False, b"/b"),
    ):
        trace = trace_path(source, path, follow=follow, access=ACCESS)
        assert trace.real_path == real_path


def test_hint_is_worth_no_other_layer() -> None:
    source = source_of(BASE, [directory("etc"), member("etc/.wh.x"), symlink("etc/y", "unknown")])
    with pytest.raises(NotFoundError) as caught:
        open_file(source, "/etc/x", access=ACCESS)
    assert (caught.value.hint, layers_read(source)) == (None, [2])


def test_links_lead_no_higher_than_the_root(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"of the host")
    outside = str(tmp_path / "secret")
    source = source_of([symlink("l", f"../../..{outside}"), symlink("m", outside), member("own", b"of the image")])
    is_missing(source, "l")
    is_missing(source, "m")
    assert content_of(source, "../../own") == b"of the image"


def test_index_within_a_layer_is_not_believed() -> None:
    """eStargz: only the tar matters; the TOC is an ordinary file."""
    toc = json.dumps({"version": 1, "entries": [{"name": "f", "type": "reg", "size": 3, "offset": 0}]}).encode()
    source = source_of([member("f", b"true"), member("stargz.index.json", toc)])
    assert content_of(source, "f") == b"true"
    assert names_in(source) == [b"/f", b"/stargz.index.json"]


def test_links_of_aufs_share_their_file_and_are_hidden() -> None:
    source = source_of([member(".wh..wh.plnk/1.2", b"shared"), hard_link("f", ".wh..wh.plnk/1.2")], [member("g")])
    assert names_in(source) == [b"/f", b"/g"]
    assert content_of(source, "f") == b"shared"


def changes_of(source: ImageSource, path: str, number: int | None = None) -> Sequence[Sequence[tuple[str, bytes]]]:
    return [
        [(change.kind.value, change.path) for change in layer.changes]
        for layer in list_layers(source, path, number=number, access=ACCESS)
    ]


def test_layers_are_told_as_they_stand() -> None:
    top = [member("etc/.wh.x"), directory("d"), member("d/.wh..wh..opq"), hard_link("h", "l"), symlink("s", "etc")]
    source = source_of(BASE, top)
    assert changes_of(source, "/")[1] == [
        ("whiteout", b"etc/x"), ("directory", b"d"), ("opaque", b"d"), ("hard link", b"h"), ("symlink", b"s"),
    ]  # fmt: skip
    assert changes_of(source, "etc/") == [[("directory", b"etc"), ("file", b"etc/x")], [("whiteout", b"etc/x")]]
    assert changes_of(source, "/d/f") == [[("file", b"d/f")], [("opaque", b"d")]]


def test_one_layer_alone_is_read() -> None:
    source = source_of(BASE, [member("a")], [member("b")])
    assert changes_of(source, "/", 2) == [[("file", b"a")]]
    assert layers_read(source) == [2]
    with pytest.raises(NotFoundError, match=r"^layer 4: expected a layer of the image, 1 to 3$"):
        changes_of(source, "/", 4)
    with pytest.raises(NotFoundError, match=r"^'/nowhere': no such path in the layers$"):
        changes_of(source, "nowhere")


def test_deleted_file_names_the_layer_that_hid_it() -> None:
    """dredge#299, dive#336: which layer added it, which deleted it, and how."""
    source = source_of(BASE, [directory("etc"), member("etc/x", b"newer")], [member(".wh.etc")])
    trace = trace_path(source, "/etc/x", access=ACCESS)
    assert (trace.file, trace.origin, trace.is_complete) == (None, None, True)
    assert [(touch.origin.layer.number, touch.touch, touch.by.kind, touch.by.path) for touch in trace.touches] == [
        (3, Touch.DELETED, ChangeKind.WHITEOUT, b"etc"),
        (2, Touch.CHANGED, ChangeKind.FILE, b"etc/x"),
        (1, Touch.ADDED, ChangeKind.FILE, b"etc/x"),
    ]
    latest = trace_path(source, "/etc/x", latest=True, access=ACCESS)
    assert [(touch.origin.layer.number, touch.touch) for touch in latest.touches] == [(3, Touch.DELETED)]
    assert not latest.is_complete
