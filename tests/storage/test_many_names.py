"""Many names are written into ``index.json`` at once, and mean what they mean one by one. Source: issue 18, "10,000
images"."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError
from ociexport.images.source import ImageName
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import Digest
from ociexport.storage.index import name_of, named
from ociexport.storage.layout.documents import _kept_entries
from ociexport.storage.layout.layout import ImageLayout
from tests.support.read_bytes import bytes_read_by

TYPE = "application/vnd.oci.image.manifest.v1+json"
DESCRIPTORS = [Descriptor(TYPE, Digest.of(text), 1) for text in (b"a", b"b")]
NAMES = [
    ImageName(tag, full)
    for tag in (None, "1", "2")
    for full in (None, "docker.io/library/a:1", "docker.io/library/b:1")
]
images = st.tuples(st.sampled_from(DESCRIPTORS), st.sampled_from(NAMES))


def is_replaced(old: Descriptor, descriptor: Descriptor, name: ImageName) -> bool:
    """The rule for one name, as `ImageLayout.write_name` has it: the model of the code for many."""
    known = name_of(old)
    if name.full is not None and known.full is not None:
        return known.full == name.full
    if old.digest != descriptor.digest:
        return name.full is None and known.full is None and name.tag is not None and known.tag == name.tag
    return known.full is None and known.tag in (None, name.tag)


@given(st.lists(images, max_size=6), st.lists(images, max_size=8))
def test_names_together_are_names_one_by_one(
    known: list[tuple[Descriptor, ImageName]], new: list[tuple[Descriptor, ImageName]]
) -> None:
    entries = [named(*image) for image in known]
    expected = list(entries)
    for descriptor, name in new:
        expected = [old for old in expected if not is_replaced(old, descriptor, name)] + [named(descriptor, name)]
    added = [named(*image) for image in new]
    kept = _kept_entries(entries, added, [name for _, name in new])
    assert [entry for entry, stays in zip([*entries, *added], kept, strict=True) if stays] == expected


def names_in(layout: ImageLayout) -> list[str | None]:
    return [name.tag for _, name in layout.read_images()]


def test_names_of_a_batch_wait_for_the_commit(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "layout")
    with layout.batch(), layout.begin():
        layout.write_name(DESCRIPTORS[0], ImageName("1", None))
        assert names_in(layout) == []
        layout.commit_names()
        assert names_in(layout) == ["1"]
        layout.write_name(DESCRIPTORS[1], ImageName("2", None))
    assert names_in(layout) == ["1", "2"]
    layout.write_name(DESCRIPTORS[1], ImageName("3", None))
    assert names_in(layout) == ["1", "2", "3"]


def test_names_are_written_after_an_error_too(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "layout")
    with suppress(KeyboardInterrupt), layout.batch(), layout.begin():
        layout.write_name(DESCRIPTORS[0], ImageName("1", None))
        raise KeyboardInterrupt
    assert names_in(layout) == ["1"]


def test_a_batch_in_which_nothing_was_stored_leaves_nothing(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "layout")
    with layout.batch():
        pass
    with pytest.raises(InvalidImageError), layout.batch(), layout.begin():
        raise InvalidImageError("no image")
    assert list(tmp_path.iterdir()) == []


def test_discarded_blobs_go_unless_another_image_needs_them(tmp_path: Path) -> None:
    layout = ImageLayout(tmp_path / "layout")
    blobs = {name: Descriptor("", Digest.of(name.encode()), len(name)) for name in ("shared", "lost")}
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": TYPE,
            "config": {"mediaType": "application/x", "digest": str(blobs["shared"].digest), "size": 6},
            "layers": [],
        }
    ).encode()
    document = Descriptor(TYPE, Digest.of(manifest), len(manifest))
    with layout.batch():
        with layout.begin() as use:
            for name, descriptor in blobs.items():
                with layout.new_blob(descriptor) as writer:
                    writer.write(name.encode())
            use.discard(descriptor.digest for descriptor in blobs.values())
        with layout.begin():
            with layout.new_blob(document) as writer:
                writer.write(manifest)
            layout.write_name(document, ImageName("1", None))
    assert Path(layout.blob_path(blobs["shared"].digest)).exists()
    assert not Path(layout.blob_path(blobs["lost"].digest)).exists()


def test_time_grows_with_the_number_of_names(tmp_path: Path) -> None:
    """10,000 names take at most some 1.3 times ten times as long as 1,000; here with room for a busy machine."""

    def seconds(count: int) -> float:
        layout = ImageLayout(tmp_path / str(count))
        began = time.process_time()
        with layout.batch(), layout.begin():
            for number in range(count):
                name = ImageName("1", f"registry.example/app{number}:1")
                layout.write_name(Descriptor(TYPE, Digest.of(str(number).encode()), 1), name)
                if number % 1000 == 999:
                    layout.commit_names()
        assert len(layout.read_images()) == count
        return time.process_time() - began

    seconds(100)
    assert seconds(8000) < 8 * 3 * max(seconds(1000), 0.05)


def test_a_blob_of_several_images_is_read_once(tmp_path: Path) -> None:
    """Hashing a base layer again for each of 10,000 images would take hours."""
    content, other = b"a" * 100_000, b"b" * 100_000
    layout, descriptor = ImageLayout(tmp_path / "layout"), Descriptor("", Digest.of(content), len(content))
    path = Path(layout.blob_path(descriptor.digest))
    with layout.batch(), layout.begin():
        with layout.new_blob(descriptor) as writer:
            writer.write(content)
        assert layout.has_blob(descriptor)
        path.write_bytes(other)
        os.utime(path, ns=(0, 0))
        assert not layout.has_blob(descriptor)
        path.write_bytes(content)
        assert bytes_read_by(lambda: layout.has_blob(descriptor)) >= len(content)
        assert bytes_read_by(lambda: layout.has_blob(descriptor)) < 10_000
    assert bytes_read_by(lambda: layout.has_blob(descriptor)) >= len(content)
