"""`ociexport inspect`: output for people, for scripts, and byte for byte."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.inspection.test_inspect import INDEX, with_history
from tests.support.command import command_environment, command_line, run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import ARM64, BuiltImage, build_artifact, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.system_parts import OCIEXPORT, docker_registry, require, run

AMD64_OPTION = ("--platform", "linux/amd64")


def full_config(config: dict[str, Any]) -> None:
    with_history(config)
    config["author"] = "somebody"
    config["config"].update(
        Entrypoint=["/entry point", "-x"],
        User="1000:50",
        WorkingDir="/srv",
        ExposedPorts={"80/tcp": {}},
        Volumes={"/data": {}},
        Labels={"b": "2", "a": "1"},
        StopSignal="SIGINT",
    )


IMAGE = build_image(
    [[member("a")], [member("b")]],
    edit_config=full_config,
    edit_manifest=lambda manifest: manifest.update(annotations={"org.example": "x"}),
)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "layout", {"1": IMAGE, "all": INDEX})
    return tmp_path / "layout"


def inspect_bytes(home: Path, *arguments: str | Path) -> bytes:
    """Return the undecoded output of ``inspect``."""
    command = command_line("inspect", *arguments)
    return subprocess.run(command, env=command_environment(home), capture_output=True, check=True, timeout=60).stdout


def test_image_is_told_line_by_line(layout: Path, tmp_path: Path) -> None:
    ended = run_command("inspect", f"{layout}:1", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    first, second = IMAGE.layers
    assert ended.stdout == (
        f"name:          {layout}:1\n"
        f"digest:        {IMAGE.digest}\n"
        "media type:    application/vnd.oci.image.manifest.v1+json\n"
        "annotations:\n"
        "  org.example=x\n"
        "platform:      linux/amd64\n"
        f"config:        {IMAGE.config.digest}  application/vnd.oci.image.config.v1+json\n"
        "created:       2024-11-05T22:03:34Z\n"
        "author:        somebody\n"
        "user:          1000:50\n"
        "working dir:   /srv\n"
        "stop signal:   SIGINT\n"
        'entrypoint:    ["/entry point", "-x"]\n'
        'cmd:           ["/bin/sh"]\n'
        "ports:         80/tcp\n"
        "volumes:       /data\n"
        "env:\n"
        "  PATH=/usr/bin:/bin\n"
        "labels:\n"
        "  a=1\n"
        "  b=2\n"
        f"layers:        2, {first.size + second.size} B\n"
        f"  1  {first.digest}  {first.size} B  application/vnd.oci.image.layer.v1.tar+gzip\n"
        "     ADD rootfs\n"
        "  -  ENV A=b\n"
        f"  2  {second.digest}  {second.size} B  application/vnd.oci.image.layer.v1.tar+gzip\n"
        "     RUN true\n"
    )


def test_index_is_told_before_the_image(layout: Path, tmp_path: Path) -> None:
    ended = run_command("inspect", f"{layout}:all", *AMD64_OPTION, home=tmp_path)
    amd64, arm64, attestation = json.loads(INDEX.raw)["manifests"]
    lines = ended.stdout.splitlines()
    assert lines[:10] == [
        f"name:          {layout}:all",
        f"digest:        {INDEX.digest}",
        "media type:    application/vnd.oci.image.index.v1+json",
        "annotations:",
        "  org.opencontainers.image.title=two",
        "platforms:",
        f"  linux/amd64        {amd64['digest']}  {amd64['size']} B",
        f"  linux/arm64        {arm64['digest']}  {arm64['size']} B",
        "attestations:",
        f"  {attestation['digest']}  {attestation['size']} B, of {amd64['digest']}",
    ]
    assert lines[10:12] == ["", f"manifest:      {amd64['digest']}"]


def test_json_has_it_all(layout: Path, tmp_path: Path) -> None:
    """Issue 6, Scripts: one object, versioned."""
    ended = run_command("inspect", "--json", f"{layout}:1", home=tmp_path)
    told = json.loads(ended.stdout)
    assert (told["jsonVersion"], told["command"]) == (1, "inspect")
    assert (told["digest"], told["size"], told["manifests"]) == (str(IMAGE.digest), len(IMAGE.raw), [])
    image = told["image"]
    assert image["annotations"] == {"org.example": "x"}
    assert image["platform"] == {"os": "linux", "architecture": "amd64"}
    assert image["config"] == {
        "digest": str(IMAGE.config.digest),
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "size": IMAGE.config.size,
        "created": "2024-11-05T22:03:34Z",
        "author": "somebody",
        "entrypoint": ["/entry point", "-x"],
        "cmd": ["/bin/sh"],
        "env": ["PATH=/usr/bin:/bin"],
        "user": "1000:50",
        "workingDir": "/srv",
        "exposedPorts": ["80/tcp"],
        "volumes": ["/data"],
        "labels": {"a": "1", "b": "2"},
        "stopSignal": "SIGINT",
    }
    assert [(layer["digest"], layer["size"], layer["diffId"], layer["createdBy"]) for layer in image["layers"]] == [
        (str(IMAGE.layers[0].digest), IMAGE.layers[0].size, str(IMAGE.diff_ids[0]), "ADD rootfs"),
        (str(IMAGE.layers[1].digest), IMAGE.layers[1].size, str(IMAGE.diff_ids[1]), "RUN true"),
    ]
    assert [(line["createdBy"], line["emptyLayer"], line["layer"]) for line in image["history"]] == [
        ("ADD rootfs", False, 1),
        ("ENV A=b", True, None),
        ("RUN true", False, 2),
    ]


def test_json_tells_attestations_apart(layout: Path, tmp_path: Path) -> None:
    told = json.loads(run_command("inspect", "--json", f"{layout}:all", home=tmp_path).stdout)
    entries = json.loads(INDEX.raw)["manifests"]
    assert [entry["digest"] for entry in told["manifests"]] == [entry["digest"] for entry in entries[:2]]
    assert [(entry["digest"], entry["attests"]) for entry in told["attestations"]] == [
        (entries[2]["digest"], entries[0]["digest"])
    ]


def test_raw_is_the_document_byte_for_byte(layout: Path, tmp_path: Path) -> None:
    assert inspect_bytes(tmp_path, "--raw", f"{layout}:all") == INDEX.raw
    with FakeRegistry() as registry:
        assert inspect_bytes(tmp_path, "--raw", INDEX.serve(registry, "team/app", "1")) == INDEX.raw


def test_raw_of_a_platform_is_its_manifest(layout: Path, tmp_path: Path) -> None:
    raw = inspect_bytes(tmp_path, "--raw", f"{layout}:all", "--platform", "linux/arm64")
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == json.loads(INDEX.raw)["manifests"][1]["digest"]


def test_raw_shows_what_nothing_else_understands(tmp_path: Path) -> None:
    with FakeRegistry() as registry:
        registry.add_manifest("team/app", "1", b'{"odd": 1}', "application/vnd.odd+json")
        assert inspect_bytes(tmp_path, "--raw", f"{registry.host}/team/app:1") == b'{"odd": 1}'


def test_config_is_printed_byte_for_byte(layout: Path, tmp_path: Path) -> None:
    assert inspect_bytes(tmp_path, "--config", f"{layout}:1") == IMAGE.blobs[IMAGE.config.digest]


def test_only_one_of_the_shapes_is_printed(layout: Path, tmp_path: Path) -> None:
    ended = run_command("inspect", "--raw", "--json", f"{layout}:1", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("ociexport: error: --json: not allowed with argument --raw\n")


def test_layout_of_several_images_lists_them(layout: Path, tmp_path: Path) -> None:
    ended = run_command("inspect", layout, home=tmp_path)
    assert ended.stdout == (
        f"{IMAGE.digest}  application/vnd.oci.image.manifest.v1+json  linux/amd64  1\n"
        f"{INDEX.digest}  application/vnd.oci.image.index.v1+json  all\n"
    )
    told = json.loads(run_command("inspect", "--json", layout, home=tmp_path).stdout)
    assert [(image["name"], image["digest"]) for image in told["images"]] == [
        ("1", str(IMAGE.digest)),
        ("all", str(INDEX.digest)),
    ]


def test_layout_of_several_images_has_no_raw(layout: Path, tmp_path: Path) -> None:
    ended = run_command("inspect", "--raw", layout, home=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_archive_is_inspected(layout: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-C", layout, "-cf", tmp_path / "images.tar", "."], check=True)
    ended = run_command("inspect", f"{tmp_path}/images.tar:1", home=tmp_path)
    assert f"digest:        {IMAGE.digest}\n" in ended.stdout
    listed = run_command("inspect", tmp_path / "images.tar", home=tmp_path).stdout
    assert len(listed.splitlines()) == 2


def test_artifact_is_told(tmp_path: Path) -> None:
    artifact = build_artifact(b"chart")
    write_layout(tmp_path / "layout", {"1": artifact})
    ended = run_command("inspect", tmp_path / "layout", home=tmp_path)
    (blob,) = artifact.layers
    assert ended.stdout.splitlines()[3:] == [
        "artifact type: application/vnd.example.chart",
        f"config:        {artifact.config.digest}  application/vnd.oci.empty.v1+json",
        "blobs:         1, 5 B",
        f"  1  {blob.digest}  5 B  application/vnd.example.chart.content",
    ]


def test_missing_default_platform_is_a_warning(layout: Path, tmp_path: Path) -> None:
    variables = {"DOCKER_DEFAULT_PLATFORM": "linux/s390x"}
    ended = run_command("inspect", f"{layout}:all", home=tmp_path, variables=variables)
    assert ended.returncode == 0
    assert ended.stdout.endswith(f"of {json.loads(INDEX.raw)['manifests'][0]['digest']}\n")
    assert ended.stderr == (
        f"ociexport: warning: manifest {INDEX.digest}: no image for platform linux/s390x, "
        "there are: linux/amd64, linux/arm64\n"
    )


def test_missing_platform_that_was_asked_for_is_exit_code_10(layout: Path, tmp_path: Path) -> None:
    ended = run_command("inspect", f"{layout}:all", "--platform", "linux/s390x", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (10, "")


def hostile_image() -> BuiltImage:
    def edit(config: dict[str, Any]) -> None:
        config["created"] = "\x1b[2Jnow"
        config["author"] = "a\nb"
        config["history"] = [{"created_by": "\x1b]0;title\x07 \u202e"}]
        config["config"].update(Env=["A=\x1b[31m"], Labels={"\x1b": "\r"}, User="\x9b", WorkingDir="/\n")

    def edit_manifest(manifest: dict[str, Any]) -> None:
        manifest["annotations"] = {"a\x1bb": "\x07"}
        manifest["layers"][0]["mediaType"] = "application/\x1b"

    return build_image([[member("a")]], edit_config=edit, edit_manifest=edit_manifest)


def test_terminal_gets_nothing_that_it_would_obey(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"1": hostile_image(), "\x1b[2J": IMAGE})
    for arguments in (("inspect", f"{tmp_path}/layout:1"), ("inspect", f"{tmp_path}/layout")):
        ended = run_command(*arguments, home=tmp_path)
        assert ended.returncode == 0
        assert all(line.isprintable() for line in ended.stdout.split("\n"))


@pytest.mark.system
def test_raw_is_what_skopeo_gets(tmp_path: Path) -> None:
    """skopeo inspect --raw, from Debian's docker-registry: the index, and a platform's manifest."""
    require("docker-registry", "skopeo")
    index = build_index([IMAGE, build_image([[member("c")]], platform=ARM64)])
    write_layout(tmp_path / "layout", {"1": index})
    with docker_registry(tmp_path / "registry") as host:
        target = f"{host}/team/app:1"
        run("skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:1", f"docker://{target}")
        theirs = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}")
        assert run(*OCIEXPORT, "inspect", "--raw", target) == theirs == index.raw.decode()
        by_digest = f"{host}/team/app@{IMAGE.digest}"
        assert run(*OCIEXPORT, "inspect", "--raw", by_digest) == IMAGE.raw.decode()
        config = run("skopeo", "inspect", "--config", "--raw", "--tls-verify=false", f"docker://{by_digest}")
        assert run(*OCIEXPORT, "inspect", "--config", by_digest) == config
