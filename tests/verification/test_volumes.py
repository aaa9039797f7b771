"""`verify VOLUME…`: of one, some or all volumes of a set, it says what is whole, and names a damaged volume."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from ociexport.verification.findings import Kind
from ociexport.verification.verify import Verification, verify
from tests.support.command import command_line, run_command
from tests.support.image_builder import build_image
from tests.support.updates import NAME, V1, V2, have, layer, write_whole
from tests.support.volumes import bundle_of, pull_volumes, volumes_of, write_volumes

ONE = build_image([layer("one", 20_000)])
TWO = build_image([layer("big", 70_000), layer("small", 500), layer("other", 20_000)])
SIZE = 62_000


@pytest.fixture
def volumes(tmp_path: Path) -> list[Path]:
    """Return volumes: the first completes one image, the others have ranges and blobs of another."""
    pull_volumes(tmp_path / "u.tar", [(ONE, "one"), (TWO, "two")], SIZE)
    made = volumes_of(tmp_path / "u.tar")
    assert len(made) == 3
    return made


def checked(paths: Sequence[Path]) -> Verification:
    return verify([str(path) for path in paths]) if len(paths) > 1 else verify(paths[0])


def command(place: Path, *words: str, code: int = 0) -> tuple[list[str], str]:
    ended = run_command("verify", *words, home=place, cwd=place)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout.splitlines(), ended.stderr


@pytest.mark.parametrize(
    "numbers", [some for count in (1, 2, 3) for some in itertools.permutations(range(3), count)], ids=str
)
def test_one_some_or_all_are_right_and_the_others_are_named(volumes: list[Path], numbers: tuple[int, ...]) -> None:
    found = checked([volumes[number] for number in numbers])
    assert found.is_right, [str(finding) for finding in found.findings]
    assert found.volumes is not None
    assert found.volumes.given == tuple(sorted(number + 1 for number in numbers))
    assert found.volumes.to_come == tuple(str(path) for number, path in enumerate(volumes) if number not in numbers)
    whole = [f"{NAME}:one"] if 0 in numbers else []
    assert list(found.volumes.whole) == ([f"{NAME}:one", f"{NAME}:two"] if len(numbers) == 3 else whole)


def test_all_of_them_are_hashed_whole(volumes: list[Path]) -> None:
    found = checked(volumes)
    assert (found.findings, found.expected) == ((), ())
    assert found.blobs == 4  # configs are documents
    deep = verify([str(path) for path in volumes], deep=True)
    assert (deep.is_right, deep.layers) == (True, 4)


def test_the_command_says_what_is_whole(tmp_path: Path, volumes: list[Path]) -> None:
    names = [path.name for path in volumes]
    printed, said = command(tmp_path, names[0], names[2])
    assert f"note: {NAME}:two: needs {names[1]}" in printed
    assert any(line.endswith(f": in {names[1]}, which was not given") for line in printed)
    end = "; volumes 1, 3 of 3, 1 blob (70.2 kB) needs the others: 1 of 2 images whole: no problems found"
    assert said.splitlines()[-1].endswith(end)
    printed, said = command(tmp_path, *names)
    assert printed == []
    assert said.splitlines()[-1].endswith("; all 3 volumes: 2 of 2 images whole: no problems found")


def test_json_has_the_same(tmp_path: Path, volumes: list[Path]) -> None:
    names = [path.name for path in volumes]
    found = json.loads("\n".join(command(tmp_path, names[2], names[0], "--json")[0]))
    assert found["right"] is True
    assert found["sources"] == [names[2], names[0]]
    assert {name: value for name, value in found["volumes"].items() if name != "set"} == {
        "count": 3,
        "given": [1, 3],
        "toCome": [names[1]],
        "blobsToCome": 1,
        "bytesToCome": TWO.layers[0].size,
        "wholeImages": [f"{NAME}:one"],
    }


def _files_of(volume: Path) -> dict[str, int]:
    """Return the offsets of the middle of each file's content in a volume."""
    with tarfile.open(volume) as tar:
        return {item.name: item.offset_data + item.size // 2 for item in tar if item.isreg()}


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_damaged_volume_is_named(volumes: list[Path], number: int, is_alone: bool) -> None:
    """Whichever file in it is damaged, and also where the other volumes have the same file."""
    volume = volumes[number]
    good = volume.read_bytes()
    for file, place in _files_of(volume).items():
        if file == "manifest.json" or (is_alone and file in ("bundle.json", "index.json")):
            continue  # of which a changed letter may still be a true statement
        bad = bytearray(good)
        bad[place] ^= 0x55
        volume.write_bytes(bad)
        found = checked([volume] if is_alone else volumes)
        wrong = [finding for finding in found.findings if finding.is_wrong]
        assert wrong, file
        if not is_alone and number:
            assert all(str(volume) in str(finding) for finding in wrong), (file, [str(finding) for finding in wrong])
    volume.write_bytes(good)


def test_a_truncated_volume_counts_as_one_that_was_not_given(volumes: list[Path]) -> None:
    volumes[1].write_bytes(volumes[1].read_bytes()[:20_000])
    found = checked(volumes)
    wrong = [str(finding) for finding in found.findings if finding.is_wrong]
    assert len(wrong) == 1
    assert wrong[0].startswith(f"wrong: {volumes[1]}: expected a tar")
    assert found.volumes is not None
    assert found.volumes.to_come == (str(volumes[1]),)


def test_a_blob_that_should_be_in_a_volume_and_is_not_is_a_problem(tmp_path: Path, volumes: list[Path]) -> None:
    with tarfile.open(volumes[0]) as tar:
        (layer_file,) = [name for name in tar.getnames() if name.endswith(ONE.layers[0].digest.encoded)]
        tar.extractall(tmp_path / "files", filter="data")
    (tmp_path / "files" / layer_file).unlink()
    with tarfile.open(volumes[0], "w") as tar:
        for path in sorted((tmp_path / "files").iterdir()):
            tar.add(path, path.name)
    for paths in (volumes[:1], volumes):
        wrong = [finding for finding in checked(paths).findings if finding.is_wrong]
        assert {(finding.kind, finding.digest) for finding in wrong} >= {(Kind.MISSING, ONE.layers[0].digest)}


def test_volumes_of_two_sets_are_told_in_one_line(tmp_path: Path, volumes: list[Path]) -> None:
    (other, *_) = write_volumes(tmp_path / "v.tar", V1, "1", 40_000)
    _, said = command(tmp_path, volumes[0].name, other.name, code=2)
    assert said.splitlines()[0] == (
        f"ociexport: error: '{other.name}': expected a volume of the set of '{volumes[0].name}', got one of another set"
    )


@pytest.mark.parametrize("other", ["whole.tar", "./layout", "docker.io/library/app:1"])
def test_several_sources_that_are_no_volumes_are_refused(tmp_path: Path, volumes: list[Path], other: str) -> None:
    write_whole(tmp_path / "layout", V1)
    subprocess.run(command_line("pull", tmp_path / "layout", "-q", "--all", "-o", tmp_path / "whole.tar"), check=True)
    _, said = command(tmp_path, volumes[0].name, other, code=2)
    assert said.splitlines()[0] == (
        f"ociexport: error: '{other}': expected a volume, since several sources are given, got something else"
    )


def test_against_proves_what_the_far_side_has(tmp_path: Path) -> None:
    write_whole(tmp_path / "v1", V1)
    made = [str(path) for path in write_volumes(tmp_path / "u.tar", V2, "2", 20_000, tmp_path / "v1")]
    held = have(tmp_path / "v1")
    assert verify(made, against=lambda _: held).is_right
    less = have(write_whole(tmp_path / "less", ONE))
    assert not verify(made, against=lambda _: less).is_right
    found = verify(made[:1], against=lambda _: held)
    wrong = [finding for finding in found.findings if finding.is_wrong]
    assert [finding.digest for finding in wrong] == [V2.layers[2].digest]
    assert wrong[0].message.endswith("which were not given" if len(made) > 2 else "which was not given")


def test_a_renamed_volume_names_the_others_by_number(tmp_path: Path, volumes: list[Path]) -> None:
    shutil.copy(volumes[0], tmp_path / "monday.tar")
    found = verify(tmp_path / "monday.tar")
    assert found.volumes is not None
    assert found.volumes.to_come == ("volume 2 of 3", "volume 3 of 3")
    assert bundle_of(tmp_path / "monday.tar")["volume"]["count"] == 3
