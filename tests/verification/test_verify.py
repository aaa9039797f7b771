"""verify(): all that is wrong with a layout, and what is only worth telling."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ociexport import verify
from ociexport.errors import NoMatchingPlatformError
from ociexport.images.choose import PlatformChoice
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.damaged_layout import DamagedLayout
from tests.support.image_builder import (
    AMD64,
    ARM64,
    build_artifact,
    build_attestation,
    build_image,
    build_index,
)
from tests.support.memory_source import member
from tests.support.system_parts import require, run

IMAGE = build_image([[member("a", b"x")], [member("b")]])
OTHER = build_image([[member("c")]], platform=ARM64)
INDEX = build_index([OTHER, IMAGE])
FIRST, SECOND = IMAGE.layers


# What is right.


def test_layout_of_several_images_is_right(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, all=INDEX, chart=build_artifact(b"chart"))
    found = verify(layout.path)
    assert (found.findings, found.is_right) == ((), True)
    # The manifest of the first is one of the index too, and so are its config and layers.
    assert (found.images, found.documents, found.blobs) == (3, 6, 5)
    size = sum(path.stat().st_size for path in (layout.path / "blobs" / "sha256").iterdir())
    assert found.read_bytes == size


def test_docker_and_oci_media_types_may_be_mixed(layout: DamagedLayout) -> None:
    """PAINS 24: every mixture is accepted."""
    docker = build_image([[member("a")]], media_types="docker")
    legacy = build_image([[member("b")]], media_types="legacy")
    layout.write(a=build_index([docker, IMAGE]), b=build_index([OTHER, docker], media_types="docker"), c=legacy)
    assert layout.findings() == []


def test_attestations_are_right(layout: DamagedLayout) -> None:
    """BuildKit's attestation-storage.md: a config of an image, and layers that are none."""
    layout.write(all=build_index([IMAGE, build_attestation(IMAGE)]))
    assert layout.findings() == []


def test_nested_indexes_are_followed(layout: DamagedLayout) -> None:
    layout.write(all=build_index([build_index([OTHER]), IMAGE]))
    assert layout.findings() == []
    layout.blob(OTHER.layers[0].digest).unlink()
    layout.names[str(OTHER.digest)] = "<other>"
    layout.names[str(OTHER.layers[0].digest)] = "<layer>"
    assert layout.findings() == ["wrong: all (linux/arm64): manifest <other>: layer 1 of 1 (<layer>): not there"]


def test_blobs_may_have_sha512_digests(layout: DamagedLayout) -> None:
    """image-spec descriptor.md, "SHA-512"."""
    layer = IMAGE.blobs[FIRST.digest]
    digest = Digest.of(layer, "sha512")
    image = build_image(
        [[member("a", b"x")], [member("b")]],
        edit_manifest=lambda manifest: manifest["layers"][0].update(digest=str(digest)),
    )
    (layout.path / "blobs" / "sha512").mkdir(parents=True)
    layout.write(one=image)
    layout.blob(FIRST.digest).unlink()
    assert layout.findings() == []
    layout.blob(digest).write_bytes(layer[::-1])
    wrong = Digest.of(layer[::-1], "sha512")
    assert layout.findings() == [
        f"wrong: one: manifest <one>: layer 1 of 2 ({digest}): digest mismatch: expected {digest}, got {wrong}"
    ]


def test_verification_writes_nothing(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    before = sorted(layout.path.rglob("*"))
    verify(layout.path)
    assert sorted(layout.path.rglob("*")) == before


def test_one_image_of_a_layout_is_looked_at_alone(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, other=OTHER)
    layout.blob(OTHER.config.digest).unlink()
    assert verify(f"{layout.path}:one").findings == ()
    assert [finding.kind.value for finding in verify(f"{layout.path}:other").findings] == ["missing"]


# Blobs.


def test_truncated_blob_is_told(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    os.truncate(layout.blob(SECOND.digest), 10)
    assert layout.findings() == [
        f"wrong: one: manifest <one>: layer 2 of 2 (<one layer 2>): size mismatch: expected {SECOND.size} bytes, got 10"
    ]


def test_other_bytes_of_the_same_length_are_told(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    layout.blob(FIRST.digest).write_bytes(bytes(FIRST.size))
    assert layout.findings() == [
        "wrong: one: manifest <one>: layer 1 of 2 (<one layer 1>): "
        f"digest mismatch: expected <one layer 1>, got {Digest.of(bytes(FIRST.size))}"
    ]


def test_longer_blob_is_told_without_reading_it_to_its_end(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    os.truncate(layout.blob(FIRST.digest), 1 << 40)
    assert layout.findings() == [
        "wrong: one: manifest <one>: layer 1 of 2 (<one layer 1>): "
        f"size mismatch: expected {FIRST.size} bytes, got more"
    ]


def test_everything_is_told_at_once(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, other=OTHER)
    layout.blob(IMAGE.config.digest).unlink()
    layout.blob(FIRST.digest).unlink()
    layout.blob(SECOND.digest).write_bytes(b"")
    layout.blob(OTHER.digest).write_bytes(b"x" * OTHER.descriptor.size)
    assert layout.findings() == [
        "wrong: one: manifest <one>: config <one config>: not there",
        "wrong: other: manifest <other>: digest mismatch: expected <other>, "
        f"got {Digest.of(b'x' * OTHER.descriptor.size)}",
        "wrong: one: manifest <one>: layer 1 of 2 (<one layer 1>): not there",
        f"wrong: one: manifest <one>: layer 2 of 2 (<one layer 2>): size mismatch: expected {SECOND.size} bytes, got 0",
        # Nobody knows that the damaged manifest named these.
        f"note: blob <other config>: unreferenced ({OTHER.config.size} bytes)",
        f"note: blob <other layer 1>: unreferenced ({OTHER.layers[0].size} bytes)",
    ]


def test_shared_blob_is_told_once(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, same=build_image([[member("a", b"x")]]))
    layout.blob(FIRST.digest).unlink()
    assert layout.findings() == ["wrong: one: manifest <one>: layer 1 of 2 (<one layer 1>): not there"]


def test_descriptor_that_lies_about_a_size_is_told(layout: DamagedLayout) -> None:
    """The blob is what its digest says; what names it is wrong."""
    lying = build_image([[member("b")]], edit_manifest=lambda manifest: manifest["layers"][0].update(size=9999))
    honest = build_image([[member("b")]])
    layout.write(lying=lying, honest=honest)
    size = lying.layers[0].size
    assert layout.findings() == [
        "wrong: lying: manifest <lying>: layer 1 of 1 (<lying layer 1>): "
        f"size mismatch: expected 9999 bytes, got {size}"
    ]


def test_entry_that_lies_about_a_size_is_told(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    layout.edit_index(lambda index: index["manifests"][0].update(size=5))
    assert layout.findings()[0] == ("wrong: one: manifest <one>: size mismatch: expected 5 bytes, got more (6 so far)")


def test_foreign_layer_may_be_absent(layout: DamagedLayout) -> None:
    """image-spec layer.md, "Non-Distributable Layers"."""
    foreign = build_image(
        [[member("a")], [member("b")]],
        edit_manifest=lambda manifest: manifest["layers"][0].update(
            mediaType=mediatypes.DOCKER_FOREIGN_LAYER_GZIP, urls=["https://example.com/layer"]
        ),
    )
    layout.write(one=foreign)
    layout.blob(foreign.layers[0].digest).unlink()
    assert layout.findings() == [
        "note: one: manifest <one>: layer 1 of 2 (<one layer 1>): absent, which is allowed here"
    ]
    assert verify(layout.path).is_right


def test_blob_that_is_no_file_is_told(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    for digest in (FIRST.digest, SECOND.digest):
        layout.blob(digest).unlink()
    os.mkfifo(layout.blob(FIRST.digest))
    layout.blob(SECOND.digest).mkdir()
    assert sorted(layout.findings()) == sorted(
        [
            f"wrong: blobs/sha256/{FIRST.digest.encoded}: expected a file named by a digest",
            f"wrong: blobs/sha256/{SECOND.digest.encoded}: expected a file named by a digest",
            "wrong: one: manifest <one>: layer 1 of 2 (<one layer 1>): expected a file, got a fifo",
            "wrong: one: manifest <one>: layer 2 of 2 (<one layer 2>): expected a file, got a directory",
        ]
    )


def test_link_in_the_place_of_a_blob_is_wrong_and_not_followed(layout: DamagedLayout, tmp_path: Path) -> None:
    layout.write(one=IMAGE)
    layout.blob(FIRST.digest).rename(tmp_path / "elsewhere")
    layout.blob(FIRST.digest).symlink_to(tmp_path / "elsewhere")
    layout.blob(SECOND.digest).unlink()
    layout.blob(SECOND.digest).symlink_to(layout.blob(SECOND.digest).name)
    assert layout.findings() == [
        "wrong: one: manifest <one>: layer 1 of 2 (<one layer 1>): expected a file, got a link",
        "wrong: one: manifest <one>: layer 2 of 2 (<one layer 2>): expected a file, got a link",
    ]


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256"])
def test_link_in_the_place_of_a_directory_is_wrong_and_not_followed(
    layout: DamagedLayout, tmp_path: Path, name: str
) -> None:
    layout.write(one=IMAGE)
    (layout.path / name).rename(tmp_path / "elsewhere")
    (layout.path / name).symlink_to(tmp_path / "elsewhere")
    assert layout.findings() == [
        "wrong: one: manifest <one>: expected a directory, got a link",
        f"wrong: {name}: expected a directory, got a link",
    ]


@pytest.mark.system
def test_unreadable_blob_is_a_finding(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    require("mount", "umount", root=True)
    # A file of the kernel's that may be opened and can't be read.
    run("mount", "--bind", f"/proc/{os.getpid()}/mem", layout.blob(FIRST.digest))
    try:
        found = layout.findings()
    finally:
        run("umount", layout.blob(FIRST.digest))
    assert found == ["wrong: one: manifest <one>: layer 1 of 2 (<one layer 1>): can't be read: Input/output error"]


# What is left over.


def test_orphan_is_told_but_no_error(layout: DamagedLayout) -> None:
    """image-layout.md, "Content": there may be blobs that nothing refers to."""
    layout.write(one=IMAGE)
    digest = Digest.of(b"left")
    layout.blob(digest).write_bytes(b"left")
    found = verify(layout.path)
    assert [str(finding) for finding in found.findings] == [f"note: blob {digest}: unreferenced (4 bytes)"]
    assert found.is_right


def test_orphan_under_a_wrong_name_is_wrong(layout: DamagedLayout) -> None:
    """image-layout.md, "Content": the content of a blob matches the digest in its name."""
    layout.write(one=IMAGE)
    digest, true = Digest("sha256", "0" * 64), Digest.of(b"left")
    layout.blob(digest).write_bytes(b"left")
    assert layout.findings() == [f"wrong: blob {digest}: digest mismatch: expected {digest}, got {true}; unreferenced"]


def test_names_that_are_no_digests_are_wrong(layout: DamagedLayout) -> None:
    """image-layout.md, "Content": names match the grammar of digests."""
    layout.write(one=IMAGE)
    blobs = layout.path / "blobs"
    (blobs / "sha256" / "README").write_bytes(b"")
    (blobs / "sha256" / ("A" * 64)).write_bytes(b"")
    (blobs / "md5").mkdir()
    (blobs / "md5" / ("0" * 32)).write_bytes(b"")
    (blobs / "file").write_bytes(b"")
    assert layout.findings() == [
        "wrong: blobs/file: expected a file named by a digest",
        f"wrong: blobs/md5/{'0' * 32}: expected a file named by a digest",
        f"wrong: blobs/sha256/{'A' * 64}: expected a file named by a digest",
        "wrong: blobs/sha256/README: expected a file named by a digest",
    ]


def test_unfinished_blobs_are_told(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE)
    partial = layout.path / ".ociexport" / "partial"
    partial.mkdir(parents=True)
    (partial / f"sha256-{'0' * 64}").write_bytes(b"part")
    assert layout.findings() == [
        f"note: .ociexport/partial/sha256-{'0' * 64}: 4 bytes of a blob that an interrupted pull left"
    ]


# Indexes.


def test_sparse_index_is_told_but_right(layout: DamagedLayout) -> None:
    """image-layout.md: referenced blobs may be missing; ``pull --sparse`` keeps such an index."""
    layout.write(other=OTHER, all=INDEX)
    for digest in OTHER.all_digests:
        layout.blob(digest).unlink()
    layout.edit_index(lambda index: index["manifests"].pop(0))
    expected = "all (linux/arm64): index <all>: manifest <other>:"
    assert layout.findings() == [f"note: {expected} absent, as the specification allows"]
    assert layout.findings(strict=True) == [f"wrong: {expected} not there"]


def test_index_of_which_nothing_is_there_is_wrong(layout: DamagedLayout) -> None:
    layout.write(all=INDEX)
    for digest in IMAGE.all_digests | OTHER.all_digests:
        layout.blob(digest).unlink()
    assert [line for line in layout.findings() if line.startswith("wrong")] == [
        "wrong: all: index <all>: none of its 2 manifests is stored"
    ]


def test_listed_image_that_is_not_there_is_wrong(layout: DamagedLayout) -> None:
    """An entry of index.json is what the layout says it has."""
    layout.write(one=IMAGE)
    layout.blob(IMAGE.digest).unlink()
    assert layout.findings()[0] == "wrong: one: manifest <one>: not there"


def test_indexes_without_end_are_told(layout: DamagedLayout) -> None:
    image = IMAGE
    for _ in range(6):
        image = build_index([image])
    layout.write(deep=image)
    assert [line.partition(": index ")[2][73:] for line in layout.findings() if line.startswith("wrong")] == [
        "indexes within indexes: expected at most 5"
    ]


def test_platform_of_the_index_is_compared_with_the_configs(layout: DamagedLayout) -> None:
    image = build_image([[member("a")]])
    layout.write(one=build_index([replace(image, descriptor=replace(image.descriptor, platform=ARM64))]))
    layout.names[str(image.digest)] = "<image>"
    assert layout.findings() == [
        "note: one (linux/arm64): manifest <image>: listed for linux/arm64, but its config declares linux/amd64"
    ]


def test_platform_chooses_what_is_looked_at(layout: DamagedLayout) -> None:
    layout.write(all=INDEX)
    layout.blob(OTHER.config.digest).unlink()
    assert layout.findings(platform=AMD64) == []
    assert len(layout.findings(platform=ARM64)) == 1
    assert len(layout.findings(platform=PlatformChoice())) == 1
    with pytest.raises(NoMatchingPlatformError):
        verify(layout.path, platform=replace(AMD64, architecture="s390x"))
