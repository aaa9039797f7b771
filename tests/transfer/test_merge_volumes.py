"""`merge FAR VOLUME…`: in any order, one at a time or together; a damaged or missing volume is named, and only it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from ociexport.errors import UsageError
from ociexport.transfer.bundle.merge import MergeResult, merge
from ociexport.verification.garbage import collect_garbage
from ociexport.verification.verify import verify
from tests.support.command import run_command
from tests.support.image_builder import build_image
from tests.support.updates import NAME, V1, V2, blobs_in, layer, names_in, write_whole
from tests.support.volumes import bundle_of, pull_volumes, volumes_of, write_volumes

IMAGE = build_image([layer("big", 70_000), layer("small", 500), layer("other", 20_000)])
WHOLE = ({f"{NAME}:1": str(IMAGE.digest)}, IMAGE.all_digests)
SIZE = 38_000


@pytest.fixture
def volumes(tmp_path: Path) -> list[Path]:
    """Return four volumes; the first three have ranges of one blob."""
    made = write_volumes(tmp_path / "u.tar", IMAGE, "1", SIZE)
    assert len(made) == 4
    assert [len(bundle_of(path)["volume"]["ranges"]) for path in made] == [1, 1, 1, 0]
    return made


def merge_into(far: Path, *bundles: Path) -> MergeResult:
    return merge(far, map(str, bundles))


def state_of(far: Path) -> object:
    return names_in(far), blobs_in(far)


def assert_is_whole(far: Path) -> None:
    assert state_of(far) == WHOLE
    assert verify(far).is_right
    assert sorted(path.name for path in far.iterdir()) == ["blobs", "index.json", "oci-layout"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_one_at_a_time_in_any_order(tmp_path: Path, volumes: list[Path], order: Sequence[int]) -> None:
    far = tmp_path / "far"
    for count, number in enumerate(order, start=1):
        result = merge_into(far, volumes[number])
        assert len(result.images) == 1
        rest = {path for other, path in enumerate(volumes) if other not in order[:count]}
        assert {*result.volumes_to_come} == {*map(str, rest)}
        assert verify(far).is_right
        if rest:
            assert names_in(far) == {}
    assert_is_whole(far)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_together_in_any_order(tmp_path: Path, volumes: list[Path], order: Sequence[int]) -> None:
    result = merge_into(tmp_path / "far", *(volumes[number] for number in order))
    assert (result.waiting, result.unreadable, result.volumes_to_come) == ((), (), ())
    assert len(result.images) == 1
    assert_is_whole(tmp_path / "far")


def test_some_and_then_the_others(tmp_path: Path, volumes: list[Path]) -> None:
    far = tmp_path / "far"
    merge_into(far, volumes[2])
    merge_into(far, volumes[0], volumes[1], volumes[3])
    assert_is_whole(far)


def test_twice_is_harmless(tmp_path: Path, volumes: list[Path]) -> None:
    far = tmp_path / "far"
    for path in (volumes[1], volumes[1], volumes[3], volumes[3], *volumes, *volumes):
        merge_into(far, path)
    assert_is_whole(far)
    result = merge_into(far, *volumes)
    assert (result.added_blobs, result.waiting) == (0, ())
    assert_is_whole(far)


def test_on_top_of_what_the_far_side_has(tmp_path: Path) -> None:
    write_whole(tmp_path / "far", V1, "1")
    made = write_volumes(tmp_path / "u.tar", V2, "2", 20_000, tmp_path / "far")
    for path in reversed(made):
        merge_into(tmp_path / "far", path)
    assert names_in(tmp_path / "far") == {f"{NAME}:1": str(V1.digest), f"{NAME}:2": str(V2.digest)}
    assert verify(tmp_path / "far").is_right


def test_an_image_that_is_complete_is_usable_before_the_others(tmp_path: Path) -> None:
    two = build_image([layer("two", 90_000)])
    pull_volumes(tmp_path / "u.tar", [(build_image([layer("one", 20_000)]), "one"), (two, "two")], 60_000)
    first, *others = volumes_of(tmp_path / "u.tar")
    result = merge_into(tmp_path / "far", first)
    assert list(names_in(tmp_path / "far")) == [f"{NAME}:one"]
    assert {*result.volumes_to_come} == {*map(str, others)}
    merge_into(tmp_path / "far", *others)
    assert sorted(names_in(tmp_path / "far")) == [f"{NAME}:one", f"{NAME}:two"]


def command(place: Path, *words: str | Path, code: int = 0) -> tuple[str, list[str]]:
    ended = run_command(*words, home=place, cwd=place)
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr.splitlines()


def test_a_missing_volume_is_named(tmp_path: Path, volumes: list[Path]) -> None:
    names = [path.name for path in volumes]
    printed, said = command(tmp_path, "merge", "far", names[0], names[2], names[3], code=7)
    big = IMAGE.layers[0]
    length = bundle_of(volumes[1])["volume"]["ranges"][0]["length"]
    assert printed == ""
    assert [line for line in said if "error" in line] == [
        f"ociexport: error: {names[0]}: {NAME}:1: layer 1 of 3 ({big.digest}): "
        f"{big.size - length} of {big.size} bytes there; {names[1]} should have the rest of it"
    ]
    assert said[-2] == f"ociexport: far: volumes to come: {names[1]}"
    printed, said = command(tmp_path, "merge", "far", names[1])
    assert printed == f"{NAME}:1@{IMAGE.digest}\n"
    assert_is_whole(tmp_path / "far")


def test_several_missing_blobs_of_missing_volumes_are_one_line_an_image(tmp_path: Path, volumes: list[Path]) -> None:
    names = [path.name for path in volumes]
    _, said = command(tmp_path, "merge", "far", names[2], code=7)
    assert [line for line in said if "error" in line] == [
        f"ociexport: error: {names[2]}: {NAME}:1: 2 blobs not there or not whole; "
        f"{names[0]}, {names[1]}, {names[3]} should have them"
    ]


def test_json_names_it_too(tmp_path: Path, volumes: list[Path]) -> None:
    result = json.loads(command(tmp_path, "merge", "far", volumes[0].name, volumes[2].name, "--json", code=7)[0])
    assert result["volumesToCome"] == [volumes[1].name, volumes[3].name]
    assert [blob["bundles"] for blob in result["images"][0]["missing"]] == [
        [volumes[1].name],
        [volumes[3].name],
    ]


def _content_places(volume: Path) -> dict[str, int]:
    """Return the offsets of the middle of each file's content in a volume."""
    with tarfile.open(volume) as tar:
        return {item.name: item.offset_data + item.size // 2 for item in tar if item.isreg()}


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_volume_is_named_and_only_it_has_to_come_again(
    tmp_path: Path, volumes: list[Path], number: int
) -> None:
    """Whichever byte of a file in it is changed."""
    good = volumes[number].read_bytes()
    harmless = set()
    for turn, (file, place) in enumerate(_content_places(volumes[number]).items()):
        bad = bytearray(good)
        bad[place] ^= 0x55
        volumes[number].write_bytes(bad)
        far = tmp_path / f"far{turn}"
        names = [path.name for path in volumes]
        try:
            _, said = command(tmp_path, "merge", far.name, *names, code=7)
        except AssertionError:
            # A member of a document that is of no use to merge: all that counts is verified.
            harmless.add(file)
            assert_is_whole(far)
            volumes[number].write_bytes(good)
            continue
        errors = [line for line in said if "error" in line]
        assert errors
        assert all(names[number] in line for line in errors), (file, errors)
        assert names_in(far) == {}
        (to_come,) = [line for line in said if "volumes to come" in line]
        assert to_come.endswith(f"volumes to come: {names[number]}"), file
        volumes[number].write_bytes(good)
        command(tmp_path, "merge", far.name, names[number])
        assert_is_whole(far)
    assert harmless <= {"oci-layout", "manifest.json", "bundle.json", "index.json"}


def test_a_truncated_volume_is_named(tmp_path: Path, volumes: list[Path]) -> None:
    good = volumes[1].read_bytes()
    volumes[1].write_bytes(good[:20_000])
    _, said = command(tmp_path, "merge", "far", *(path.name for path in volumes), code=7)
    assert any(line.startswith(f"ociexport: error: {volumes[1].name}: expected a tar") for line in said)
    volumes[1].write_bytes(good)
    command(tmp_path, "merge", "far", volumes[1].name)
    assert_is_whole(tmp_path / "far")


def test_volumes_of_two_sets_are_told_in_one_line_and_nothing_is_written(tmp_path: Path, volumes: list[Path]) -> None:
    (tmp_path / "b").mkdir()
    others = write_volumes(tmp_path / "b" / "u.tar", V1, "1", SIZE)
    _, said = command(tmp_path, "merge", "far", volumes[0].name, f"b/{others[1].name}", code=2)
    assert said == [
        f"ociexport: error: 'b/{others[1].name}': expected a volume of the set of '{volumes[0].name}', "
        "got one of another set",
        "hint: give the volumes of each set in a run of its own",
    ]
    assert not (tmp_path / "far").exists()
    with pytest.raises(UsageError, match="got one of another set"):
        merge_into(tmp_path / "far", others[0], volumes[0])


def test_sets_of_other_sizes_complete_each_other(tmp_path: Path, volumes: list[Path]) -> None:
    """Ranges overlap then; what is there stays as it is."""
    (tmp_path / "b").mkdir()
    others = write_volumes(tmp_path / "b" / "u.tar", IMAGE, "1", 50_000)
    far = tmp_path / "far"
    merge_into(far, volumes[1])
    for path in others:
        merge_into(far, path)
    assert_is_whole(far)


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path, volumes: list[Path]) -> None:
    far = tmp_path / "far"
    planned = merge(far, map(str, volumes), dry_run=True)
    assert (planned.waiting, planned.added_blobs) == ((), 4)
    assert not far.exists()
    merge_into(far, volumes[0], volumes[3])
    before = {path: path.read_bytes() for path in far.rglob("*") if path.is_file()}
    planned = merge(far, [str(volumes[2])], dry_run=True)
    assert planned.volumes_to_come == (str(volumes[1]),)
    planned = merge(far, [str(volumes[2]), str(volumes[1])], dry_run=True)
    assert planned.waiting == ()
    assert {path: path.read_bytes() for path in far.rglob("*") if path.is_file()} == before


def test_what_waits_takes_no_more_space_than_its_bytes(tmp_path: Path) -> None:
    image = build_image([layer("large", 4_000_000)])
    made = write_volumes(tmp_path / "u.tar", image, "1", 1_100_000)
    merge_into(tmp_path / "far", made[-1])
    (file,) = [path for path in (tmp_path / "far" / ".ociexport" / "ranges").iterdir() if path.suffix != ".json"]
    assert file.stat().st_size == image.layers[0].size
    assert file.stat().st_blocks * 512 < 1_400_000


def test_garbage_collection_keeps_ranges_that_an_image_waits_for(tmp_path: Path, volumes: list[Path]) -> None:
    far = tmp_path / "far"
    merge_into(far, volumes[0])
    assert collect_garbage(far).dropped == ()
    merge_into(far, *volumes[1:])
    assert_is_whole(far)


def test_garbage_collection_drops_ranges_that_nothing_needs(tmp_path: Path, volumes: list[Path]) -> None:
    far = tmp_path / "far"
    write_whole(far, V1, "other")
    merge_into(far, volumes[0])
    os.unlink(far / ".ociexport" / "pending.json")
    assert sum("ranges/" in file.path for file in collect_garbage(far, dry_run=True).dropped) == 2
    collect_garbage(far)
    assert not (far / ".ociexport").exists()


def test_a_blob_that_comes_whole_another_way_frees_its_ranges(tmp_path: Path, volumes: list[Path]) -> None:
    far = tmp_path / "far"
    merge_into(far, volumes[0])
    merge_into(far, write_whole(tmp_path / "whole", IMAGE, "1"))
    assert_is_whole(far)


def test_an_extracted_volume_is_merged_too(tmp_path: Path, volumes: list[Path]) -> None:
    for path in volumes:
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / path.stem, filter="data")
        merge_into(tmp_path / "far", tmp_path / path.stem)
    assert_is_whole(tmp_path / "far")


def test_a_damaged_list_of_ranges_is_made_anew(tmp_path: Path, volumes: list[Path]) -> None:
    far = tmp_path / "far"
    merge_into(far, volumes[0], volumes[1])
    (listed,) = (far / ".ociexport" / "ranges").glob("*.json")
    listed.write_bytes(b"{")
    assert merge_into(far, *volumes[2:]).waiting
    merge_into(far, *volumes[:2])
    assert_is_whole(far)


def test_ranges_that_are_another_blob_together_are_removed(tmp_path: Path, volumes: list[Path]) -> None:
    far = tmp_path / "far"
    merge_into(far, volumes[0], volumes[1])
    (file,) = [path for path in (far / ".ociexport" / "ranges").iterdir() if path.suffix != ".json"]
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    _, said = command(tmp_path, "merge", "far", *(path.name for path in volumes[2:]), code=7)
    assert any("digest mismatch" in line for line in said)
    assert not (far / ".ociexport" / "ranges").exists()
    command(tmp_path, "merge", "far", *(path.name for path in volumes[:3]))
    assert_is_whole(far)


def test_verify_notes_what_waits(tmp_path: Path, volumes: list[Path]) -> None:
    merge_into(tmp_path / "far", volumes[0])
    printed, _ = command(tmp_path, "verify", "./far")
    length = bundle_of(volumes[0])["volume"]["ranges"][0]["length"]
    (line,) = [line for line in printed.splitlines() if "ranges/" in line]
    assert line == (
        f"note: .ociexport/ranges/sha256-{IMAGE.layers[0].digest.encoded}: "
        f"{length} of {IMAGE.layers[0].size} bytes of a blob; other volumes have the rest"
    )
    shutil.rmtree(tmp_path / "far" / ".ociexport")
