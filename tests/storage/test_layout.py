"""layout.layout: an OCI image-layout directory in which no incomplete file can be taken for a complete one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ociexport.errors import (
    DigestMismatchError,
    InvalidImageError,
    NotFoundError,
    SizeMismatchError,
    UnsupportedMediaTypeError,
    UsageError,
)
from ociexport.images.source import ImageName, ReceivedManifest
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from tests.support.image_builder import build_image, write_layout
from tests.support.memory_source import member
from tests.support.stored_blobs import BLOB, CONTENT, store, store_a_part


@pytest.fixture
def layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "layout")


def files_of(layout: ImageLayout) -> list[str]:
    root = Path(layout.path)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_layout_is_what_the_specification_says(layout: ImageLayout) -> None:
    """image-layout.md: oci-layout, index.json and blobs/<alg>/<encoded>."""
    store(layout)
    layout.write_name(BLOB, ImageName("1", "docker.io/library/a:1"))
    root = Path(layout.path)
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((root / "index.json").read_bytes()) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/x",
                "digest": str(BLOB.digest),
                "size": len(CONTENT),
                "annotations": {
                    "org.opencontainers.image.ref.name": "1",
                    "io.containerd.image.name": "docker.io/library/a:1",
                },
            }
        ],
    }
    assert (root / "blobs" / "sha256" / BLOB.digest.encoded).read_bytes() == CONTENT


def test_nothing_is_made_before_the_first_blob(layout: ImageLayout) -> None:
    assert not layout.has_blob(BLOB)
    layout.verify_is_usable()
    assert not os.path.exists(layout.path)


@pytest.mark.parametrize(
    ("written", "error"),
    [(CONTENT[:-1], SizeMismatchError), (CONTENT + b"x", SizeMismatchError), (CONTENT[::-1], DigestMismatchError)],
    ids=["short", "long", "other"],
)
def test_wrong_bytes_leave_nothing(layout: ImageLayout, written: bytes, error: type[Exception]) -> None:
    with pytest.raises(error), layout.begin(), layout.new_blob(BLOB) as blob:
        blob.write(written)
    assert not os.path.exists(layout.path)


def test_cut_transfer_is_taken_up_where_it_ended(layout: ImageLayout) -> None:
    store_a_part(layout, CONTENT[:4000])
    assert not layout.has_blob(BLOB)
    with ImageLayout(layout.path).new_blob(BLOB) as blob:
        assert blob.offset == 4000
        blob.write(CONTENT[4000:])
    assert layout.has_blob(BLOB)
    assert files_of(layout) == [
        ".ociexport/lock",
        ".ociexport/users",
        f"blobs/sha256/{BLOB.digest.encoded}",
        "index.json",
        "oci-layout",
    ]


def test_damaged_beginning_is_seen_at_the_end(layout: ImageLayout) -> None:
    """A partial blob is hashed before it is trusted."""
    store_a_part(layout, b"X" * 4000)
    with pytest.raises(DigestMismatchError), layout.new_blob(BLOB) as blob:
        blob.write(CONTENT[blob.offset :])
    with layout.new_blob(BLOB) as blob:
        assert blob.offset == 0
        blob.write(CONTENT)


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT[:-1] + b"X", CONTENT + b"X"])
def test_damaged_blob_is_not_there_and_is_replaced(layout: ImageLayout, damage: bytes) -> None:
    store(layout)
    Path(layout.blob_path(BLOB.digest)).write_bytes(damage)
    assert not layout.has_blob(BLOB)
    store(layout)
    assert layout.has_blob(BLOB)


def test_same_full_name_moves_and_others_stay(layout: ImageLayout) -> None:
    one, two = store(layout, b"one"), store(layout, b"two")
    layout.write_name(one, ImageName("latest", "docker.io/library/a:latest"))
    layout.write_name(one, ImageName("latest", "docker.io/library/b:latest"))
    layout.write_name(two, ImageName("latest", "docker.io/library/a:latest"))
    layout.write_name(two, ImageName("latest", "docker.io/library/a:latest"))
    assert [(descriptor.digest, name.full) for descriptor, name in layout.read_images()] == [
        (one.digest, "docker.io/library/b:latest"),
        (two.digest, "docker.io/library/a:latest"),
    ]


def test_index_of_no_bytes_is_no_index(layout: ImageLayout) -> None:
    descriptor = store(layout)
    Path(layout.path, "index.json").write_bytes(b"")
    with pytest.raises(InvalidImageError) as caught:
        layout.write_name(descriptor, ImageName("a", None))
    assert str(caught.value).startswith(f"{layout.path}/index.json: ")


def test_what_others_do_between_two_names_is_seen(layout: ImageLayout) -> None:
    one, two = store(layout, b"one"), store(layout, b"two")
    layout.write_name(one, ImageName("a", None))
    layout.write_name(one, ImageName("b", None))
    ImageLayout(layout.path).write_name(two, ImageName("a", None))
    layout.write_name(one, ImageName("c", None))
    assert [(descriptor.digest, name.tag) for descriptor, name in layout.read_images()] == [
        (one.digest, "b"),
        (two.digest, "a"),
        (one.digest, "c"),
    ]


def test_what_others_wrote_into_the_index_stays(layout: ImageLayout) -> None:
    store(layout)
    path = Path(layout.path, "index.json")
    theirs = {
        "schemaVersion": 2,
        "x-vendor": {"deep": [1, 2.5, None]},
        "annotations": {"a": "ü"},
        "manifests": [{"mediaType": "application/unknown", "digest": str(BLOB.digest), "size": 5, "x-more": True}],
    }
    path.write_text(json.dumps(theirs))
    layout.write_name(store(layout, b"two"), ImageName("2", "docker.io/library/a:2"))
    index = json.loads(path.read_bytes())
    assert index["manifests"].pop()["digest"] == str(Digest.of(b"two"))
    assert index == theirs


def test_platform_is_written(layout: ImageLayout) -> None:
    descriptor = Descriptor("m", BLOB.digest, BLOB.size, platform=Platform("linux", "arm64", "v8"))
    layout.write_name(descriptor, ImageName("1", None))
    assert layout.read_images()[0][0].platform == Platform("linux", "arm64", "v8")


@pytest.mark.parametrize(
    "name", ["1", "a:1", "library/a:1", "docker.io/library/a:1", "@0", f"@{Digest.of(b'one')}", None]
)
def test_image_is_found_by_each_of_its_names(layout: ImageLayout, name: str | None) -> None:
    one = store(layout, b"one")
    layout.write_name(one, ImageName("1", "docker.io/library/a:1"))
    if name is not None:
        layout.write_name(store(layout, b"two"), ImageName("2", "docker.io/library/a:2"))
    assert layout.open_image(name).fetch_manifest().raw == b"one"


def test_names_of_crane_and_umoci_are_read(layout: ImageLayout) -> None:
    """crane --annotate-ref writes the full reference as ref.name, umoci and skopeo the tag alone."""
    one, two = store(layout, b"one"), store(layout, b"two")
    layout.write_name(one, ImageName("registry.test/team/app:1", None))
    layout.write_name(two, ImageName("bare", None))
    assert layout.open_image("registry.test/team/app:1").image_name.full == "registry.test/team/app:1"
    assert layout.open_image("bare").fetch_manifest().raw == b"two"


@pytest.mark.parametrize(
    ("ref_name", "full", "tag"),
    [
        ("registry.test/team/app:1", "registry.test/team/app:1", "1"),  # crane --annotate-ref, podman save
        ("app:1", "docker.io/library/app:1", "1"),  # skopeo copy … oci:layout:app:1
        ("1", None, "1"),
        ("a:b:c", None, "a:b:c"),
    ],
)
def test_copies_of_names_are_for_readers_of_either(
    layout: ImageLayout, ref_name: str, full: str | None, tag: str | None
) -> None:
    """Tools that read only one annotation find the copy too: skopeo and umoci the tag, containerd the full name."""
    layout.write_name(store(layout, b"one"), ImageName(ref_name, None))
    source = layout.open_image(ref_name)
    assert source.image_name == ImageName(tag, full)
    layout.write_name(store(layout, b"two"), ImageName(tag, full))
    if full is not None:
        # The other tool's entry was replaced, since it has the same name.
        ((descriptor, name),) = layout.read_images()
        assert (descriptor.digest, name) == (Digest.of(b"two"), ImageName(tag, full))


def test_manifest_that_only_an_index_names_is_found_by_digest(layout: ImageLayout) -> None:
    inner = store(layout, b"inner")
    assert layout.open_image(f"@{inner.digest}").fetch_manifest().raw == b"inner"


def test_ambiguous_and_unknown_names_list_what_there_is(layout: ImageLayout) -> None:
    layout.write_name(store(layout, b"one"), ImageName("1", "docker.io/library/a:1"))
    layout.write_name(store(layout, b"two"), ImageName("1", "docker.io/library/b:1"))
    listed = "docker.io/library/a:1, docker.io/library/b:1"
    for name, kind, message in (
        (None, UsageError, f"{layout}: expected one image, there are: {listed}"),
        ("1", UsageError, f"{layout}: expected one image '1', there are: {listed}"),
        ("3", NotFoundError, f"{layout}: expected image '3', there are: {listed}"),
        ("@7", NotFoundError, f"{layout}: expected an image at position '7', there are 2"),
    ):
        with pytest.raises(kind) as caught:
            layout.open_image(name)
        assert str(caught.value) == message


def test_a_message_names_some_of_many_images(layout: ImageLayout) -> None:
    for number in range(100, 130):
        layout.write_name(store(layout, b"one"), ImageName(str(number), None))
    with pytest.raises(NotFoundError, match=r"there are: 100, 101, .*, 123 and 6 more$"):
        layout.open_image("x")


def test_directory_of_other_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="expected an OCI layout or an empty directory"):
        store(ImageLayout(tmp_path))
    assert os.listdir(tmp_path) == ["mine"]


def test_missing_and_other_layouts_are_told(tmp_path: Path, layout: ImageLayout) -> None:
    with pytest.raises(NotFoundError) as caught:
        layout.read_images()
    assert str(caught.value) == f"{layout}: expected an OCI layout, got no oci-layout file in it"
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(UnsupportedMediaTypeError, match=r"imageLayoutVersion: expected 1\.0\.0, got '2\.0\.0'$"):
        ImageLayout(tmp_path).read_images()
    (tmp_path / "oci-layout").write_text("<html>")
    with pytest.raises(InvalidImageError, match="expected a JSON document"):
        ImageLayout(tmp_path).read_images()


def test_fifo_in_place_of_a_blob_does_not_hang(layout: ImageLayout) -> None:
    store(layout, b"other")
    os.mkfifo(layout.blob_path(BLOB.digest))
    assert not layout.has_blob(BLOB)
    with pytest.raises(InvalidImageError, match=r"expected a file, got a fifo$"):
        layout.open_blob(BLOB)


def test_planted_link_in_place_of_a_partial_blob_is_not_followed(layout: ImageLayout, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    layout.make_ready()
    os.symlink(victim, os.path.join(layout.path, ".ociexport/partial", f"sha256-{BLOB.digest.encoded}"))
    with pytest.raises(InvalidImageError, match=r"expected a file, got a link$"):
        store(layout)
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("name", [".ociexport", ".ociexport/partial", "blobs"])
def test_planted_link_in_place_of_a_directory_is_refused(layout: ImageLayout, tmp_path: Path, name: str) -> None:
    """A layout from an untrusted source must not make us remove or write files elsewhere."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("untouched")
    place = Path(layout.path) / name
    place.parent.mkdir(parents=True)
    place.symlink_to(victim)
    with pytest.raises(UsageError) as caught, layout.begin():
        pass
    assert str(caught.value) == f"'{place}': expected a directory, got a link"
    assert [path.name for path in victim.iterdir()] == ["file"]


def test_file_of_others_beside_ours_is_not_removed(layout: ImageLayout) -> None:
    with layout.begin():
        other = Path(layout.path) / ".ociexport" / "other"
        other.write_text("untouched")
    assert other.read_text() == "untouched"


def test_fifo_in_place_of_a_partial_blob_does_not_hang(layout: ImageLayout) -> None:
    layout.make_ready()
    path = layout.partial_path(BLOB.digest)
    os.mkfifo(path)
    with pytest.raises(InvalidImageError) as caught:
        store(layout)
    assert str(caught.value) == f"{path}: expected a file, got a fifo"


def test_manifest_is_kept_byte_for_byte(layout: ImageLayout) -> None:
    raw = b'{ "schemaVersion" : 2,\n "spaces": "kept" }'
    layout.write_manifest(ReceivedManifest(raw, "m", Digest.of(raw)))
    layout.write_manifest(ReceivedManifest(raw, "m", Digest.of(raw)))
    assert Path(layout.blob_path(Digest.of(raw))).read_bytes() == raw


def test_altered_manifest_is_told_with_the_layouts_name(layout: ImageLayout) -> None:
    layout.write_name(store(layout), ImageName("1", None))
    Path(layout.blob_path(BLOB.digest)).write_bytes(b"X" * len(CONTENT))
    with pytest.raises(DigestMismatchError) as caught:
        layout.open_image("1").fetch_manifest()
    assert str(caught.value) == (
        f"{layout}: manifest {BLOB.digest}: digest mismatch: expected {BLOB.digest}, "
        f"got {Digest.of(b'X' * len(CONTENT))}"
    )


def test_missing_blob_is_told(layout: ImageLayout) -> None:
    layout.make_ready()
    with pytest.raises(NotFoundError) as caught:
        layout.open_blob(BLOB)
    assert str(caught.value) == f"{layout}: blob {BLOB.digest}: not in the layout"


def test_layout_made_in_vain_is_removed_with_the_directories_above(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "a" / "b")
    with layout.begin() as use:
        store(layout)
        use.discard([BLOB.digest])
    assert list(tmp_path.iterdir()) == []


def test_empty_directory_that_was_there_stays(tmp_path: Path) -> None:
    with ImageLayout(tmp_path).begin():
        pass
    assert list(tmp_path.iterdir()) == []


def test_layout_of_others_is_left_as_it_was(tmp_path: Path) -> None:
    write_layout(tmp_path, {"1": build_image([[member("a", b"1")]])})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    layout = ImageLayout(tmp_path)
    with layout.begin() as use:
        store(layout)
        use.discard([BLOB.digest])
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert {path for path, time in after.items() if before.get(path) != time} <= {tmp_path / "blobs" / "sha256"}
    assert set(after) == set(before)


def test_complete_layout_holds_nothing_of_ours(layout: ImageLayout) -> None:
    with layout.begin():
        store(layout)
        layout.write_name(BLOB, ImageName("1", None))
    assert files_of(layout) == [f"blobs/sha256/{BLOB.digest.encoded}", "index.json", "oci-layout"]
    assert not os.path.exists(os.path.join(layout.path, ".ociexport"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_all_that_a_name_needs_is_synced_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """fsync(2) of a file does not sync its directory entry. After a power cut, a listed image has all its files."""
    synced: list[str] = []
    digest = Digest.of(CONTENT, algorithm)
    descriptor = Descriptor("m", digest, len(CONTENT))

    def fsync(fd: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))

    monkeypatch.setattr(os, "fsync", fsync)
    layout = ImageLayout(tmp_path / "new" / "layout")
    with layout.new_blob(descriptor) as blob:
        blob.write(CONTENT)
    blobs = ["new/layout/blobs"] if algorithm == "sha512" else []
    partial = f"new/layout/.ociexport/partial/{algorithm}-{digest.encoded}"
    assert synced[-len(blobs) - 2 :] == [partial, *blobs, f"new/layout/blobs/{algorithm}"]
    assert {".", "new", "new/layout", "new/layout/blobs"} <= set(synced)
    synced.clear()
    layout.write_name(descriptor, ImageName("1", None))
    assert [re.sub(r"json\..*", "json.X", name) for name in synced] == [
        "new/layout/.ociexport/index.json.X",
        "new/layout",
    ]
