"""`merge` of damaged, truncated and lying bundles: each is named, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.bundle.merge import MergeResult, merge
from ociexport.verification.verify import verify
from tests.support.command import run_command
from tests.support.updates import NAME, V1, V2, V3, names_in, write_bundles, write_update, write_whole

ONE, TWO, THREE = f"{NAME}:1", f"{NAME}:2", f"{NAME}:3"


def merge_into(far: Path, *bundles: Path) -> MergeResult:
    return merge(far, map(str, bundles))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_bundles(tmp_path)


def command(place: Path, *words: str | Path, code: int = 0) -> tuple[str, list[str]]:
    ended = run_command("merge", *words, home=place)
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr.splitlines()


def damage(layout: Path, digest: Digest) -> None:
    path = Path(ImageLayout(layout).blob_path(digest))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_a_damaged_blob_is_named_with_its_bundle(place: Path) -> None:
    damage(place / "v1", V1.layers[0].digest)
    printed, said = command(place, "far", "v1", "update3", code=7)
    assert printed == ""
    errors = [line for line in said if line.startswith("ociexport: error: v1: ")]
    assert len(errors) == 1
    assert errors[0].startswith(
        f"ociexport: error: v1: {ONE}: layer 1 of 3 ({V1.layers[0].digest}): digest mismatch: expected "
    )
    assert errors[0].endswith("; v1 should have it")
    assert names_in(place / "far") == {}


def test_a_damaged_blob_comes_from_another_bundle_that_has_it(place: Path) -> None:
    damage(place / "v1", V1.layers[0].digest)
    write_whole(place / "again", V1, "again")
    assert merge_into(place / "far", place / "v1", place / "again").waiting == ()
    assert verify(place / "far").is_right


def test_only_the_damaged_bundle_has_to_come_again(place: Path) -> None:
    far = place / "far"
    shutil.copytree(place / "v1", place / "good")
    damage(place / "v1", V1.layers[0].digest)
    assert len(merge_into(far, place / "v1", place / "update2.tar").waiting) == 2
    assert merge_into(far, place / "good").waiting == ()
    assert names_in(far) == {ONE: str(V1.digest), TWO: str(V2.digest)}


def test_a_damaged_blob_of_the_far_side_is_replaced(place: Path) -> None:
    far = write_whole(place / "far", V1, "1")
    damage(far, V1.layers[0].digest)
    assert len(merge_into(far, place / "update2.tar").waiting) == 1
    assert merge_into(far, place / "v1").waiting == ()
    assert verify(far).is_right


def test_a_missing_manifest_is_named(place: Path) -> None:
    os.unlink(ImageLayout(place / "update3").blob_path(V3.digest))
    _, said = command(place, "far", "v1", "update3", code=7)
    assert f"ociexport: error: update3: {THREE}: manifest {V3.digest}: not there; update3 should have it" in said


def test_a_blob_that_a_bundle_claims_to_have_is_its_own_fault(place: Path) -> None:
    new = V2.layers[2].digest
    thin = write_update(place / "thin", V2, "2", place / "v1")
    os.unlink(ImageLayout(thin).blob_path(new))
    _, said = command(place, "far", "v1", "thin", code=7)
    assert f"ociexport: error: thin: {TWO}: layer 3 of 3 ({new}): not there; thin should have it" in said


@pytest.mark.parametrize("rest", ["the others go on", "alone"])
def test_a_truncated_bundle_ends_in_one_line_and_loses_nothing(place: Path, rest: str) -> None:
    os.truncate(place / "update2.tar", 3000)
    bundles = ["v1", "update2.tar"] if rest != "alone" else ["update2.tar"]
    printed, said = command(place, "far", *bundles, code=8)
    assert printed == (f"{ONE}@{V1.digest}\n" if rest != "alone" else "")
    errors = [line for line in said if line.startswith("ociexport: error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("ociexport: error: update2.tar: expected a tar, got a damaged one (after 'blobs/")


def test_a_missing_bundle_is_named_and_the_others_go_on(place: Path) -> None:
    printed, said = command(place, "far", "v1", "nowhere.tar", code=3)
    assert printed == f"{ONE}@{V1.digest}\n"
    expected = "expected a layout or an archive, there is no such file or directory"
    assert f"ociexport: error: 'nowhere.tar': {expected}" in said


@pytest.mark.parametrize("content", [b"", b"[]", b'{"bundleVersion":9}', bytes(range(256))])
def test_a_bundle_json_that_cannot_be_read_ends_in_one_line(place: Path, content: bytes) -> None:
    (place / "update3" / "bundle.json").write_bytes(content)
    _, said = command(place, "far", "v1", "update3", code=8)
    assert len([line for line in said if line.startswith("ociexport: error: update3/bundle.json: ")]) == 1


def test_a_bundle_json_that_lies_names_nothing_that_is_incomplete(place: Path) -> None:
    """It is believed for whom to blame, never for what is there."""
    path = place / "update3" / "bundle.json"
    bundle = json.loads(path.read_bytes())
    path.write_text(json.dumps({**bundle, "expected": [], "documents": [], "blobs": bundle["expected"]}))
    assert len(merge_into(place / "far", place / "update3").waiting) == 1
    assert names_in(place / "far") == {}
