"""verify(deep=True): layers inflated, their diff_ids proven, applied in memory; all findings at once."""

from __future__ import annotations

import tarfile
from collections import Counter

import pytest

from ociexport import verify
from ociexport.layers.limits import Limits
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.damaged_layout import DamagedLayout, deep
from tests.support.image_builder import (
    ARM64,
    BuiltImage,
    Json,
    build_artifact,
    build_attestation,
    build_image,
    build_index,
)
from tests.support.memory_source import Member, directory, hard_link, member, symlink, tar_of

BASE = [directory("d"), member("d/a", b"x"), member("b")]
IMAGE = build_image([BASE, [member("d/.wh.a"), hard_link("c", "b")]])


def layer_of(image: BuiltImage, number: int) -> str:
    return f"layer {number} of {len(image.layers)} ({image.layers[number - 1].digest})"


# What is right.


@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
@pytest.mark.parametrize("media_types", ["oci", "docker"])
def test_layers_of_all_kinds_are_proven(compression: str, media_types: str) -> None:
    image = build_image([BASE, [hard_link("c", "b")]], compression=compression, media_types=media_types)  # type: ignore[arg-type]
    found = verify(image.source(), deep=True)
    assert (found.findings, found.layers) == ((), 2)
    assert found.tar_bytes == sum(len(tar_of(layer)) for layer in (BASE, [hard_link("c", "b")]))


def test_layer_is_read_once_whatever_it_stands_on() -> None:
    """To inflate and hash it wants no order; what it does is kept for the other images."""
    shared = [symlink("s", "d"), hard_link("e", "b")]
    one = build_image([BASE, shared, [member("x")]])
    other = build_image([[member("b"), directory("d")], shared, shared], platform=ARM64)
    source = build_index([one, other, build_image([BASE, [member("y")]])]).source()
    found = verify(source, deep=True)
    assert (found.findings, found.layers) == ((), 5)
    opened = Counter(source.opened)
    assert {opened[layer.digest] for layer in (*one.layers, *other.layers)} == {1}


def test_images_that_part_do_not_see_each_others_files() -> None:
    layers: list[list[Member]] = [[member("one")], [member("two")], [member("three")]]
    right = [build_image([BASE, layer, [hard_link("link", "b")]]) for layer in layers]
    wrong = build_image([BASE, layers[0], [hard_link("link", "two")]])
    found = verify(build_index([right[0], wrong, *right[1:]]).source(), deep=True)
    assert [finding.message for finding in found.findings] == ["hard link: expected a file at 'two', got none"]


def test_directories_that_images_share_are_not_changed_by_one_of_them() -> None:
    removed = [member("d/.wh.a"), member("d/new")]
    kept = [hard_link("d/link", "d/a")]
    for order in ([removed, kept], [kept, removed]):
        index = build_index([build_image([BASE, layer]) for layer in order])
        assert verify(index.source(), deep=True).findings == ()


def test_without_deep_no_layer_is_looked_into() -> None:
    found = verify(build_image([[member("../x")]]).source())
    assert (found.findings, found.layers) == ((), None)


# What is wrong.


def test_diff_id_of_another_tar_is_told_at_each_layer() -> None:
    """config.md, "rootfs": the blob is what its digest says, and the tar in it is another."""
    wrong = Digest.of(b"")

    def edit(config: Json) -> None:
        config["rootfs"]["diff_ids"] = [str(wrong)] * 2

    image = build_image([BASE, [member("x")]], edit_config=edit)
    assert deep(image) == [
        f"wrong: {layer_of(image, number + 1)}: diff_id mismatch: expected {wrong}, got {diff_id}"
        for number, diff_id in enumerate(image.diff_ids)
    ]


def test_diff_id_may_be_a_sha512() -> None:
    tar = tar_of(BASE)
    diff_ids = [str(Digest.of(tar, "sha512"))]
    right = build_image([tar], edit_config=lambda config: config["rootfs"].update(diff_ids=diff_ids))
    assert deep(right) == []
    other = build_image([tar])
    found = verify(build_index([right, other]).source(), deep=True)
    assert found.findings == ()


def test_every_entry_that_can_not_be_applied_is_told() -> None:
    image = build_image(
        [
            [
                member("../outside"),
                member("a"),
                member(".wh."),
                symlink("s", ""),
                hard_link("h", "nowhere"),
                member("a/below"),
                hard_link("g", "/../../etc/passwd"),
                member("n" * 256),
            ],
            [hard_link("c", "h"), directory("d"), hard_link("e", "d"), symlink("l", "l"), member("l/x")],
        ]
    )
    first, second = layer_of(image, 1), layer_of(image, 2)
    assert deep(image) == [
        f"wrong: {first}: entry '../outside': path '../outside': leads out of the root filesystem",
        f"wrong: {first}: entry '.wh.': whiteout: expected a name after '.wh.', got none",
        f"wrong: {first}: entry 's': symlink: expected a target, got ''",
        f"wrong: {first}: entry 'g': path '/../../etc/passwd': leads out of the root filesystem",
        f"wrong: {first}: entry '{'n' * 200}…': path '{'n' * 200}…': expected names of at most 255 bytes",
        f"wrong: {first}: entry 'h': hard link: expected a file at 'nowhere', got none",
        f"wrong: {first}: entry 'a/below': parent 'a': expected a directory",
        f"wrong: {second}: entry 'c': hard link: expected a file at 'h', got none",
        f"wrong: {second}: entry 'e': hard link: expected a file at 'd', got a directory",
        f"wrong: {second}: entry 'l/x': 'l': expected at most 40 links",
    ]


def test_what_linux_has_not_is_told() -> None:
    """Names alone do not show it, and `unpack` would fail."""
    bad = [member("dev", type=tarfile.CHRTYPE, devmajor=5000, devminor=3), symlink("s", "t" * 4096)]
    layer = [*bad, member("pipe", type=tarfile.FIFOTYPE), symlink("r", "t" * 4095)]
    image = build_image([layer])
    assert deep(image) == [
        f"wrong: {layer_of(image, 1)}: entry 'dev': device: expected numbers that Linux supports, got 5000:3",
        f"wrong: {layer_of(image, 1)}: entry 's': symlink: expected a target of at most 4095 bytes, got 4096",
    ]


def test_depth_is_what_was_asked_for() -> None:
    image = build_image([[member("1/2/3/4")]])
    assert deep(image, limits=Limits(max_depth=3)) == []
    assert deep(image, limits=Limits(max_depth=2))[0] == (
        f"wrong: {layer_of(image, 1)}: path: expected at most 2 directories, got 3"
    )


def test_millions_of_bad_entries_are_counted() -> None:
    image = build_image([[member(f"../{number}") for number in range(50)]])
    lines = deep(image)
    assert len(lines) == 21
    assert lines[-1] == f"wrong: {layer_of(image, 1)}: 30 more entries that can't be applied"


def test_whiteout_takes_the_target_of_a_link_away() -> None:
    image = build_image([BASE, [member(".wh.b")], [hard_link("c", "b")]])
    assert deep(image) == [f"wrong: {layer_of(image, 3)}: entry 'c': hard link: expected a file at 'b', got none"]


def test_damaged_compression_is_told_and_the_layers_above_are_looked_into() -> None:
    gzip = build_image([BASE]).blobs[build_image([BASE]).layers[0].digest]
    image = build_image([gzip[:-20], [hard_link("c", "b"), member(".wh.")]], compression=["plain", "gzip"])
    assert deep(image) == [
        f"wrong: {layer_of(image, 1)}: gzip data: expected a complete stream, got one that ends too soon",
        f"wrong: {layer_of(image, 2)}: entry '.wh.': whiteout: expected a name after '.wh.', got none",
        f"note: {layer_of(image, 1)}: not applied, nor the layers above it (1 more)",
    ]


def test_damaged_tar_still_has_a_diff_id() -> None:
    tar = bytearray(tar_of([member("a"), member("b", b"x")]))
    tar[600] ^= 1
    right = build_image([bytes(tar)])
    lines = deep(right)
    assert len(lines) == 1
    assert lines[0].startswith(f"wrong: {layer_of(right, 1)}: tar: header checksum: expected ")
    wrong = Digest.of(b"")
    image = build_image([bytes(tar)], edit_config=lambda config: config["rootfs"].update(diff_ids=[str(wrong)]))
    assert deep(image)[0] == (
        f"wrong: {layer_of(image, 1)}: diff_id mismatch: expected {wrong}, got {Digest.of(bytes(tar))}"
    )


def test_blob_that_is_not_what_its_digest_says_is_told_for_that_alone(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, other=build_image([BASE, [member("x")]]))
    layout.blob(IMAGE.layers[0].digest).write_bytes(bytes(IMAGE.layers[0].size))
    assert layout.findings(deep=True) == [
        f"wrong: one: manifest <one>: layer 1 of 2 (<one layer 1>): digest mismatch: expected <one layer 1>, "
        f"got {Digest.of(bytes(IMAGE.layers[0].size))}",
        *(
            f"note: {name}: manifest <{name}>: layer 1 of 2 (<one layer 1>): not applied, "
            "nor the layers above it (1 more)"
            for name in ("one", "other")
        ),
    ]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(max_entries=4), "expected at most 4 entries"),
        (Limits(max_bytes=15_000), "expected at most 15000 uncompressed bytes"),
        (Limits(max_metadata_bytes=1_500), "expected at most 1500 bytes of attributes and long names in all layers"),
        (Limits(max_name_bytes=1_000), "expected at most 1000 bytes of memory for names"),
    ],
)
def test_limits_are_of_all_layers_together(limits: Limits, message: str) -> None:
    long = {"user.x": b"x" * 1_000}
    layers = [
        [directory("d"), member("d/a"), member("b", xattrs=long)],
        [member("c"), member("e", xattrs=long)],
        [member("f")],
    ]
    image = build_image(layers)
    one = build_image(layers[:1], platform=ARM64)
    assert [line.removeprefix("wrong: ") for line in deep(image, limits=limits) if line.startswith("wrong")] == [
        f"{layer_of(image, 1 if limits.max_name_bytes == 1_000 else 2)}: {message}"
    ]
    if limits.max_name_bytes > 1_000:
        found = verify(build_index([image, one]).source(), deep=True, limits=limits)
        assert sum(finding.is_wrong for finding in found.findings) == 1


def test_bomb_is_told_without_being_inflated() -> None:
    image = build_image([[member("a", bytes(8_000_000))], [member("b")]], compression="zstd")
    limits = Limits(max_ratio=50, ratio_from_bytes=1_000_000)
    found = verify(image.source(), deep=True, limits=limits)
    assert [(finding.kind.value, finding.is_wrong) for finding in found.findings] == [
        ("limit", True),
        ("layers", False),
    ]
    assert found.tar_bytes < 4_000_000


def test_layers_that_are_no_tar_are_wrong_whatever_their_types() -> None:
    """ocicrypt's types, and Nydus's; image-spec considerations.md: an unknown type is no error. The content decides."""
    nydus = "application/vnd.oci.image.layer.nydus.blob.v1"
    encrypted = f"{mediatypes.OCI_LAYER_GZIP}+encrypted"
    image = build_image(
        [BASE, [hard_link("c", "nowhere")], b"\xffsecret" * 100, bytes(range(255, -1, -1)) * 4, [member("x")]],
        compression="plain",
        edit_manifest=lambda manifest: (
            manifest["layers"][1].update(mediaType=encrypted),
            manifest["layers"][2].update(mediaType=nydus),
            manifest["layers"][3].update(mediaType=encrypted),
            manifest["layers"][4].update(mediaType=nydus),
        ),
    )
    assert deep(image) == [
        f"wrong: {layer_of(image, 2)}: entry 'c': hard link: expected a file at 'nowhere', got none",
        f"wrong: {layer_of(image, 3)}: expected a tar, got bytes of no known format, as an encrypted layer has; "
        f"its media type is '{nydus}'",
        f"wrong: {layer_of(image, 4)}: expected a tar, got an encrypted layer, of media type '{encrypted}'",
        f"note: {layer_of(image, 3)}: not applied, nor the layers above it (2 more)",
    ]


# What is only worth telling.


def test_other_compressions_are_looked_into() -> None:
    image = build_image(
        [[hard_link("c", "nowhere")]],
        edit_manifest=lambda manifest: manifest["layers"][0].update(mediaType=f"{mediatypes.OCI_LAYER}+xz"),
    )
    assert deep(image) == [f"wrong: {layer_of(image, 1)}: entry 'c': hard link: expected a file at 'nowhere', got none"]


def test_artifacts_and_attestations_are_notes() -> None:
    chart = build_artifact(b"chart")
    found = verify(build_index([IMAGE, build_attestation(IMAGE), chart]).source(), deep=True)
    assert [(finding.message, finding.is_wrong) for finding in found.findings] == [
        ("an artifact of type 'application/vnd.in-toto+json', which has no layers to apply", False),
        ("an artifact of type 'application/vnd.example.chart', which has no layers to apply", False),
    ]


def test_absent_foreign_layer_is_a_note(layout: DamagedLayout) -> None:
    foreign = build_image(
        [BASE, [member("x")]],
        edit_manifest=lambda manifest: manifest["layers"][0].update(
            mediaType=mediatypes.DOCKER_FOREIGN_LAYER_GZIP, urls=["https://example.com/layer"]
        ),
    )
    layout.write(one=foreign)
    layout.blob(foreign.layers[0].digest).unlink()
    assert layout.findings(deep=True) == [
        "note: one: manifest <one>: layer 1 of 2 (<one layer 1>): absent, which is allowed here",
        "note: one: manifest <one>: layer 1 of 2 (<one layer 1>): not applied, nor the layers above it (1 more)",
    ]
