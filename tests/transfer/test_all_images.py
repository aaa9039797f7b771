"""`pull ./layout`: all images of a layout or an archive at once, if no name chooses one."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from ociexport.transfer.sources.names import parse_source_name
from ociexport.transfer.sources.open import SourceOpener
from tests.support.command import command_environment, command_line, run_command
from tests.support.image_builder import build_artifact, write_layout
from tests.support.saved_archives import of_docker_1_10, write_tar
from tests.support.updates import NAME, V1, V2, names_in

BOTH = {f"{NAME}:1": str(V1.digest), f"{NAME}:2": str(V2.digest)}
AMD64 = {"DOCKER_DEFAULT_PLATFORM": "linux/amd64"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {f"{NAME}:1": V1, f"{NAME}:2": V2})
    return tmp_path


def pull(place: Path, *words: str | Path, code: int = 0) -> list[str]:
    ended = run_command("pull", *words, home=place, variables=AMD64)
    assert ended.returncode == code, ended.stderr
    return ended.stdout.splitlines() if code == 0 else ended.stderr.splitlines()


def names_of(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as tar:
        entries = json.loads(tar.extractfile("index.json").read())["manifests"]  # type: ignore[union-attr]
    return {entry["annotations"]["io.containerd.image.name"]: entry["digest"] for entry in entries}


@pytest.mark.parametrize("options", [[], ["--all-images"]])
def test_a_layout_goes_into_an_archive_and_back(place: Path, options: list[str]) -> None:
    printed = pull(place, place / "layout", *options, "--out", place / "all.tar")
    assert printed == [f"{name}@{digest}" for name, digest in BOTH.items()]
    assert names_of(place / "all.tar") == BOTH
    pull(place, place / "all.tar", *options, "--out", place / "far")
    assert names_in(place / "far") == BOTH


def test_a_name_still_chooses_one(place: Path) -> None:
    assert pull(place, f"{place / 'layout'}:2", "--out", place / "one.tar") == [f"{NAME}:2@{V2.digest}"]


def test_an_archive_on_standard_input_is_read_once(place: Path) -> None:
    pull(place, place / "layout", "--out", place / "all.tar")
    ended = subprocess.run(
        command_line("pull", "-", "--all-images", "--out", place / "far"),
        env=command_environment(place, **AMD64),
        input=(place / "all.tar").read_bytes(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert len(ended.stdout.splitlines()) == 2
    assert names_in(place / "far") == BOTH


def test_an_archive_of_docker_save_keeps_all_its_tags(place: Path) -> None:
    write_tar(place / "saved.tar", of_docker_1_10(tags=["app:1", "app:2", "other:3"]))
    pull(place, place / "saved.tar", "--out", place / "far")
    assert list(names_in(place / "far")) == [f"docker.io/library/{name}" for name in ("app:1", "app:2", "other:3")]


def test_companions_come_only_when_everything_is_asked_for(place: Path) -> None:
    signature = build_artifact(b"signature")
    tag = f"sha256-{V2.digest.encoded}.sig"
    write_layout(place / "layout", {f"{NAME}:1": V1, f"{NAME}:2": V2, tag: signature})
    assert len(pull(place, place / "layout", "--out", place / "main")) == 2
    assert len(pull(place, place / "layout", "--all-images", "--out", place / "everything")) == 3
    assert len(json.loads((place / "everything" / "index.json").read_bytes())["manifests"]) == 3


def test_one_that_fails_does_not_stop_the_others(place: Path) -> None:
    (place / "layout" / "blobs" / "sha256" / V1.layers[2].digest.encoded).unlink()
    said = pull(place, place / "layout", "--out", place / "far", code=3)
    assert any(
        f"ociexport: error: image '{place / 'layout'}:{NAME}:1': " in line or "not in the layout" in line
        for line in said
    )
    assert names_in(place / "far") == {f"{NAME}:2": str(V2.digest)}


def test_an_archive_holds_all_or_does_not_appear(place: Path) -> None:
    (place / "layout" / "blobs" / "sha256" / V1.layers[2].digest.encoded).unlink()
    pull(place, place / "layout", "--out", place / "all.tar", code=3)
    assert not (place / "all.tar").exists()


@pytest.mark.parametrize("source", ["registry.example.test/app:1", "LAYOUT:2"])
def test_all_images_is_for_a_layout_or_an_archive(place: Path, source: str) -> None:
    source = source.replace("LAYOUT", str(place / "layout"))
    said = pull(place, source, "--all-images", "--out", place / "far", code=2)
    assert said == [f"ociexport: error: --all-images: expected a layout or an archive, got '{source}'"]


def test_a_dry_run_plans_all(place: Path) -> None:
    printed = "\n".join(pull(place, place / "layout", "--out", place / "all.tar", "--dry-run"))
    assert printed.count("image /") == 2


def test_all_are_thin(place: Path) -> None:
    pull(place, place / "layout", "--since", f"{place / 'layout'}:1", "--out", place / "update.tar")
    with tarfile.open(place / "update.tar") as tar:
        bundle = json.loads(tar.extractfile("bundle.json").read())  # type: ignore[union-attr]
    assert [image["name"] for image in bundle["images"]] == list(BOTH)
    assert len(bundle["expected"]) == 3


def test_sources_stay_usable_until_the_opener_is_closed(place: Path) -> None:
    pull(place, place / "layout", "--out", place / "all.tar")
    opener = SourceOpener()
    names = opener.name_each(parse_source_name(str(place / "all.tar")), everything=False)
    sources = [opener.open(name) for name in names]
    sources[0].close()
    assert sources[1].fetch_manifest().digest == V2.digest
    opener.close()
