"""push to Debian's docker-registry: skopeo and podman pull back what was published."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.images.choose import PlatformChoice
from ociexport.images.keys import VerificationKey
from ociexport.images.signatures import SignaturePolicy
from ociexport.transfer.pull import pull
from tests.support.command import command_environment, command_line, run_command
from tests.support.image_builder import ARM64, build_attestation, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.peak_memory import peak_of
from tests.support.real_tools import podman
from tests.support.signing import pem_of, signature_of, tag_of
from tests.support.system_parts import docker_registry, require, run

pytestmark = pytest.mark.system

MIB = 1024 * 1024
KEY = ec.generate_private_key(ec.SECP256R1())
BASE = [member("etc/hostname", b"box\n"), member("big", os.urandom(5 * MIB))]
IMAGE = build_image([BASE, [member("etc/motd", b"hello\n")]])
INDEX = build_index([IMAGE, build_image([BASE], platform=ARM64), build_attestation(IMAGE)])
OTHER = build_image([BASE, [member("other", b"other")]])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    require("docker-registry", "skopeo")
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    images = {"docker.io/library/app:1": INDEX, "quay.io/team/other:2": OTHER}
    write_layout(tmp_path / "layout", images)
    return tmp_path / "layout"


def push(home: Path, *words: str | Path, code: int = 0) -> str:
    ended = run_command("push", *words, home=home)
    assert ended.returncode == code, ended.stderr
    return ended.stderr


def test_skopeo_and_podman_pull_back_what_was_pushed(registry: str, layout: Path, tmp_path: Path) -> None:
    push(tmp_path, layout, f"{registry}/mirror")
    name = f"{registry}/mirror/docker.io/library/app:1"
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    assert raw.encode() == INDEX.raw
    run("skopeo", "copy", "-q", "--all", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/back:1")
    for digest in INDEX.all_digests:
        assert (tmp_path / "back" / "blobs" / "sha256" / digest.encoded).exists()
    with podman() as podman_run:
        podman_run("pull", "-q", "--tls-verify=false", f"{registry}/mirror/quay.io/team/other:2")
        shown = podman_run("image", "inspect", "--format", "{{.Digest}}", f"{registry}/mirror/quay.io/team/other:2")
        assert shown.strip() == str(OTHER.digest)


def test_the_shared_layer_is_mounted_and_a_second_push_sends_nothing(
    registry: str, layout: Path, tmp_path: Path
) -> None:
    assert "1 (5.2 MB) mounted, " in push(tmp_path, layout, f"{registry}/once")
    lines = [line for line in push(tmp_path, layout, f"{registry}/once").splitlines() if ": pushed " in line]
    assert len(lines) == 2
    assert all("0 blobs (0 B) sent" in line for line in lines)


def test_referrers_are_found_there(registry: str, tmp_path: Path) -> None:
    """docker-registry 2.8 has no referrers API: signatures come under tags."""
    write_layout(
        tmp_path / "signed",
        {f"docker.io/library/app:{tag_of(IMAGE)}": signature_of(IMAGE, KEY), "docker.io/library/app:1": IMAGE},
    )
    push(tmp_path, f"{tmp_path}/signed:docker.io/library/app:1", f"{registry}/signed", "--referrers")
    policy = SignaturePolicy((VerificationKey.parse(pem_of(KEY), "cosign.pub"),))
    name = f"{registry}/signed/docker.io/library/app:1"
    result = pull(name, tmp_path / "back", platform=PlatformChoice(), signatures=policy)
    assert result.digest == IMAGE.digest


def test_a_push_that_was_killed_succeeds_the_next_time(registry: str, tmp_path: Path) -> None:
    """docker-registry forgets an upload whose body was cut, so the blob begins anew, in chunks."""
    image = build_image([os.urandom(200 * MIB)], compression="plain")
    write_layout(tmp_path / "big", {"docker.io/library/big:1": image})
    command = command_line("push", tmp_path / "big", registry)
    with subprocess.Popen(command, env=command_environment(tmp_path), stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "big" / ".ociexport" / "uploads").exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    push(tmp_path, tmp_path / "big", registry)
    assert not (tmp_path / "big" / ".ociexport").exists()
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry}/docker.io/library/big:1")
    assert raw.encode() == image.raw


def test_memory_does_not_grow_with_the_blobs(registry: str, tmp_path: Path) -> None:
    """Under 64 MiB with the interpreter, which takes some 15 itself: four blobs at a time, from disk and from afar."""
    image = build_image([os.urandom(60 * MIB) for _ in range(4)], compression="plain")
    write_layout(tmp_path / "big", {"docker.io/library/large:1": image})
    # By another name the same registry is another one, from which nothing is mounted.
    again = f"{registry.replace('127.0.0.1', 'localhost')}/docker.io/library/large:1"
    for source, target in [(f"{tmp_path}/big", registry), (again, f"{registry}/x")]:
        measured = peak_of("push", source, target, home=tmp_path)
        assert measured.status == 0, measured.stderr
        assert measured.peak_bytes < 48 * MIB
