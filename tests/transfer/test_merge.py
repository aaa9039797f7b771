"""`merge FAR BUNDLE…`: the union, in any order, atomic by image; what is missing is named with its bundle."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import UsageError
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.bundle.merge import MergeResult, merge
from ociexport.verification.garbage import collect_garbage
from ociexport.verification.verify import verify
from tests.support.command import command_environment, command_line, run_command
from tests.support.image_builder import ARM64, build_artifact, build_image, build_index, write_layout
from tests.support.saved_archives import IMAGE as SAVED
from tests.support.saved_archives import of_docker_1_10, write_tar
from tests.support.updates import (
    BASE,
    NAME,
    RUNTIME,
    V1,
    V2,
    V3,
    blobs_in,
    layer,
    names_in,
    write_bundles,
    write_update,
    write_whole,
)

ONE, TWO, THREE = f"{NAME}:1", f"{NAME}:2", f"{NAME}:3"


def merge_into(far: Path, *bundles: Path) -> MergeResult:
    return merge(far, map(str, bundles))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_bundles(tmp_path)


def state_of(far: Path) -> tuple[dict[str, str], set[Digest]]:
    return names_in(far), blobs_in(far)


ALL = {ONE: str(V1.digest), TWO: str(V2.digest), THREE: str(V3.digest)}
EVERYTHING = V1.all_digests | V2.all_digests | V3.all_digests


@pytest.mark.parametrize("order", list(itertools.permutations(["v1", "update2.tar", "update3"])))
def test_any_order_in_one_run_gives_the_same(place: Path, order: tuple[str, ...]) -> None:
    far = place / "far"
    result = merge_into(far, *(place / name for name in order))
    assert result.waiting == ()
    assert state_of(far) == (ALL, EVERYTHING)
    assert verify(far).is_right
    assert sorted(path.name for path in far.iterdir()) == ["blobs", "index.json", "oci-layout"]


@pytest.mark.parametrize("order", list(itertools.permutations(["v1", "update2.tar", "update3"])))
def test_any_order_in_several_runs_gives_the_same(place: Path, order: tuple[str, ...]) -> None:
    """What came too early is remembered, so that no bundle has to come again."""
    far = place / "far"
    for name in order:
        merge_into(far, place / name)
        assert verify(far).is_right
    assert state_of(far) == (ALL, EVERYTHING)
    assert sorted(path.name for path in far.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_twice_is_harmless(place: Path) -> None:
    far = place / "far"
    bundles = [place / name for name in ("v1", "update2.tar", "update3")]
    merge_into(far, *bundles)
    before = (far / "index.json").read_bytes()
    result = merge_into(far, *bundles, *bundles)
    assert (result.added_blobs, result.waiting) == (0, ())
    assert (far / "index.json").read_bytes() == before
    assert state_of(far) == (ALL, EVERYTHING)


def test_into_a_layout_that_has_other_images(place: Path) -> None:
    other = build_image([layer("other")])
    far = write_whole(place / "far", other, "other")
    merge_into(far, place / "v1", place / "update2.tar")
    assert names_in(far) == {f"{NAME}:other": str(other.digest), ONE: str(V1.digest), TWO: str(V2.digest)}


def command(place: Path, *words: str | Path, code: int = 0) -> tuple[str, list[str]]:
    ended = run_command("merge", *words, home=place, cwd=place)
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr.splitlines()


def test_the_command_prints_each_complete_image(place: Path) -> None:
    printed, said = command(place, "far", "update2.tar", "v1")
    assert printed == f"{TWO}@{V2.digest}\n{ONE}@{V1.digest}\n"
    assert said[-1] == "ociexport: far: 2 images complete; 6 blobs (142.5 kB) added, 0 there"


def test_what_is_missing_is_named_with_the_bundle_that_should_have_it(place: Path) -> None:
    printed, said = command(place, "far", "update2.tar", code=7)
    assert printed == ""
    assert [line for line in said if "error" in line] == [
        f"ociexport: error: update2.tar: {TWO}: layer {number} of 3 ({descriptor.digest}): not there; v1 should have it"
        for number, descriptor in enumerate(V2.layers[:2], start=1)
    ]
    assert said[-1].startswith("ociexport: far: 0 images complete, 1 waiting for 2 blobs; 2 blobs ")
    assert names_in(place / "far") == {}


def test_a_later_run_still_names_what_is_missing(place: Path) -> None:
    write_whole(place / "other", build_image([layer("other")]), "other")
    command(place, "far", "update2.tar", code=7)
    printed, said = command(place, "far", "other", code=7)
    assert printed.startswith(f"{NAME}:other@")
    assert len([line for line in said if line.startswith(f"ociexport: error: update2.tar: {TWO}: layer ")]) == 2


def test_what_is_complete_is_usable_at_once(place: Path) -> None:
    write_whole(place / "other", build_image([layer("other")]), "other")
    printed, _ = command(place, "far", "update2.tar", "other", code=7)
    assert printed.startswith(f"{NAME}:other@")
    assert list(names_in(place / "far")) == [f"{NAME}:other"]
    assert run_command("unpack", f"{place / 'far'}:{NAME}:other", place / "rootfs", home=place).returncode == 0


def test_json_names_it_too(place: Path) -> None:
    result = json.loads(command(place, "far", "update2.tar", "--json", code=7)[0])
    (image,) = result["images"]
    assert (image["name"], image["complete"], image["bundle"]) == (TWO, False, "update2.tar")
    assert [(one["digest"], one["bundles"]) for one in image["missing"]] == [
        (str(descriptor.digest), ["v1"]) for descriptor in V2.layers[:2]
    ]


# One name


def test_the_newest_of_one_name_wins_in_any_order(place: Path) -> None:
    """Updates of one tag: each knows which digests it replaces."""
    write_whole(place / "a", V1, "latest")
    write_update(place / "b", V2, "latest", place / "a")
    write_update(place / "c.tar", V3, "latest", place / "b")
    for number, order in enumerate(itertools.permutations("abc")):
        far = place / f"far{number}"
        merge_into(far, *(place / {"a": "a", "b": "b", "c": "c.tar"}[name] for name in order))
        assert names_in(far) == {f"{NAME}:latest": str(V3.digest)}, order


def test_an_older_update_that_comes_again_does_not_take_the_name_back(place: Path) -> None:
    write_whole(place / "a", V1, "latest")
    write_update(place / "b", V2, "latest", place / "a")
    write_update(place / "c.tar", V3, "latest", place / "b")
    far = place / "far"
    merge_into(far, place / "a", place / "b")
    merge_into(far, place / "c.tar")
    before = (far / "index.json").read_bytes()
    for again in ("a", "b", "c.tar"):
        merge_into(far, place / again)
        assert (far / "index.json").read_bytes() == before
    printed, said = command(place, "far", "b")
    assert printed == ""
    assert f"ociexport: b: {NAME}:latest@{V2.digest}: the name has a later image" in said


def test_a_bundle_that_is_named_twice_is_no_later_image(place: Path) -> None:
    write_whole(place / "a", V1, "latest")
    write_update(place / "b", V2, "latest", place / "a")
    for _ in range(2):
        printed, said = command(place, "far", "a", "b", "b")
        assert printed == f"{NAME}:latest@{V2.digest}\n"
        assert [line for line in said if "later image" in line] == [
            f"ociexport: a: {NAME}:latest@{V1.digest}: the name has a later image"
        ]
        assert any(line.startswith("ociexport: far: 1 image complete; ") for line in said)


def test_a_name_may_be_moved_back_on_purpose(place: Path) -> None:
    """An update that was made from the later image replaces it."""
    write_whole(place / "a", V1, "latest")
    write_update(place / "b", V2, "latest", place / "a")
    write_update(place / "back", V1, "latest", place / "a", place / "b")
    far = place / "far"
    for bundle in ("a", "b", "back"):
        merge_into(far, place / bundle)
    assert names_in(far) == {f"{NAME}:latest": str(V1.digest)}


def test_what_a_name_had_before_is_known_to_the_next_update(place: Path) -> None:
    """HAVE may be a copy of the far side."""
    write_whole(place / "a", V1, "latest")
    write_update(place / "b", V2, "latest", place / "a")
    merge_into(place / "far", place / "a", place / "b")
    write_update(place / "c", V3, "latest", place / "far")
    image = json.loads((place / "c" / "bundle.json").read_bytes())["images"][0]
    assert image["replaces"] == [str(V2.digest), str(V1.digest)]


def test_an_older_image_that_waits_does_not_take_the_name_back(place: Path) -> None:
    write_whole(place / "a", V1, "latest")
    write_update(place / "b", V2, "latest", place / "a")
    write_whole(place / "c", V3, "latest")
    far = place / "far"
    assert len(merge_into(far, place / "b").waiting) == 1
    merge_into(far, place / "c")
    merge_into(far, place / "c", place / "v1")
    assert names_in(far)[f"{NAME}:latest"] == str(V3.digest)
    assert not (far / ".ociexport").exists()


def test_an_image_keeps_its_old_content_until_the_new_is_whole(place: Path) -> None:
    far = write_whole(place / "far", V1, "latest")
    write_whole(place / "has", V2, "x")
    update = write_update(place / "update", V3, "latest", place / "has")
    assert len(merge_into(far, update).waiting) == 1
    assert names_in(far) == {f"{NAME}:latest": str(V1.digest)}
    merge_into(far, place / "update2.tar")
    assert names_in(far)[f"{NAME}:latest"] == str(V3.digest)


# All kinds


def test_an_index_and_its_platforms_come_whole(place: Path) -> None:
    arm = build_image([BASE, layer("arm")], platform=ARM64)
    index = build_index([V2, arm])
    write_layout(place / "all", {f"{NAME}:all": index})
    merge_into(place / "far", place / "all")
    assert blobs_in(place / "far") == index.all_digests
    assert names_in(place / "far") == {f"{NAME}:all": str(index.digest)}


def test_a_sparse_index_comes_as_it_is(place: Path) -> None:
    """image-layout.md: a layout may lack manifests that an index lists."""
    index = build_index([V2, build_image([BASE], platform=ARM64)])
    write_layout(place / "sparse", {f"{NAME}:all": index})
    os.unlink(ImageLayout(place / "sparse").blob_path(build_image([BASE], platform=ARM64).digest))
    assert merge_into(place / "far", place / "sparse").waiting == ()
    assert verify(place / "far").is_right


def test_an_archive_of_docker_save_comes_too(place: Path) -> None:
    write_tar(place / "saved.tar", of_docker_1_10())
    assert merge_into(place / "far", place / "saved.tar").waiting == ()
    assert list(names_in(place / "far")) == [ONE]
    assert SAVED.config.digest in blobs_in(place / "far")


def test_a_compressed_archive_comes_too(place: Path) -> None:
    raw = (place / "update2.tar").read_bytes()
    (place / "update2.tar.gz").write_bytes(gzip.compress(raw))
    assert merge_into(place / "far", place / "v1", place / "update2.tar.gz").waiting == ()


def test_standard_input_is_a_bundle(place: Path) -> None:
    ended = subprocess.run(
        command_line("merge", place / "far", place / "v1", "-"),
        env=command_environment(place),
        input=(place / "update2.tar").read_bytes(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.decode() == f"{ONE}@{V1.digest}\n{TWO}@{V2.digest}\n"


def test_artifacts_without_a_name_come_too(place: Path) -> None:
    artifact = build_artifact(b"content")
    write_layout(place / "artifact", {"x": artifact})
    index = json.loads((place / "artifact" / "index.json").read_bytes())
    del index["manifests"][0]["annotations"]
    (place / "artifact" / "index.json").write_text(json.dumps(index))
    for _ in range(2):
        assert merge_into(place / "far", place / "artifact").waiting == ()
    entries = json.loads((place / "far" / "index.json").read_bytes())["manifests"]
    assert [entry["digest"] for entry in entries] == [str(artifact.digest)]


def test_a_foreign_layer_that_was_never_stored_is_not_waited_for(place: Path) -> None:
    def make_foreign(manifest: Any) -> None:
        manifest["layers"][0]["urls"] = ["https://example.com/layer"]

    image = build_image([BASE, RUNTIME], edit_manifest=make_foreign)
    write_whole(place / "foreign", image, "1")
    os.unlink(ImageLayout(place / "foreign").blob_path(image.layers[0].digest))
    assert merge_into(place / "far", place / "foreign").waiting == ()


def test_a_transport_may_stand_before_a_bundle(place: Path) -> None:
    printed, _ = command(place, "far", "oci:v1", "oci-archive:update2.tar")
    assert printed == f"{ONE}@{V1.digest}\n{TWO}@{V2.digest}\n"
    _, said = command(place, "far", "docker://registry.example.test/app", "oci:v1:x", code=2)
    assert [line for line in said if "error" in line] == [
        "ociexport: error: 'docker://registry.example.test/app': expected a whole layout or archive, got one image",
        "ociexport: error: 'oci:v1:x': expected a whole layout or archive, got one image",
    ]


def test_events_are_those_of_a_pull(place: Path) -> None:
    command(place, "far", "v1", "--events", place / "events", "-q")
    events = [json.loads(line) for line in (place / "events").read_text().splitlines()]
    assert events[-1]["event"] == "ended"
    assert {event.get("digest") for event in events} > {str(digest) for digest in V1.blobs}


# What is not done


def test_a_dry_run_tells_and_writes_nothing(place: Path) -> None:
    printed, said = command(place, "far", "v1", "update2.tar", "--dry-run")
    assert printed == f"{ONE}@{V1.digest}\n{TWO}@{V2.digest}\n"
    assert said[-1] == "ociexport: far: 2 images would be complete; 6 blobs (142.5 kB) would be added, 0 there"
    assert not (place / "far").exists()
    assert "waiting for 2 blobs" in command(place, "far", "update2.tar", "--dry-run", code=7)[1][-1]
    assert not (place / "far").exists()


def test_the_far_side_is_no_bundle_of_itself(place: Path) -> None:
    with pytest.raises(UsageError, match="expected a bundle from elsewhere"):
        merge_into(place / "v1", place / "v1")


def test_a_directory_of_other_files_is_left_alone(place: Path) -> None:
    (place / "far").mkdir()
    (place / "far" / "letter.txt").write_text("x")
    with pytest.raises(UsageError, match="expected an OCI layout or an empty directory"):
        merge_into(place / "far", place / "v1")
    assert os.listdir(place / "far") == ["letter.txt"]


def test_gc_keeps_what_waits(place: Path) -> None:
    far = place / "far"
    merge_into(far, place / "update2.tar")
    assert collect_garbage(far).dropped == ()
    assert merge_into(far, place / "v1").waiting == ()
