"""Recipes beside volumes and `pull --deep`: one merge takes both kinds of bundle; recipes themselves are not cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.spec.lazy_dataclass import replace
from ociexport.storage.bundle import parse_bundle
from ociexport.transfer.bundle.delta.bases import HaveBytes
from ociexport.transfer.bundle.delta.replace_layers import DeltaOptions
from ociexport.transfer.bundle.select import ThinOptions
from ociexport.transfer.options import PullOptions
from ociexport.transfer.sources.open import SourceOpener
from ociexport.verification.verify import verify
from tests.support.command import run_command
from tests.support.deltas import by_another, write_versions
from tests.support.image_builder import AMD64
from tests.support.updates import NAME, blobs_in, bundle_in, have, names_in
from tests.support.volumes import files_in, volumes_of
from tests.transfer.bundle.test_delta_updates import command, pull

WHOLE = f"{NAME}:1", f"{NAME}:2"


def write_volumes(place: Path, size: str = "200k") -> list[Path]:
    """Write the older version into volumes, which cut its first layer; the far side has nothing."""
    command(place, "pull", place / "v1", "--out", place / "old.tar", "--volume-size", size)
    volumes = volumes_of(place / "old.tar")
    assert len(volumes) > 2
    return volumes


def test_delta_and_volume_size_do_not_fit(tmp_path: Path) -> None:
    write_versions(tmp_path)
    words = "--since", tmp_path / "v1", "--delta", "--volume-size", "1M", "--out", tmp_path / "u.tar"
    ended = command(tmp_path, "pull", tmp_path / "v2", *words, code=2)
    assert "--delta: expected no --volume-size with it" in ended.stderr
    assert not list(tmp_path.glob("u.*"))


def test_delta_in_the_configuration_is_left_out_for_volumes(tmp_path: Path) -> None:
    write_versions(tmp_path)
    words = ("--since", tmp_path / "v1", "--volume-size", "1M", "--out", tmp_path / "u.tar")
    ended = run_command("pull", tmp_path / "v2", *words, home=tmp_path, variables={"OCIEXPORT_DELTA": "true"})
    assert ended.returncode == 0, ended.stderr
    (volume,) = volumes_of(tmp_path / "u.tar")
    assert json.loads(files_in(volume)["bundle.json"])["requires"] == ["volumes"]


def test_the_library_refuses_both_too(tmp_path: Path) -> None:
    write_versions(tmp_path)
    delta = DeltaOptions(HaveBytes([str(tmp_path / "v1")], SourceOpener().open, AMD64))
    with pytest.raises(UsageError, match="delta: expected no volumes"):
        PullOptions(AMD64, thin=ThinOptions(have(tmp_path / "v1"), delta=delta), volume_bytes=1_000_000)


def test_bundle_json_requires_all_features_that_it_uses(tmp_path: Path) -> None:
    write_versions(tmp_path)
    pull(tmp_path)
    volume = parse_bundle(files_in(write_volumes(tmp_path)[0])["bundle.json"], where="")
    recipes = parse_bundle((tmp_path / "update" / "bundle.json").read_bytes(), where="").recipes
    both = replace(volume, recipes=recipes)
    assert json.loads(both.to_json())["requires"] == ["volumes", "recipes"]
    assert parse_bundle(both.to_json(), where="") == both


@pytest.mark.parametrize("is_update_first", [False, True])
def test_one_merge_joins_cut_layers_and_makes_layers_from_them(tmp_path: Path, is_update_first: bool) -> None:
    old, new = write_versions(tmp_path)
    volumes = write_volumes(tmp_path)
    pull(tmp_path)
    bundles = [tmp_path / "update", *volumes] if is_update_first else [*volumes, tmp_path / "update"]
    planned = command(tmp_path, "merge", "--dry-run", tmp_path / "empty", *bundles)
    assert not (tmp_path / "empty").exists()
    merged = command(tmp_path, "merge", tmp_path / "empty", *bundles)
    assert sorted(planned.stdout.split()) == sorted(merged.stdout.split())
    assert set(names_in(tmp_path / "empty")) == set(WHOLE)
    assert blobs_in(tmp_path / "empty") == old.all_digests | new.all_digests
    assert verify(tmp_path / "empty", deep=True).is_right


def test_an_update_whose_base_waits_for_a_volume_comes_again(tmp_path: Path) -> None:
    old, new = write_versions(tmp_path)
    first, *others = write_volumes(tmp_path)
    pull(tmp_path)
    ended = command(tmp_path, "merge", tmp_path / "empty", first, tmp_path / "update", code=7)
    assert "merge " in ended.stderr
    assert f"{tmp_path / 'update'} again with it" in ended.stderr
    assert f"{others[0]}" in ended.stderr
    assert not new.all_digests & blobs_in(tmp_path / "empty") - old.all_digests
    command(tmp_path, "merge", tmp_path / "empty", *others, tmp_path / "update")
    assert set(names_in(tmp_path / "empty")) == set(WHOLE)
    assert verify(tmp_path / "empty", deep=True).is_right


def test_volumes_are_bases_as_far_as_their_layers_are_whole(tmp_path: Path) -> None:
    old, _ = write_versions(tmp_path)
    volumes = write_volumes(tmp_path)
    whole = {name for volume in volumes for name in files_in(volume) if name.startswith("blobs/")}
    diff_ids = dict(zip(old.layers, old.diff_ids, strict=True))
    bases = {
        str(diff_id) for layer, diff_id in diff_ids.items() if f"blobs/{str(layer.digest).replace(':', '/')}" in whole
    }
    assert 0 < len(bases) < len(diff_ids)
    since = [word for volume in volumes[1:] for word in ("--since", volume)]
    pull(tmp_path, *since, have=volumes[0].name)
    used = {base["diffId"] for recipe in bundle_in(tmp_path / "update")["recipes"] for base in recipe["bases"]}
    assert used == bases


@pytest.mark.parametrize("out", ["update", "update.tar"])
@pytest.mark.parametrize("compress", [None, by_another])
def test_deep_passes_recipes_and_checks_whole_layers(tmp_path: Path, out: str, compress: object) -> None:
    write_versions(tmp_path, by_another if compress else None)
    said = pull(tmp_path, "--deep", "--allow-recompressed", out=out)
    assert "2 layers as recipes" in said
    command(tmp_path, "merge", tmp_path / "far", tmp_path / out)
    assert verify(tmp_path / "far", deep=True).is_right
