"""Several entries of ``index.json`` under one name: the platform selects one, and signatures are no images.

The layouts are what `crane pull --format=oci` twice, `hauler store add image` and `cosign save` write.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

import ociexport
from ociexport.cli.main import main
from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform
from tests.support.image_builder import BuiltImage, build_artifact, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.platform_commands import COMMANDS

HOST = host_platform()
S390X = Platform("linux", "s390x")
NATIVE = build_image([[member("arch", b"native")]], platform=HOST)
OTHER = build_image([[member("arch", b"other")]], platform=S390X)
TWIN = build_image([[member("arch", b"twin")]], platform=HOST)
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = build_image(
    [b'{"critical":{}}'],
    compression="plain",
    edit_manifest=lambda manifest: manifest["layers"][0].update(mediaType=SIMPLE_SIGNING),
)
SBOM = build_artifact(b"sbom", artifact_type="application/spdx+json")
NAME = {"org.opencontainers.image.ref.name": "x/y:1", "io.containerd.image.name": "ghcr.io/x/y:1"}
CRANE = {"org.opencontainers.image.ref.name": "ghcr.io/x/y:1"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_DEFAULT_PLATFORM", raising=False)


def write(*entries: tuple[BuiltImage, dict[str, Any]], platforms: bool = True) -> None:
    """Write the layout ``l`` with these entries, each with members of its descriptor, and an archive of it."""
    write_layout("l", {str(number): image for number, (image, _) in enumerate(entries)})
    index = json.loads(Path("l/index.json").read_text())
    for listed, (_, members) in zip(index["manifests"], entries, strict=True):
        if not platforms:
            listed.pop("platform", None)
        listed.pop("annotations")
        listed.update(members)
    Path("l/index.json").write_text(json.dumps(index))
    with tarfile.open("l.tar", "w") as tar:
        for path in sorted(Path("l").rglob("*")):
            tar.add(path, str(path.relative_to("l")), recursive=False)


def named(
    image: BuiltImage, annotations: dict[str, str] | None = None, **more: Any
) -> tuple[BuiltImage, dict[str, Any]]:
    notes = NAME if annotations is None else annotations
    return image, {**({"annotations": notes} if notes else {}), **more}


def hauler(image: BuiltImage, kind: str) -> tuple[BuiltImage, dict[str, Any]]:
    return named(image, {**NAME, "kind": kind})


@pytest.mark.parametrize("platforms", [True, False])
@pytest.mark.parametrize("notes", [NAME, CRANE, {}])
@pytest.mark.parametrize("where", ["./l", "./l.tar"])
@pytest.mark.parametrize("command", COMMANDS)
def test_platform_selects_one_of_two(command: str, where: str, notes: dict[str, str], platforms: bool) -> None:
    write(named(OTHER, notes), named(NATIVE, notes), platforms=platforms)
    source = f"{where}:ghcr.io/x/y:1" if notes else where
    assert main([*command.format(source).split(), "--platform", str(HOST)]) == 0
    assert (
        main([*command.format(source).replace("out", "two").replace("root", "two").split(), "--platform", "s390x"]) == 0
    )


@pytest.mark.parametrize("platform", [HOST, S390X])
def test_selected_image_is_the_right_one(capsys: pytest.CaptureFixture[str], platform: Platform) -> None:
    write(named(OTHER), named(NATIVE), platforms=False)
    image = NATIVE if platform == HOST else OTHER
    source = "./l:ghcr.io/x/y:1"
    assert main(["pull", source, "-o", "out", "-q", "--platform", str(platform)]) == 0
    (entry,) = json.loads(Path("out/index.json").read_text())["manifests"]
    assert (entry["digest"], entry["annotations"]) == (str(image.digest), NAME)
    assert capsys.readouterr().out == f"ghcr.io/x/y:1@{image.digest}\n"
    unpacked = ociexport.unpack(source, "root", platform=platform)
    assert (unpacked.manifest_digest, unpacked.index_digests) == (image.digest, ())
    assert main(["inspect", source, "--json", "--platform", str(platform)]) == 0
    told = capsys.readouterr().out
    assert str(image.digest) in told
    assert main(["inspect", source, "--raw", "--platform", str(platform)]) == 0
    assert capsys.readouterr().out.encode() == image.raw


@pytest.mark.parametrize("notes", [NAME, {}])
def test_this_machine_s_platform_is_the_default(notes: dict[str, str]) -> None:
    write(named(OTHER, notes), named(NATIVE, notes))
    assert ociexport.unpack("./l", "root").manifest_digest == NATIVE.digest


def test_platform_that_none_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write(named(OTHER), named(NATIVE))
    for command in COMMANDS:
        capsys.readouterr()
        assert main([*command.format("./l:ghcr.io/x/y:1").split(), "--platform", "linux/riscv64"]) == 10, command
        assert f"linux/riscv64, there are: linux/s390x, {HOST}" in capsys.readouterr().err or "verify" in command


def test_all_platforms_become_one_index() -> None:
    write(named(OTHER), named(NATIVE), hauler(SIGNATURE, "dev.hauler/sigs"))
    assert main(["pull", "./l:ghcr.io/x/y:1", "-o", "out", "--all"]) == 0
    assert main(["verify", "./out"]) == 0
    for platform, image in ((HOST, NATIVE), (S390X, OTHER)):
        shutil.rmtree("root", ignore_errors=True)
        assert ociexport.unpack("./out:ghcr.io/x/y:1", "root", platform=platform).manifest_digest == image.digest
    assert main(["pull", "./l:ghcr.io/x/y:1", "-o", "two", "--platform", f"s390x,{HOST}"]) == 0


COMPANIONS = {
    "hauler": hauler(SIGNATURE, "dev.hauler/sigs"),
    "hauler's attestation": hauler(SIGNATURE, "dev.hauler/atts"),
    "hauler's SBOM": hauler(SBOM, "dev.hauler/sboms"),
    "cosign": hauler(SIGNATURE, "dev.cosignproject.cosign/sigs"),
    "artifactType": named(SBOM, artifactType="application/spdx+json"),
    "config type": named(SBOM),
    "layer type": named(SIGNATURE),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("which", COMPANIONS)
@pytest.mark.parametrize("where", ["./l", "./l:ghcr.io/x/y:1", "./l.tar:x/y:1"])
def test_signature_under_the_image_s_name_is_no_image(where: str, which: str, order: int) -> None:
    write(*[named(NATIVE), COMPANIONS[which]][::order])
    assert ociexport.unpack(where, "root").manifest_digest == NATIVE.digest
    assert main(["verify", "./l"]) == 0
    assert main(["pull", where, "-o", "out"]) == 0


def test_several_companions_are_no_clash(capsys: pytest.CaptureFixture[str]) -> None:
    write(COMPANIONS["layer type"], COMPANIONS["config type"], named(NATIVE), COMPANIONS["hauler"], named(OTHER))
    assert main(["verify", "./l"]) == 0
    assert ociexport.unpack("./l:ghcr.io/x/y:1", "root").manifest_digest == NATIVE.digest


def test_signatures_of_the_name_are_copied_with_the_image() -> None:
    other = {"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": "ghcr.io/x/z:1"}
    write(
        hauler(NATIVE, "dev.hauler/image"), COMPANIONS["hauler"], (SBOM, {"annotations": {**other, "kind": "a/sigs"}})
    )
    pulled = ociexport.pull("./l:ghcr.io/x/y:1", "out", referrers=True)
    assert pulled.companions == (SIGNATURE.digest,)
    listed = json.loads(Path("out/index.json").read_text())["manifests"]
    assert [entry["annotations"].get("kind") for entry in listed] == ["dev.hauler/sigs", None]
    assert ociexport.unpack("./out", "root").manifest_digest == NATIVE.digest


@pytest.mark.parametrize("platforms", [True, False])
@pytest.mark.parametrize("where", ["./l:ghcr.io/x/y:1", "./l"])
def test_two_images_for_one_platform_are_not_guessed(
    capsys: pytest.CaptureFixture[str], where: str, platforms: bool
) -> None:
    write(named(OTHER), named(NATIVE), named(TWIN), platforms=platforms)
    name = " 'ghcr.io/x/y:1'" if ":g" in where else ""
    there = f"@{NATIVE.digest} ({HOST}), @{TWIN.digest} ({HOST})"
    told = [
        f"ociexport: error: ./l: expected one image{name}, there are: {there}",
        f"hint: name one of them, for example ./l:@{NATIVE.digest}",
    ]
    for command in (*COMMANDS[:-4], "pull {} -o out --all"):
        if command.startswith("inspect"):
            continue
        capsys.readouterr()
        assert main(command.format(where).split()) == 2
        assert [
            line for line in capsys.readouterr().err.splitlines() if line.startswith(("ociexport: e", "hint"))
        ] == told
    assert main(["verify", where]) == 7
    assert "another image" in (out := capsys.readouterr().out) or "expected one image" in out
    # The ways that the hint names, and the platform that only one image has.
    assert ociexport.unpack(f"./l:@{NATIVE.digest}", "a").manifest_digest == NATIVE.digest
    assert ociexport.unpack("./l:@2", "b").manifest_digest == TWIN.digest
    assert ociexport.unpack(where, "c", platform=S390X).manifest_digest == OTHER.digest


def test_tag_of_two_repositories_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    """Different names with the same tag are different images, whatever their platforms."""
    write(
        named(OTHER, {"io.containerd.image.name": "a.example/x:1"}),
        named(NATIVE, {"io.containerd.image.name": "b.example/x:1"}),
    )
    assert main(["unpack", "./l:1", "root"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "hint: name one of them, for example ./l:a.example/x:1"


def test_names_that_there_are_are_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    write(named(NATIVE), COMPANIONS["hauler"])
    assert main(["unpack", "./l:none", "root"]) == 3
    assert capsys.readouterr().err.splitlines()[0].endswith("expected image 'none', there are: ghcr.io/x/y:1")


def test_index_and_its_own_manifest_are_one_image() -> None:
    index = build_index([OTHER, NATIVE])
    write(named(index), named(NATIVE))
    assert ociexport.unpack("./l:ghcr.io/x/y:1", "root").manifest_digest == NATIVE.digest
    write(named(index), named(TWIN))
    assert main(["unpack", "./l:ghcr.io/x/y:1", "two"]) == 2
    assert main(["verify", "./l"]) == 7


def test_inspect_lists_what_shares_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    write(named(OTHER), named(NATIVE))
    for source in ("./l", "./l:ghcr.io/x/y:1"):
        assert main(["inspect", source]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(" ")[0] for line in lines] == [str(OTHER.digest), str(NATIVE.digest)]


def test_damaged_entry_is_no_reason_to_guess() -> None:
    write(named(OTHER), named(NATIVE))
    for image in (OTHER, NATIVE):
        (Path("l/blobs/sha256") / image.digest.encoded).unlink()
    assert main(["unpack", "./l:ghcr.io/x/y:1", "root"]) == 3
    write(named(OTHER), named(NATIVE), platforms=False)
    (Path("l/blobs/sha256") / OTHER.digest.encoded).write_bytes(b"{}")
    assert ociexport.unpack("./l:ghcr.io/x/y:1", "root").manifest_digest == NATIVE.digest
    assert main(["verify", "./l"]) == 7
