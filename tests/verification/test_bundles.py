"""`verify BUNDLE`: it knows what is meant to be absent, proves a bundle against what is had, and believes no lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.verification.findings import Kind
from ociexport.verification.verify import verify
from tests.support.command import run_command
from tests.support.image_builder import Compression, build_image
from tests.support.updates import BASE, NAME, RUNTIME, V1, V2, have, layer, write_update, write_whole

SHARED = [descriptor.digest for descriptor in V1.layers[:2]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_whole(tmp_path / "v1", V1, "1")
    return tmp_path


def update(place: Path, name: str = "update") -> Path:
    return write_update(place / name, V2, "2", place / "v1")


@pytest.mark.parametrize("name", ["update", "update.tar"])
def test_blobs_that_are_meant_to_be_absent_are_no_problem(place: Path, name: str) -> None:
    ended = run_command("verify", update(place, name), home=place)
    assert ended.returncode == 0
    where = f"{NAME}:2: manifest {V2.digest}"
    assert ended.stdout.splitlines() == [
        f"note: {where}: layer {number} of 3 ({digest}): expected on the far side"
        for number, digest in enumerate(SHARED, start=1)
    ]
    counts = "1 image, 2 documents and 1 blob checked, 21.9 kB"
    assert ended.stderr.splitlines()[-1].endswith(
        f"{counts}; expects 2 blobs (100.6 kB) on the far side: no problems found"
    )


def test_json_has_the_numbers(place: Path) -> None:
    ended = run_command("verify", update(place), "--json", home=place)
    found = json.loads(ended.stdout)
    assert (found["right"], found["expectedBlobs"], found["expectedBytes"]) == (
        True,
        2,
        sum(descriptor.size for descriptor in V2.layers[:2]),
    )


def test_a_missing_blob_that_should_be_in_it_is_a_problem(place: Path) -> None:
    path = update(place)
    os.unlink(ImageLayout(path).blob_path(V2.layers[2].digest))
    found = verify(path)
    (wrong,) = [finding for finding in found.findings if finding.is_wrong]
    assert (wrong.kind, wrong.digest) == (Kind.MISSING, V2.layers[2].digest)
    assert run_command("verify", path, home=place).returncode == 7


@pytest.mark.parametrize("name", ["update", "update.tar"])
def test_a_bundle_and_what_is_had_are_whole(place: Path, name: str) -> None:
    ended = run_command("verify", update(place, name), "--against", place / "v1", home=place)
    assert ended.returncode == 0
    assert [line.rpartition(": ")[2] for line in ended.stdout.splitlines()] == [
        "expected on the far side, and in v1"
    ] * 2


@pytest.mark.parametrize("name", ["update", "update.tar"])
def test_a_bundle_and_too_little_name_what_is_missing(place: Path, name: str) -> None:
    write_whole(place / "less", build_image([BASE]))
    ended = run_command("verify", update(place, name), "--against", place / "less", home=place)
    assert ended.returncode == 7
    wrong = [line for line in ended.stdout.splitlines() if line.startswith("wrong: ")]
    assert wrong == [
        f"wrong: {NAME}:2: manifest {V2.digest}: layer 2 of 3 ({SHARED[1]}): expected on the far side, and not there"
    ]


@pytest.mark.parametrize("name", ["update", "update.tar"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_layer_that_is_damaged_on_the_far_side_is_missing(place: Path, name: str, compression: Compression) -> None:
    """A proof reads the bytes; docker's layers are found by their diff_ids, however they are compressed."""
    path = update(place, name)
    had = build_image([BASE, RUNTIME], compression=compression)
    write_whole(place / "had", had)
    is_proven = name == "update.tar" or compression == "gzip"
    assert run_command("verify", path, "--against", place / "had", home=place).returncode == (0 if is_proven else 7)
    blob = Path(ImageLayout(place / "had").blob_path(had.layers[0].digest))
    raw = blob.read_bytes()
    blob.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    ended = run_command("verify", path, "--against", place / "had", home=place)
    assert ended.returncode == 7
    assert f"wrong: {NAME}:2: manifest {V2.digest}: layer 1 of 3 ({SHARED[0]}): expected on the far" in ended.stdout


def test_docker_is_told_by_its_diff_ids(place: Path) -> None:
    path = update(place, "update.tar")
    inspected = place / "inspected"
    diff_ids = [str(diff_id) for diff_id in V1.diff_ids]
    inspected.write_text(json.dumps([{"RootFS": {"Type": "layers", "Layers": diff_ids}}]))
    assert run_command("verify", path, "--against", inspected, home=place).returncode == 0
    inspected.write_text(json.dumps([{"RootFS": {"Type": "layers", "Layers": diff_ids[:1]}}]))
    assert run_command("verify", path, "--against", inspected, home=place).returncode == 7
    # A layer above another one is another layer for docker.
    inspected.write_text(json.dumps([{"RootFS": {"Type": "layers", "Layers": diff_ids[::-1]}}]))
    assert run_command("verify", path, "--against", inspected, home=place).returncode == 7


def test_several_haves_are_whole_together(place: Path) -> None:
    found = verify(
        update(place),
        against=lambda _: have(
            write_whole(place / "one", build_image([BASE])), write_whole(place / "two", build_image([RUNTIME]))
        ),
    )
    assert found.is_right


def test_layers_that_are_there_are_proven_deeply(place: Path) -> None:
    found = verify(update(place), deep=True)
    assert (found.is_right, found.layers) == (True, 1)


def test_a_layout_without_bundle_json_expects_nothing(place: Path) -> None:
    found = verify(place / "v1")
    assert (found.is_right, found.expected) == (True, None)
    assert "expects" not in str(found)
    os.unlink(ImageLayout(place / "v1").blob_path(SHARED[0]))
    assert not verify(place / "v1").is_right
    assert verify(place / "v1", against=lambda _: have(write_whole(place / "base", build_image([BASE])))).is_right


def test_whole_again_it_expects_nothing(place: Path) -> None:
    """A blob may come later; then it is proven like any other."""
    path = update(place)
    for digest in SHARED:
        Path(ImageLayout(path).blob_path(digest)).write_bytes(V2.blobs[digest])
    found = verify(path)
    assert (found.is_right, found.expected) == (True, ())
    Path(ImageLayout(path).blob_path(SHARED[0])).write_bytes(b"damaged")
    assert not verify(path).is_right


# Lies

OTHER = str(Digest.of(b"other"))


def _expect_more(bundle: Any) -> None:
    bundle["expected"].append({"digest": OTHER, "size": 5, "mediaType": "x"})


def _claim_a_blob(bundle: Any) -> None:
    bundle["blobs"].append({"digest": OTHER, "size": 5, "mediaType": "x"})


def _claim_a_document(bundle: Any) -> None:
    bundle["documents"].append({"digest": OTHER, "size": 5, "mediaType": "x"})


def _claim_an_image(bundle: Any) -> None:
    bundle["images"].append({**bundle["images"][0], "digest": OTHER, "name": "docker.io/library/other:1"})


def _lie_about_a_size(bundle: Any) -> None:
    bundle["expected"][0]["size"] += 1


def _lie_about_a_size_that_is_there(bundle: Any) -> None:
    bundle["blobs"][0]["size"] += 1


LIES: dict[str, tuple[Callable[[Any], None], str]] = {
    "expects more": (_expect_more, f"bundle.json: expected: {OTHER}: no image needs it"),
    "claims a blob": (_claim_a_blob, f"bundle.json: blobs: {OTHER}: not there"),
    "claims a document": (_claim_a_document, f"bundle.json: documents: {OTHER}: not there"),
    "claims an image": (
        _claim_an_image,
        f"bundle.json: image docker.io/library/other:1 {OTHER}: not in index.json",
    ),
    "another size": (
        _lie_about_a_size,
        f"bundle.json: expected: {SHARED[0]}: size mismatch: expected {V2.layers[0].size} bytes, as its manifest says, "
        f"got {V2.layers[0].size + 1}",
    ),
    "another size of a config": (
        _lie_about_a_size_that_is_there,
        f"bundle.json: blobs: {V2.config.digest}: size mismatch: expected {V2.config.size + 1} bytes, "
        f"got {V2.config.size}",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_bundle_json_that_lies_is_found_out(place: Path, lie: str) -> None:
    edit, message = LIES[lie]
    path = update(place) / "bundle.json"
    bundle = json.loads(path.read_bytes())
    edit(bundle)
    path.write_text(json.dumps(bundle))
    ended = run_command("verify", path.parent, home=place)
    assert ended.returncode == 7
    assert [line for line in ended.stdout.splitlines() if line.startswith("wrong")] == [f"wrong: {message}"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", bytes(range(256)), b'{"bundleVersion": 2}'])
def test_a_bundle_json_that_cannot_be_read_excuses_nothing(place: Path, content: bytes) -> None:
    path = update(place)
    (path / "bundle.json").write_bytes(content)
    ended = run_command("verify", path, home=place)
    assert ended.returncode == 7
    wrong = [line for line in ended.stdout.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 3
    assert wrong[0].startswith("wrong: bundle.json: ")


def test_an_unfinished_thin_layout_is_not_whole(place: Path) -> None:
    """Its ``bundle.json`` may be there before its images are named."""
    path = update(place)
    index = json.loads((path / "index.json").read_bytes())
    (path / "index.json").write_text(json.dumps({**index, "manifests": []}))
    assert not verify(path).is_right


def test_against_needs_no_repair(place: Path) -> None:
    ended = run_command("verify", place / "v1", "--repair", "--against", place / "v1", home=place)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[0] == "ociexport: error: --against: expected no --repair with it"


def test_an_image_that_shares_a_layer_needs_it_once(place: Path) -> None:
    write_update(place / "update", V2, "2", place / "v1")
    write_update(place / "update", build_image([BASE, layer("other")]), "9", place / "v1")
    found = verify(place / "update")
    assert (found.is_right, len(found.expected or ())) == (True, 2)
