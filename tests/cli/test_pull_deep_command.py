"""`ociexport pull --deep`, `--no-deep`, their place in the environment and the configuration, and what is printed."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ociexport.spec.digest import Digest
from tests.support.command import command_environment, command_line, run_command
from tests.support.image_builder import ARM64, BuiltImage, build_artifact, build_image, build_index, write_layout
from tests.support.memory_source import member, tar_of
from tests.support.peak_memory import peak_of
from tests.support.puller import Puller

TARS = [tar_of([member("a", os.urandom(30_000))]), tar_of([member("b", b"2" * 5000)])]
SOUND = build_image(TARS)
HINT = "hint: the image itself is broken; --no-deep copies it as it is, and unpacking it fails"


def image_with_second_layer(stored: bytes) -> BuiltImage:
    def say_true(config: dict[str, Any]) -> None:
        config["rootfs"]["diff_ids"] = [str(Digest.of(tar)) for tar in TARS]

    return build_image([TARS[0], stored], compression=["gzip", "plain"], edit_config=say_true)


CUT = image_with_second_layer(gzip.compress(TARS[1])[:-9])
NO_GZIP = image_with_second_layer(b"<!DOCTYPE html>\n<html>Log in</html>")
OTHER_CONFIG = build_image(
    TARS, edit_config=lambda config: config["rootfs"].update(diff_ids=[str(Digest.of(tar)) for tar in TARS[::-1]])
)


# The number of the wrong layer, its diff_id and what it is. With one job the largest layer is fetched first.
WRONG = [
    (CUT, 2, TARS[1], "got no whole tar: gzip data: expected a complete stream, got one that ends too soon"),
    (NO_GZIP, 2, TARS[1], f"got {NO_GZIP.layers[1].digest} (HTML document, ASCII text)"),
    (OTHER_CONFIG, 1, TARS[1], f"got {Digest.of(TARS[0])}"),
]
KINDS = ["a cut stream", "no gzip", "another image's config"]


@pytest.mark.parametrize("out", ["layout", "a.tar"])
@pytest.mark.parametrize(("image", "number", "tar", "got"), WRONG, ids=KINDS)
def test_wrong_layer_is_named_and_nothing_gets_a_name(
    puller: Puller, image: BuiltImage, number: int, tar: bytes, got: str, out: str
) -> None:
    pulled = puller(puller.serve(image), "--deep", "--jobs=1", out=puller.home / out)
    layer = f"layer {number} of 2 ({image.layers[number - 1].digest})"
    assert pulled.errors == [
        f"ociexport: error: {layer}: diff_id mismatch: expected {Digest.of(tar)}, {got}",
        HINT,
    ]
    assert (pulled.code, pulled.out) == (7, "")
    puller.assert_nothing_left()


@pytest.mark.parametrize("image", [CUT, NO_GZIP, OTHER_CONFIG], ids=KINDS)
def test_archive_on_standard_output_breaks_off_before_its_names(puller: Puller, image: BuiltImage) -> None:
    ended = subprocess.run(
        command_line("pull", puller.serve(image), "-q", "--out", "-"),
        env=command_environment(puller.home, DOCKER_DEFAULT_PLATFORM="linux/amd64"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 7
    assert re.match(rb"ociexport: error: layer [12] of 2 .*: diff_id mismatch: ", ended.stderr)
    assert ended.stderr.splitlines()[1:] == [HINT.encode()]
    assert b"index.json" not in ended.stdout
    assert b"manifest.json" not in ended.stdout


def test_without_deep_a_layout_is_copied_as_it_was_published(puller: Puller) -> None:
    assert puller(puller.serve(CUT)).code == 0
    assert [entry["digest"] for entry in puller.index] == [str(CUT.digest)]


def test_archive_from_a_registry_is_deep(puller: Puller, tmp_path: Path) -> None:
    reference = puller.serve(CUT)
    archive = tmp_path / "a.tar"
    assert puller(reference, out=archive).code == 7
    assert not archive.exists()
    assert puller(reference, "--no-deep", out=archive).code == 0
    assert puller(archive, out=tmp_path / "b.tar").code == 0
    assert puller(archive, "--deep", out=tmp_path / "c.tar").code == 7
    assert not (tmp_path / "c.tar").exists()


@pytest.mark.parametrize(
    ("variables", "file", "options", "code"),
    [
        ({}, "", [], 0),
        ({"OCIEXPORT_DEEP": "1"}, "", [], 7),
        ({"OCIEXPORT_DEEP": "1"}, "", ["--no-deep"], 0),
        ({"OCIEXPORT_DEEP": "0"}, "deep = true", [], 0),
        ({"OCIEXPORT_NO_DEEP": "1"}, "deep = true", [], 0),
        ({"OCIEXPORT_NO_DEEP": "1"}, "", ["--deep"], 7),
        ({}, "deep = true", [], 7),
        ({}, "[pull]\ndeep = true", [], 7),
        ({}, "deep = true\n[pull]\ndeep = false", [], 0),
        ({}, "deep = false", ["--deep"], 7),
        ({}, "no-deep = true", [], 0),
        ({}, "deep = true", ["--no-deep"], 0),
        ({}, "deep = 'always'", [], 2),
    ],
)
def test_environment_and_file_set_the_default(
    puller: Puller, variables: dict[str, str], file: str, options: list[str], code: int
) -> None:
    reference = puller.serve(CUT)
    configuration = puller.home / "ociexport.toml"
    configuration.write_text(file)
    variables = {"DOCKER_DEFAULT_PLATFORM": "linux/amd64", "OCIEXPORT_CONFIG": str(configuration), **variables}
    ended = run_command("pull", reference, "-o", puller.layout, *options, home=puller.home, variables=variables)
    assert ended.returncode == code, ended.stderr
    assert puller.layout.exists() is (code == 0)
    assert "warning" not in ended.stderr


def test_default_of_archives_can_be_turned_off_for_good(puller: Puller) -> None:
    variables = {"DOCKER_DEFAULT_PLATFORM": "linux/amd64", "OCIEXPORT_DEEP": "false"}
    out = puller.home / "a.tar"
    assert run_command("pull", puller.serve(CUT), "-o", out, home=puller.home, variables=variables).returncode == 0


def test_all_platforms_are_proven(puller: Puller) -> None:
    wrong = build_image([b"no tar"], compression="plain", platform=ARM64, edit_config=_no_tar)
    index = build_index([SOUND, build_artifact(b"chart"), wrong])
    pulled = puller(puller.serve(index), "--all", "--deep")
    assert (pulled.code, len(pulled.errors)) == (7, 2)
    assert pulled.errors[0].startswith(
        f"ociexport: error: linux/arm64: layer 1 of 1 ({wrong.layers[0].digest}): diff_id mismatch: "
    )
    puller.assert_nothing_left()
    assert puller(puller.serve(build_index([SOUND, build_artifact(b"chart")])), "--all", "--deep").code == 0


def _no_tar(config: dict[str, Any]) -> None:
    config["rootfs"]["diff_ids"] = [str(Digest.of(TARS[0]))]


def test_good_image_beside_a_broken_one_is_pulled(puller: Puller) -> None:
    good, bad = SOUND.serve(puller.registry, "library/good"), CUT.serve(puller.registry, "library/bad")
    pulled = puller(bad, good, "--deep", "--json")
    report = json.loads(pulled.out)
    assert pulled.code == 7
    assert [(image["digest"], image["deep"]) for image in report["images"]] == [(str(SOUND.digest), True)]
    assert [failure["exitCode"] for failure in report["failures"]] == [7]
    assert [entry["digest"] for entry in puller.index] == [str(SOUND.digest)]


@pytest.mark.parametrize(
    ("options", "out", "expected"),
    [([], "layout", False), (["--deep"], "layout", True), ([], "a.tar", True), (["--no-deep"], "a.tar", False)],
)
def test_plan_and_result_say_whether_layers_are_compared(
    puller: Puller, options: list[str], out: str, expected: bool
) -> None:
    reference, place = puller.serve(SOUND), puller.home / out
    line = "  each layer is compared with its diff_id while it arrives (--deep)"
    assert (line in puller(reference, "--dry-run", *options, out=place).out.splitlines()) is expected
    plan = json.loads(puller(reference, "--dry-run", "--json", *options, out=place).out)
    assert [image["deep"] for image in plan["images"]] == [expected]
    puller.assert_nothing_left()
    result = json.loads(puller(reference, "--json", *options, out=place).out)
    assert [image["deep"] for image in result["images"]] == [expected]


def test_memory_does_not_depend_on_the_layer(tmp_path: Path) -> None:
    """Both layers are larger than what may wait in the queues."""
    peaks = []
    for number, size in enumerate((30_000_000, 120_000_000)):
        tar = tar_of([member("big", os.urandom(size))])
        write_layout(tmp_path / f"in{number}", {"1": build_image([tar], compression="zstd")})
        source = f"{tmp_path}/in{number}:1"
        measured = peak_of("pull", "-q", "--deep", source, "-o", tmp_path / f"out{number}", home=tmp_path)
        assert measured.status == 0, measured.stderr
        peaks.append(measured.peak_bytes)
    assert peaks[1] < peaks[0] + 16 * 1024 * 1024


def test_broken_pipe_stops_the_threads(puller: Puller) -> None:
    """The reader of an archive may leave: the command ends at once, also with layers that wait to be inflated."""
    image = build_image([tar_of([member("big", os.urandom(20_000_000))])])
    command = command_line("pull", puller.serve(image), "--deep", "-q", "-o", "-")
    environment = command_environment(puller.home, DOCKER_DEFAULT_PLATFORM="linux/amd64")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(timeout=30) != 0
