"""`pull --since`: thin layouts and archives, their ``bundle.json``, and what they leave out."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ociexport.spec.digest import Digest
from ociexport.storage.bundle import parse_bundle
from ociexport.storage.layout.layout import ImageLayout
from tests.support import converted_image
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import ARM64, build_artifact, build_image, build_index, write_layout
from tests.support.updates import (
    BASE,
    NAME,
    RUNTIME,
    V1,
    V2,
    V3,
    blobs_in,
    bundle_in,
    digests,
    layer,
    names_in,
    write_update,
    write_whole,
)

SHARED = [descriptor.digest for descriptor in V1.layers[:2]]
DOCUMENTS = {V2.digest, V2.config.digest}
AT = {"SOURCE_DATE_EPOCH": "1700000000"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_whole(tmp_path / "v1", V1, "1")
    write_whole(tmp_path / "v2", V2, "2")
    return tmp_path


def pulled(
    place: Path, *words: str | Path, code: int = 0, variables: Mapping[str, str] | None = None
) -> tuple[str, list[str]]:
    """Run the command in ``place``; return what it printed on both streams."""
    variables = {"DOCKER_DEFAULT_PLATFORM": "linux/amd64", **(variables or {})}
    words = tuple(str(place / word[2:]) if str(word).startswith("./") else word for word in map(str, words))
    ended = run_command("pull", *words, home=place, variables=variables)
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr.splitlines()


def members_of(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]


def digests_in(archive: Path) -> set[Digest]:
    prefix = "blobs/sha256/"
    return {Digest("sha256", name.removeprefix(prefix)) for name in members_of(archive) if name.startswith(prefix)}


@pytest.mark.parametrize("out", ["./out", "./out.tar"])
def test_manifest_config_and_what_is_new_travel(place: Path, out: str) -> None:
    printed, said = pulled(place, "./v2", "--since", "./v1", "--out", out)
    assert printed == f"{NAME}:2@{V2.digest}\n"
    there = digests_in(place / "out.tar") if out.endswith(".tar") else blobs_in(place / "out")
    assert there == DOCUMENTS | {V2.layers[2].digest}
    assert said[-1].endswith(": 1 new blob (20.3 kB); expects 2 blobs (100.6 kB) on the far side")


@pytest.mark.parametrize("out", ["./out", "./out.tar"])
def test_nothing_new_is_documents_only_and_says_so(place: Path, out: str) -> None:
    _, said = pulled(place, "./v2", "--since", "./v2", "--out", out)
    there = digests_in(place / "out.tar") if out.endswith(".tar") else blobs_in(place / "out")
    assert there == DOCUMENTS
    assert said[-1].endswith(": nothing new, documents only; expects 3 blobs (120.8 kB) on the far side")


def test_several_haves_count_together(place: Path) -> None:
    first = write_whole(place / "first", build_image([BASE]))
    second = write_whole(place / "second", build_image([BASE, RUNTIME]))
    pulled(place, "./v2", "--since", first, "--since", second, "--out", "./out")
    expected = bundle_in(place / "out")["expected"]
    assert [(item["digest"], item["since"]) for item in expected] == [
        (str(SHARED[0]), ["first", "second"]),
        (str(SHARED[1]), ["second"]),
    ]


def test_a_layer_above_a_new_one_stays_for_docker_alone(place: Path) -> None:
    """docker finds a layer by its chain, all others by its digest."""
    write_whole(place / "patched", build_image([layer("other"), RUNTIME, layer("app-1")]))
    for rule, left_out in (
        ("docker", set()),
        ("registry", {*digests(V1.layers[1:])}),
        ("layout", {*digests(V1.layers[1:])}),
    ):
        out = place / rule
        pulled(place, "./patched", "--since", "./v1", "--for", rule, "--out", out)
        assert {item["digest"] for item in bundle_in(out)["expected"]} == left_out
        assert bundle_in(out)["for"] == rule


@pytest.mark.parametrize(("out", "rule"), [("./out", "layout"), ("./out.tar", "docker")])
def test_an_archive_is_for_docker_by_default_and_a_layout_for_a_layout(place: Path, out: str, rule: str) -> None:
    pulled(place, "./v2", "--since", "./v1", "--out", out)
    bundle = bundle_in(place / "out") if rule == "layout" else json.loads(members_of(place / "out.tar")["bundle.json"])
    assert bundle["for"] == rule


def test_every_platform_of_an_index_is_thin(place: Path) -> None:
    arm, arm_base = build_image([BASE, layer("arm")], platform=ARM64), build_image([BASE], platform=ARM64)
    write_layout(place / "all", {f"{NAME}:2": build_index([arm, V2])})
    write_layout(place / "had", {f"{NAME}:1": build_index([arm_base, V1])})
    pulled(place, "./all", "--all", "--since", "./had", "--out", "./out.tar")
    there = digests_in(place / "out.tar")
    assert there.isdisjoint(SHARED)
    assert {arm.digest, V2.digest, arm.config.digest, V2.config.digest, arm.layers[1].digest} < there


def test_bundle_json_says_what_is_in_and_what_is_expected(place: Path) -> None:
    pulled(place, "./v2", "--since", "./v1", "--out", "./out", variables=AT)
    bundle = bundle_in(place / "out")
    layers = {
        descriptor.digest: {
            "digest": str(descriptor.digest),
            "mediaType": descriptor.media_type,
            "size": descriptor.size,
            "diffId": str(diff_id),
        }
        for descriptor, diff_id in zip(V2.layers, V2.diff_ids, strict=True)
    }
    assert bundle["created"] == "2023-11-14T22:13:20Z"
    assert bundle["since"] == ["v1"]
    (image,) = bundle["images"]
    assert image["name"] == f"{NAME}:2"
    assert image["source"] == f"{place}/v2:{NAME}:2"
    assert image["digest"] == str(V2.digest)
    assert image["manifests"] == [
        {
            "digest": str(V2.digest),
            "config": str(V2.config.digest),
            "platform": "linux/amd64",
            "layers": digests(V2.layers),
        }
    ]
    assert [item["digest"] for item in bundle["documents"]] == [str(V2.digest)]
    assert bundle["blobs"] == [
        {"digest": str(V2.config.digest), "mediaType": V2.config.media_type, "size": V2.config.size},
        layers[V2.layers[2].digest],
    ]
    assert bundle["expected"] == [layers[digest] | {"since": ["v1"]} for digest in SHARED]


def test_bundle_json_round_trips(place: Path) -> None:
    pulled(place, "./v2", "--since", "./v1", "--out", "./out", variables=AT)
    raw = (place / "out" / "bundle.json").read_bytes()
    assert parse_bundle(raw, where="").to_json() == raw


@pytest.mark.parametrize("variables", [{}, AT])
def test_the_same_update_has_the_same_bytes(place: Path, variables: dict[str, str]) -> None:
    for out in ("a.tar", "b.tar"):
        pulled(place, "./v2", "--since", "./v1", "--out", f"./{out}", variables=variables)
    for out in ("a", "b"):
        pulled(place, "./v2", "--since", "./v1", "--out", f"./{out}", variables=variables)
    assert (place / "a.tar").read_bytes() == (place / "b.tar").read_bytes()
    assert (place / "a" / "bundle.json").read_bytes() == (place / "b" / "bundle.json").read_bytes()


def test_it_is_no_larger_than_what_is_new(place: Path) -> None:
    """At most 1.001 times the new compressed bytes, beside documents."""
    new = build_image([BASE, RUNTIME, layer("big", 4_000_000)])
    write_whole(place / "new", new)
    pulled(place, "./new", "--since", "./v1", "--out", "./out.tar")
    files = members_of(place / "out.tar")
    documents = [name for name in files if new.layers[2].digest.encoded not in name]
    allowed = 1.001 * new.layers[2].size + sum(512 + len(files[name]) + 512 for name in documents)
    assert (place / "out.tar").stat().st_size <= allowed + 10240


def test_several_images_share_one_bundle(place: Path) -> None:
    write_whole(place / "v3", V3, "3")
    pulled(place, "./v2", "./v3", "--since", "./v1", "--out", "./out")
    bundle = bundle_in(place / "out")
    assert [image["name"] for image in bundle["images"]] == [f"{NAME}:2", f"{NAME}:3"]
    assert {item["digest"] for item in bundle["expected"]} == {*map(str, SHARED)}
    assert {item["digest"] for item in bundle["blobs"]} == {
        *map(str, (V2.config.digest, V3.config.digest, V3.layers[2].digest, V3.layers[3].digest))
    }
    assert names_in(place / "out") == {f"{NAME}:2": str(V2.digest), f"{NAME}:3": str(V3.digest)}


def test_a_second_pull_into_a_thin_layout_keeps_what_the_first_said(place: Path) -> None:
    write_whole(place / "v3", V3, "3")
    for source in ("./v2", "./v3", "./v2"):
        pulled(place, source, "--since", "./v1", "--out", "./out")
    bundle = bundle_in(place / "out")
    assert {image["name"] for image in bundle["images"]} == {f"{NAME}:2", f"{NAME}:3"}
    assert {item["digest"] for item in bundle["expected"]} == {*map(str, SHARED)}


def test_a_blob_that_a_later_image_brings_is_no_longer_expected(place: Path) -> None:
    write_whole(place / "other", build_image([layer("first"), RUNTIME]), "9")
    write_update(place / "out", V2, "2", place / "v1", rule="docker")
    write_update(place / "out", build_image([layer("first"), RUNTIME]), "9", place / "v1", rule="docker")
    bundle = bundle_in(place / "out")
    assert [item["digest"] for item in bundle["expected"]] == [str(SHARED[0])]


def test_a_layout_of_whole_images_does_not_become_thin(place: Path) -> None:
    _, said = pulled(place, "./v2", "--since", "./v1", "--out", "./v1", code=2)
    assert said[-2:] == [
        f"ociexport: error: '{place}/v1': expected a new directory or an earlier update, got a layout of whole images",
        "hint: without --since, pull adds to it only what it lacks",
    ]
    assert not (place / "v1" / "bundle.json").exists()


@pytest.mark.parametrize("option", ["--decompress", "--legacy"])
def test_options_that_change_digests_are_refused(place: Path, option: str) -> None:
    _, said = pulled(place, "./v2", "--since", "./v1", option, "--out", "./out.tar", code=2)
    assert "ociexport: error: since: expected neither decompressed layers nor a legacy archive" in said
    assert not (place / "out.tar").exists()


def test_for_alone_is_refused(place: Path) -> None:
    _, said = pulled(place, "./v2", "--for", "docker", "--out", "./out.tar", code=2)
    assert "ociexport: error: --for: expected --since with it" in said


def json_of(place: Path, *words: str | Path) -> Any:
    return json.loads(pulled(place, *words, "--json")[0])


def test_json_has_the_numbers(place: Path) -> None:
    (image,) = json_of(place, "./v2", "--since", "./v1", "--out", "./out.tar")["images"]
    assert {name: image[name] for name in ("newBlobs", "newBytes", "expectedBlobs", "expectedBytes")} == {
        "newBlobs": 1,
        "newBytes": V2.layers[2].size,
        "expectedBlobs": 2,
        "expectedBytes": sum(descriptor.size for descriptor in V2.layers[:2]),
    }


@pytest.mark.parametrize("out", ["./out", "./out.tar"])
def test_a_dry_run_tells_the_same_and_writes_nothing(place: Path, out: str) -> None:
    plan = json_of(place, "./v2", "--since", "./v1", "--out", out, "--dry-run")
    assert [item["digest"] for item in plan["expected"]] == [*map(str, SHARED)]
    assert plan["fetchBytes"] == V2.config.size + V2.layers[2].size
    assert not (place / out[2:]).exists()
    pulled(place, "./v2", "--since", "./v1", "--out", out)
    if out.endswith(".tar"):
        assert (place / "out.tar").stat().st_size == plan["writeBytes"]


def test_a_dry_run_tells_people(place: Path) -> None:
    printed, _ = pulled(place, "./v2", "--since", "./v1", "--out", "./out.tar", "--dry-run")
    assert "to leave out: 2 blobs (100.6 kB), expected on the far side\n" in printed


def test_a_converted_image_is_thin(place: Path) -> None:
    """Its layers are fetched to make the new config, and then left out like others."""
    (place / "have").write_text("".join(f"{digest}\n" for digest in converted_image.LAYERS))
    with FakeRegistry() as registry:
        reference = converted_image.IMAGE.serve(registry, "library/old")
        _, said = pulled(place, reference, "--since", "./have", "--out", "./out")
    assert blobs_in(place / "out").isdisjoint(converted_image.LAYERS)
    assert "nothing new, documents only; expects 2 blobs" in said[-1]


def test_an_sbom_travels_and_what_it_refers_to_may_be_had(place: Path) -> None:
    """Referrers of a thin image are in the bundle whole, since docker does not have them."""
    signature = build_artifact(b"signature")
    write_layout(place / "signed", {f"{NAME}:2": V2, f"sha256-{V2.digest.encoded}.sig": signature})
    pulled(place, "./signed:2", "--referrers", "--since", "./v1", "--out", "./out.tar")
    assert digests_in(place / "out.tar") == DOCUMENTS | {V2.layers[2].digest} | signature.all_digests


@pytest.mark.parametrize("name", ["update", "update.tar"])
def test_unpacking_an_update_says_how_to_complete_it(place: Path, name: str) -> None:
    write_update(place / name, V2, "2", place / "v1")
    for command, *words in (("unpack", place / "rootfs"), ("pull", "--out", place / "far"), ("ls",)):
        ended = run_command(command, place / name, *words, home=place)
        assert ended.returncode == 3
        assert ended.stderr.splitlines()[-1] == (
            "hint: an update lacks what the far side has: ociexport merge FAR BUNDLE puts both together"
        )


def test_today_s_pull_merges_it(place: Path) -> None:
    write_update(place / "update.tar", V2, "2", place / "v1")
    write_whole(place / "far", V1, "1")
    pulled(place, "./update.tar", "--out", "./far")
    assert names_in(place / "far") == {f"{NAME}:1": str(V1.digest), f"{NAME}:2": str(V2.digest)}
    assert all(ImageLayout(place / "far").has_blob(descriptor) for descriptor in V2.layers)
