"""`pull --since HAVE --delta`, then `merge`: layers travel as recipes, and arrive as published or it is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ociexport.spec.digest import Digest
from ociexport.transfer.bundle.delta.recipe import MEDIA_TYPE
from ociexport.verification.verify import verify
from tests.support.command import run_command
from tests.support.deltas import (
    REPEATABLE,
    by_another,
    by_zstd_command,
    flip_a_byte,
    library,
    program,
    version,
    write_versions,
)
from tests.support.image_builder import ARM64, BuiltImage, Compression, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.updates import NAME, blobs_in, bundle_in, digests, names_in, noise

ONE, TWO = f"{NAME}:1", f"{NAME}:2"


def command(place: Path, *words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    ended = run_command(*words, home=place, variables={"DOCKER_DEFAULT_PLATFORM": "linux/amd64"})
    assert ended.returncode == code, ended.stderr
    return ended


def pull(place: Path, *words: str | Path, source: str = "v2", have: str = "v1", out: str = "update") -> str:
    return command(
        place, "pull", place / source, "--since", place / have, "--delta", "--out", place / out, *words
    ).stderr


def size_of(path: Path) -> int:
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    )


def config_of(layout: Path, digest: str) -> str:
    manifest = json.loads((layout / "blobs" / digest.replace(":", "/")).read_bytes())
    return str(manifest["config"]["digest"])


@pytest.mark.parametrize("out", ["update", "update.tar"])
@pytest.mark.parametrize("kind", REPEATABLE)
def test_a_layer_whose_compression_can_be_repeated_arrives_as_published(tmp_path: Path, kind: str, out: str) -> None:
    _, new = write_versions(tmp_path, *REPEATABLE[kind])
    said = pull(tmp_path, out=out)
    assert "2 layers as recipes" in said
    assert size_of(tmp_path / out) < 30_000
    assert command(tmp_path, "merge", tmp_path / "far", tmp_path / out).stdout == f"{TWO}@{new.digest}\n"
    assert verify(tmp_path / "far", deep=True).is_right
    assert new.all_digests <= blobs_in(tmp_path / "far")
    assert not (tmp_path / "far" / "bundle.json").exists()


def test_another_compression_travels_whole_and_the_report_says_what_a_recipe_would_save(tmp_path: Path) -> None:
    _, new = write_versions(tmp_path, by_another)
    said = pull(tmp_path)
    assert "no layer travels as a recipe" in said
    assert "2 layers could travel as recipes, " in said
    assert "with --allow-recompressed they do, and their digests change" in said
    assert blobs_in(tmp_path / "update") == new.all_digests
    assert "requires" not in bundle_in(tmp_path / "update")
    (image,) = json.loads(command(tmp_path, "pull", *again(tmp_path), "--json").stdout)["images"]
    assert [one["digest"] for one in image["refusedRecipes"]] == digests(new.layers)
    assert all(one["recipeSize"] * 20 < one["size"] for one in image["refusedRecipes"])


def test_what_the_zstd_command_made_arrives_as_published_or_plain(tmp_path: Path) -> None:
    """Its library may be another version of zstd, which makes other bytes; then the report says so."""
    _, new = write_versions(tmp_path, by_zstd_command, "zstd")
    said = pull(tmp_path, "--allow-recompressed")
    assert "2 layers as recipes" in said
    command(tmp_path, "merge", tmp_path / "far", tmp_path / "update")
    (image,) = bundle_in(tmp_path / "update")["images"]
    assert (image["digest"] == str(new.digest)) == ("becomes" not in said)
    assert config_of(tmp_path / "far", image["digest"]) == str(new.config.digest)
    assert verify(tmp_path / "far", deep=True).is_right


def again(place: Path) -> list[str | Path]:
    return [place / "v2", "--since", place / "v1", "--delta", "--out", place / "again"]


def test_with_allow_recompressed_layers_become_plain_and_the_image_id_stays(tmp_path: Path) -> None:
    _, new = write_versions(tmp_path, by_another)
    said = pull(tmp_path, "--allow-recompressed")
    (image,) = bundle_in(tmp_path / "update")["images"]
    assert f"{new.digest} becomes {image['digest']}; its image ID stays" in said
    for descriptor, diff_id in zip(new.layers, new.diff_ids, strict=True):
        assert f"layer {descriptor.digest} becomes the plain {diff_id}" in said
    merged = command(tmp_path, "merge", tmp_path / "far", tmp_path / "update").stdout
    assert merged == f"{TWO}@{image['digest']}\n"
    assert config_of(tmp_path / "far", image["digest"]) == str(new.config.digest)
    assert set(new.diff_ids) <= blobs_in(tmp_path / "far")
    assert verify(tmp_path / "far", deep=True).is_right


def test_json_says_which_digests_change(tmp_path: Path) -> None:
    _, new = write_versions(tmp_path, by_another)
    ended = command(tmp_path, "pull", *again(tmp_path), "--allow-recompressed", "--json")
    (image,) = json.loads(ended.stdout)["images"]
    assert image["changedDigests"] == [{"published": str(new.digest), "now": image["digest"]}]
    assert [one["publishedDigest"] for one in image["recipes"]] == digests(new.layers)
    assert [one["digest"] for one in image["recipes"]] == list(map(str, new.diff_ids))
    assert image["newBytes"] == sum(one["recipeSize"] for one in image["recipes"])


def test_an_index_is_written_anew_with_its_manifests(tmp_path: Path) -> None:
    def images(number: int) -> BuiltImage:
        one = build_image([library(number)], compress=by_another)
        return build_index([one, build_image([program(number)], compress=by_another, platform=ARM64)])

    for number in (1, 2):
        write_layout(tmp_path / f"v{number}", {f"{NAME}:{number}": images(number)})
    said = pull(tmp_path, "--allow-recompressed", "--platform", "all")
    assert said.count(" becomes sha256:") == 3
    command(tmp_path, "merge", tmp_path / "far", tmp_path / "v1", tmp_path / "update")
    assert verify(tmp_path / "far", deep=True, strict=True).is_right
    assert set(names_in(tmp_path / "far")) == {ONE, TWO}


def test_the_same_bundle_each_time(tmp_path: Path) -> None:
    write_versions(tmp_path)
    pull(tmp_path, out="a.tar")
    pull(tmp_path, out="b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_bundle_json_names_each_recipe(tmp_path: Path) -> None:
    old, new = write_versions(tmp_path)
    pull(tmp_path)
    bundle = bundle_in(tmp_path / "update")
    assert bundle["requires"] == ["recipes"]
    assert [one["digest"] for one in bundle["recipes"]] == digests(new.layers)
    for number, recipe in enumerate(bundle["recipes"]):
        assert recipe["size"] == new.layers[number].size
        assert recipe["diffId"] == str(new.diff_ids[number])
        assert recipe["compression"]["name"] == "gzip"
        assert "published" not in recipe
        (base,) = recipe["bases"]
        assert base["diffId"] == str(old.diff_ids[number])
        assert base["digests"] == [str(old.layers[number].digest)]
        assert base["since"] == ["v1"]
        stored = (tmp_path / "update" / "blobs" / recipe["recipe"]["digest"].replace(":", "/")).read_bytes()
        assert (Digest.of(stored), len(stored)) == (Digest.parse(recipe["recipe"]["digest"]), recipe["recipe"]["size"])
    assert MEDIA_TYPE not in json.dumps(bundle["blobs"])
    assert [one["digest"] for one in bundle["blobs"]] == [str(new.config.digest)]


# Which base


def test_a_moved_layer_finds_the_one_that_shares_the_most_files(tmp_path: Path) -> None:
    old, _ = write_versions(tmp_path)
    write_layout(tmp_path / "moved", {TWO: build_image([[member("first", b"x")], program(2), library(2)])})
    pull(tmp_path, source="moved")
    bases = [one["bases"][0]["diffId"] for one in bundle_in(tmp_path / "update")["recipes"]]
    assert bases == [str(old.diff_ids[1]), str(old.diff_ids[0])]
    command(tmp_path, "merge", tmp_path / "far", tmp_path / "update")
    assert verify(tmp_path / "far", deep=True).is_right


def test_an_image_of_another_name_is_a_base_too(tmp_path: Path) -> None:
    write_layout(tmp_path / "v1", {"docker.io/library/other:1": version(1)})
    write_layout(tmp_path / "v2", {TWO: version(2)})
    assert "2 layers as recipes" in pull(tmp_path)


def test_the_same_tar_in_another_compression_is_a_copy(tmp_path: Path) -> None:
    write_layout(tmp_path / "v1", {ONE: version(1, None, "zstd")})
    write_layout(tmp_path / "v2", {TWO: version(1, None, "gzip")})
    pull(tmp_path)
    assert all(one["recipe"]["size"] < 400 for one in bundle_in(tmp_path / "update")["recipes"])
    command(tmp_path, "merge", tmp_path / "far", tmp_path / "v1", tmp_path / "update")
    assert verify(tmp_path / "far", deep=True).is_right


def test_a_whole_layer_where_the_recipe_would_be_larger(tmp_path: Path) -> None:
    write_layout(tmp_path / "v1", {ONE: build_image([[member("file", noise("old")), member("b", b"b" * 99)]])})
    new = build_image([[member("file", b"short")]])
    write_layout(tmp_path / "v2", {TWO: new})
    assert "no layer travels as a recipe" in pull(tmp_path)
    assert blobs_in(tmp_path / "update") == new.all_digests


@pytest.mark.parametrize("content", [b"no tar at all" * 500, b""])
def test_a_layer_that_is_no_tar_travels_whole(tmp_path: Path, content: bytes) -> None:
    write_layout(tmp_path / "v1", {ONE: build_image([content + b"1"])})
    new = build_image([content + b"2"])
    write_layout(tmp_path / "v2", {TWO: new})
    assert "no layer travels as a recipe" in pull(tmp_path)
    assert blobs_in(tmp_path / "update") == new.all_digests


def test_digests_alone_give_whole_layers_and_it_says_so(tmp_path: Path) -> None:
    old, new = write_versions(tmp_path)
    (tmp_path / "list").write_text("\n".join(digests(old.layers)))
    said = pull(tmp_path, have="list")
    assert "tells what is there and gives no bytes, so no recipe is made from it" in said
    assert blobs_in(tmp_path / "update") == new.all_digests


def test_a_damaged_older_layer_is_no_base(tmp_path: Path) -> None:
    old, _ = write_versions(tmp_path)
    flip_a_byte(tmp_path / "v1", old)
    said = pull(tmp_path)
    assert f"warning: older layer {old.layers[0].digest}: " in said
    assert "1 layer as recipes" in said


def test_a_damaged_new_layer_ends_the_pull(tmp_path: Path) -> None:
    _, new = write_versions(tmp_path)
    flip_a_byte(tmp_path / "v2", new)
    ended = command(tmp_path, "pull", *again(tmp_path), code=7)
    assert f"layer 1 of 2 ({new.layers[0].digest}): digest mismatch: expected " in ended.stderr
    assert not (tmp_path / "again").exists()


# Week by week


@pytest.mark.parametrize("compress", [None, by_another])
def test_a_mirror_of_the_far_side_is_what_the_next_update_is_made_from(tmp_path: Path, compress: Any) -> None:
    """The far side may have layers as plain tars; each update is merged into the mirror too."""
    write_versions(tmp_path, compress)
    mirror = tmp_path / "mirror"
    command(tmp_path, "merge", mirror, tmp_path / "v1")
    for number in (2, 3, 4):
        write_layout(tmp_path / f"v{number}", {f"{NAME}:{number}": version(number, compress)})
        update = f"update{number}.tar"
        assert "2 layers as recipes" in pull(
            tmp_path, "--allow-recompressed", source=f"v{number}", have="mirror", out=update
        )
        for side in (mirror, tmp_path / "far"):
            command(tmp_path, "merge", side, tmp_path / update)
        assert size_of(tmp_path / update) < 30_000
    assert names_in(mirror) == names_in(tmp_path / "far")
    assert verify(tmp_path / "far", deep=True).is_right


def test_an_earlier_update_tells_what_its_recipes_make(tmp_path: Path) -> None:
    write_versions(tmp_path)
    pull(tmp_path)
    for have in ("update", "update/bundle.json"):
        assert "nothing new" in pull(tmp_path, have=have, out=f"again-{Path(have).name}")


# Options


def test_a_dry_run_tells_the_size_and_writes_nothing(tmp_path: Path) -> None:
    write_versions(tmp_path)
    ended = command(tmp_path, "pull", *again(tmp_path), "--dry-run")
    assert ended.stdout.count("recipe of layer ") == 2
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--delta"], "--delta: expected --since with it"),
        (["--allow-recompressed"], "--allow-recompressed: expected --since with it"),
        (["--since", "v1", "--allow-recompressed"], "--allow-recompressed: expected --delta with it"),
        (
            ["--since", "v1", "--delta", "--allow-recompressed", "--referrers"],
            "--allow-recompressed: expected no --referrers with it",
        ),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, words: list[str], message: str) -> None:
    write_versions(tmp_path)
    ended = command(tmp_path, "pull", tmp_path / "v2", "--out", tmp_path / "x", *words, code=2)
    assert message in ended.stderr


@pytest.mark.parametrize("kind", ["gzip", "plain"])
def test_docker_archives_are_bases_and_sources(tmp_path: Path, kind: Compression) -> None:
    write_versions(tmp_path, None, kind)
    for number in (1, 2):
        command(tmp_path, "pull", tmp_path / f"v{number}", "--out", tmp_path / f"v{number}.tar")
    assert "2 layers as recipes" in pull(tmp_path, source="v2.tar", have="v1.tar")
    command(tmp_path, "merge", tmp_path / "far", tmp_path / "update")
    assert verify(tmp_path / "far", deep=True).is_right
