"""Recipes that can't be used: the base differs or is missing, the recipe is damaged or hostile, a kill."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.zstd import zstd
from ociexport.transfer.bundle.delta.recipe import MAGIC
from ociexport.transfer.bundle.merge import merge
from ociexport.verification.garbage import collect_garbage
from ociexport.verification.verify import verify
from tests.support.deltas import by_another, flip_a_byte, version, write_versions
from tests.support.image_builder import BuiltImage, write_layout
from tests.support.killed import killed_before
from tests.support.updates import NAME, blobs_in, bundle_in, names_in
from tests.transfer.bundle.test_delta_updates import TWO, command, pull


def content_of(directory: Path) -> dict[str, bytes]:
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "users"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files if path.name != "lock"}


@pytest.fixture
def images(tmp_path: Path) -> tuple[BuiltImage, BuiltImage]:
    """Write ``v1``, ``v2``, a ``far`` side with v1, and an ``update`` with recipes."""
    both = write_versions(tmp_path)
    pull(tmp_path)
    return both


Images = tuple[BuiltImage, BuiltImage]


def refused(place: Path, *bundles: str) -> str:
    """Merge what can't be merged; return the only error, after it was seen that nothing changed."""
    before = content_of(place / "far")
    ended = command(place, "merge", place / "far", *(place / bundle for bundle in bundles or ("update",)), code=7)
    assert ended.stdout == ""
    assert content_of(place / "far") == before
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("ociexport: error: ")]
    return error


@pytest.mark.parametrize("number", [0, 1])
def test_a_base_that_differs_by_a_byte_changes_nothing(tmp_path: Path, images: Images, number: int) -> None:
    old, new = images
    flip_a_byte(tmp_path / "far", old, number)
    error = refused(tmp_path)
    assert f"{TWO}: layer {number + 1} of 2 ({new.layers[number].digest}): base {old.diff_ids[number]}: " in error
    assert "v1 should have it" in error


def test_a_plain_base_that_differs_by_a_byte_changes_nothing(tmp_path: Path) -> None:
    old, new = write_versions(tmp_path, None, "plain")
    pull(tmp_path)
    flip_a_byte(tmp_path / "far", old)
    error = refused(tmp_path)
    assert f"layer 1 of 2 ({new.layers[0].digest}): base {old.diff_ids[0]}: diff_id mismatch: expected " in error


def test_a_missing_base_changes_nothing(tmp_path: Path, images: Images) -> None:
    old, new = images
    os.unlink(ImageLayout(tmp_path / "far").blob_path(old.layers[1].digest))
    error = refused(tmp_path)
    expected = f"layer 2 of 2 ({new.layers[1].digest}): base {old.diff_ids[1]}: not there, v1 should have it"
    assert f"{expected}; merge {tmp_path / 'update'} again with it" in error


def test_a_far_side_that_has_nothing_stays_as_it_was(tmp_path: Path, images: Images) -> None:
    ended = command(tmp_path, "merge", tmp_path / "new", tmp_path / "update", code=7)
    assert ended.stderr.count("ociexport: error: ") == 2
    assert not (tmp_path / "new").exists()


def test_the_base_may_come_in_the_same_run_in_any_order(tmp_path: Path, images: Images) -> None:
    """Also if it is made from a recipe itself."""
    write_layout(tmp_path / "v3", {f"{NAME}:3": version(3)})
    pull(tmp_path, source="v3", have="v2", out="update3.tar")
    bundles = [tmp_path / "update3.tar", tmp_path / "update", tmp_path / "v1"]
    for number, order in enumerate([bundles, bundles[::-1]]):
        command(tmp_path, "merge", tmp_path / f"new{number}", *order)
        assert set(names_in(tmp_path / f"new{number}")) == {f"{NAME}:{tag}" for tag in (1, 2, 3)}
        assert verify(tmp_path / f"new{number}", deep=True).is_right


def test_a_dry_run_tells_whether_the_bases_are_there(tmp_path: Path, images: Images) -> None:
    ended = command(tmp_path, "merge", tmp_path / "far", tmp_path / "update", "--dry-run")
    assert "1 image would be complete; 3 blobs " in ended.stderr
    ended = command(tmp_path, "merge", tmp_path / "new", tmp_path / "update", "--dry-run", code=7)
    assert ended.stderr.count("not there, v1 should have it") == 2
    assert not (tmp_path / "new").exists()


def test_twice_is_harmless(tmp_path: Path, images: Images) -> None:
    command(tmp_path, "merge", tmp_path / "far", tmp_path / "update")
    before = content_of(tmp_path / "far")
    command(tmp_path, "merge", tmp_path / "far", tmp_path / "update", tmp_path / "update")
    assert content_of(tmp_path / "far") == before


def test_a_whole_layer_is_taken_where_another_bundle_has_it(tmp_path: Path, images: Images) -> None:
    _, new = images
    command(tmp_path, "merge", tmp_path / "new", tmp_path / "update", tmp_path / "v2")
    assert blobs_in(tmp_path / "new") == new.all_digests


# Damaged and hostile recipes


def recipe_path(bundle: Path, number: int = 0) -> Path:
    digest = bundle_in(bundle)["recipes"][number]["recipe"]["digest"]
    return bundle / "blobs" / str(digest).replace(":", "/")


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw + b"x",
        lambda raw: b"",
        lambda raw: b"no recipe at all",
    ],
    ids=["a byte", "cut", "longer", "empty", "other"],
)
def test_a_damaged_recipe_changes_nothing(tmp_path: Path, images: Images, damage: Callable[[bytes], bytes]) -> None:
    _, new = images
    path = recipe_path(tmp_path / "update")
    path.write_bytes(damage(path.read_bytes()))
    error = refused(tmp_path)
    assert f"layer 1 of 2 ({new.layers[0].digest}): recipe {Digest('sha256', path.name)}: " in error
    ended = command(tmp_path, "verify", tmp_path / "update", code=7)
    assert f"recipe {Digest('sha256', path.name)}: " in ended.stdout


def test_a_recipe_that_is_not_there_changes_nothing(tmp_path: Path, images: Images) -> None:
    os.unlink(recipe_path(tmp_path / "update"))
    assert "not in the layout; merge " in refused(tmp_path)
    command(tmp_path, "verify", tmp_path / "update", code=7)


def forge(bundle: Path, edit_head: Callable[[Any], object], **changes: Any) -> None:
    """Write another recipe for the first layer, and its digest into ``bundle.json``."""
    raw = recipe_path(bundle).read_bytes()
    begin = len(MAGIC) + 8
    length = int.from_bytes(raw[len(MAGIC) : begin], "big")
    head = json.loads(zstd.decompress(raw[begin : begin + length]))
    edit_head(head)
    frame = zstd.compress(json.dumps(head).encode())
    forged = MAGIC + len(frame).to_bytes(8, "big") + frame + raw[begin + length :]
    (bundle / "blobs" / "sha256" / Digest.of(forged).encoded).write_bytes(forged)
    document = bundle_in(bundle)
    document["recipes"][0]["recipe"] = {"digest": str(Digest.of(forged)), "size": len(forged)}
    document["recipes"][0].update(changes)
    (bundle / "bundle.json").write_text(json.dumps(document))


def first_copy(head: Any) -> Any:
    return next(step for step in head["steps"] if len(step) == 3)


def test_a_range_out_of_bounds_is_refused(tmp_path: Path, images: Images) -> None:
    forge(tmp_path / "update", lambda head: first_copy(head).__setitem__(1, 10**9))
    assert "steps: expected a number from 0 to " in refused(tmp_path)


def test_a_copy_that_repeats_makes_no_more_than_the_declared_size(tmp_path: Path, images: Images) -> None:
    def repeat(head: Any) -> None:
        head["steps"] = [[0, 0, head["bases"][0]["size"]] for _ in range(50_000)]
        head["batches"] = []
        head["size"] = 50_000 * head["bases"][0]["size"]

    forge(tmp_path / "update", repeat)
    assert "expected at most 250 times the " in refused(tmp_path)


def test_a_plain_layer_is_as_large_as_its_manifest_says(tmp_path: Path) -> None:
    write_versions(tmp_path, by_another)
    pull(tmp_path, "--allow-recompressed")

    def longer(head: Any) -> None:
        head["steps"].append([0, 0, 512])
        head["size"] += 512

    forge(tmp_path / "update", longer)
    assert "size: expected " in refused(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"compression": {"name": "rar"}}, "expected none, gzip or zstd, got 'rar'"),
        ({"compression": {"name": "none"}}, "size: expected "),
        ({"bases": []}, "expected a base that bundle.json names, got sha256:"),
        ({"diffId": f"sha256:{'0' * 64}"}, f"diffId: expected sha256:{'0' * 64}, as bundle.json says, got "),
    ],
)
def test_a_bundle_json_that_lies_changes_nothing(
    tmp_path: Path, images: Images, entry: dict[str, Any], message: str
) -> None:
    forge(tmp_path / "update", lambda head: None, **entry)
    assert message in refused(tmp_path)


def test_a_bomb_as_base_is_refused(tmp_path: Path, images: Images) -> None:
    """A blob of the far side that inflates without end is no base."""
    old, _ = images
    path = Path(ImageLayout(tmp_path / "far").blob_path(old.layers[0].digest))
    path.write_bytes(gzip.compress(bytes(64 * 1024**2), 9))
    assert f"base {old.diff_ids[0]}: diff_id mismatch" in refused(tmp_path)


# Interrupted


def test_killed_before_any_call_the_next_run_completes_it(tmp_path: Path, images: Images) -> None:
    old, new = images
    update = str(tmp_path / "update")
    shutil.copytree(tmp_path / "far", tmp_path / "warm")
    merge(tmp_path / "warm", [update])  # the child imports nothing then
    call, was_killed = 0, True
    while was_killed:
        far = tmp_path / f"far{call}"
        shutil.copytree(tmp_path / "far", far)
        was_killed = killed_before(call, partial(merge, far, [update], jobs=1))
        assert verify(far).is_right
        merge(far, [update])
        assert names_in(far) == {f"{NAME}:1": str(old.digest), TWO: str(new.digest)}
        assert blobs_in(far) == old.all_digests | new.all_digests
        shutil.rmtree(far)
        call += 3
    assert call > 30


# Verifying


def test_verify_knows_what_recipes_make(tmp_path: Path, images: Images) -> None:
    for source in ("update", "update.tar"):
        if source == "update.tar":
            pull(tmp_path, out=source)
        ended = command(tmp_path, "verify", tmp_path / source)
        assert ended.stdout.count("made on the far side, from a recipe of ") == 2
        assert "unreferenced" not in ended.stdout
        assert "; makes 2 layers there from recipes: no problems found" in ended.stderr
        assert json.loads(command(tmp_path, "verify", tmp_path / source, "--json").stdout)["recipes"] == 2


@pytest.mark.parametrize("words", [[], ["--deep"]])
def test_verify_against_proves_the_bases(tmp_path: Path, images: Images, words: list[str]) -> None:
    old, new = images
    against: list[str | Path] = ["verify", tmp_path / "update", "--against", tmp_path / "far", *words]
    assert command(tmp_path, *against).stdout.count(" and its older layers are there") == 2
    flip_a_byte(tmp_path / "far", old)
    ended = command(tmp_path, *against, code=7)
    assert (
        f"layer 1 of 2 ({new.layers[0].digest}): base {old.diff_ids[0]}: not there, and the recipe needs"
        in ended.stdout
    )
    assert f"({new.layers[1].digest}): made on the far side" in ended.stdout


def test_verify_deep_makes_the_layers(tmp_path: Path, images: Images) -> None:
    """Ranges within the base, but of other bytes."""
    against: list[str | Path] = ["verify", tmp_path / "update", "--against", tmp_path / "far"]
    forge(tmp_path / "update", lambda head: first_copy(head).__setitem__(1, first_copy(head)[1] + 512))
    command(tmp_path, *against)
    assert "mismatch: expected sha256:" in command(tmp_path, *against, "--deep", code=7).stdout


def test_verify_against_digests_alone_believes_them(tmp_path: Path, images: Images) -> None:
    old, _ = images
    (tmp_path / "list").write_text("\n".join(str(layer.digest) for layer in old.layers))
    ended = command(tmp_path, "verify", tmp_path / "update", "--against", tmp_path / "list", "--deep")
    assert ended.stderr.count("not made, since HAVE gives no bytes of the older layers") == 2


# Read alone


@pytest.mark.parametrize("words", [["pull", "--out"], ["unpack"]])
def test_an_update_that_is_read_alone_says_that_merge_comes_first(
    tmp_path: Path, images: Images, words: list[str]
) -> None:
    command_name, *option = words
    ended = command(tmp_path, command_name, tmp_path / "update", *option, tmp_path / "x", code=3)
    assert "ociexport merge FAR BUNDLE" in ended.stderr
    assert not (tmp_path / "x").exists()


def test_gc_keeps_the_recipes_of_an_update(tmp_path: Path, images: Images) -> None:
    assert collect_garbage(tmp_path / "update").dropped == ()
    command(tmp_path, "merge", tmp_path / "far", tmp_path / "update")
