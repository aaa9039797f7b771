"""`ociexport pull`, the real command against a registry on loopback: its output, its exit code, the files it leaves."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform
from tests.support.command import run_command
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_artifact, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.puller import Puller
from tests.support.system_parts import require

LAYERS = [[member("a", b"1" * 3000)], [member("b", b"2" * 5000)], [member("c", b"3")]]
IMAGE = build_image(LAYERS)


# Successful pulls


def test_image_is_there_and_its_name_is_on_standard_output(puller: Puller) -> None:
    """CONVENTIONS: data on stdout, progress on stderr, digests as name@digest so that commands chain."""
    pulled = puller(puller.serve(IMAGE))
    assert (pulled.code, pulled.out) == (0, f"REGISTRY/library/app:1@{IMAGE.digest}\n")
    assert pulled.lines[0] == f"ociexport: REGISTRY/library/app:1: platform linux/amd64, manifest {IMAGE.digest}"
    size = sum(map(len, IMAGE.blobs.values()))
    assert pulled.lines[-1] == (
        f"ociexport: pulled REGISTRY/library/app:1 to LAYOUT: sha256:{IMAGE.digest.short}, "
        f"4 blobs ({size / 1000:.1f} kB) fetched, N s"
    )
    assert sorted(re.sub(r"\d+ B", "N", line) for line in pulled.lines[1:-1]) == [
        f"ociexport: config {IMAGE.config.digest.short}: N",
        *(f"ociexport: layer {number}/3 {layer.digest.short}: N" for number, layer in enumerate(IMAGE.layers, start=1)),
    ]
    assert puller.blobs == {digest.encoded for digest in IMAGE.all_digests}
    assert puller.index == [
        {
            **IMAGE.descriptor.to_json(),
            "annotations": {
                "org.opencontainers.image.ref.name": "1",
                "io.containerd.image.name": f"{puller.registry.host}/library/app:1",
            },
        }
    ]


def test_name_on_standard_output_is_a_name_again(puller: Puller) -> None:
    first = puller(puller.serve(IMAGE))
    again = puller(first.out.strip().replace("REGISTRY", puller.registry.host))
    assert (again.code, again.out) == (0, first.out)


def test_quiet_says_nothing(puller: Puller) -> None:
    pulled = puller(puller.serve(IMAGE), "--quiet")
    assert (pulled.code, pulled.lines) == (0, [])


def test_image_that_is_there_is_not_downloaded_and_that_is_said(puller: Puller) -> None:
    """The seed's local check: by the image ID and its layers."""
    reference = puller.serve(IMAGE)
    puller(reference)
    puller.registry.requests.clear()
    pulled = puller(reference)
    size = sum(map(len, IMAGE.blobs.values()))
    assert (pulled.code, pulled.lines[-1]) == (
        0,
        f"ociexport: pulled REGISTRY/library/app:1 to LAYOUT: sha256:{IMAGE.digest.short}, "
        f"0 blobs (0 B) fetched, 4 ({size / 1000:.1f} kB) already there, N s",
    )
    assert puller.registry.paths("GET") == ["/v2/library/app/manifests/1"]


def test_second_image_adds_and_shares_blobs(puller: Puller) -> None:
    other = build_image([*LAYERS, [member("d", b"4")]])
    pulled = puller(puller.serve(IMAGE, "1"), puller.serve(other, "2"))
    assert pulled.code == 0
    assert pulled.out == (f"REGISTRY/library/app:1@{IMAGE.digest}\nREGISTRY/library/app:2@{other.digest}\n")
    assert [entry["digest"] for entry in puller.index] == [str(IMAGE.digest), str(other.digest)]
    assert puller.blobs == {digest.encoded for digest in IMAGE.all_digests | other.all_digests}


def test_same_name_again_moves_the_name(puller: Puller) -> None:
    puller(puller.serve(IMAGE, "1"))
    other = build_image(LAYERS[:2])
    puller(puller.serve(other, "1"))
    assert [entry["digest"] for entry in puller.index] == [str(other.digest)]


def test_image_by_digest_keeps_it_in_its_name(puller: Puller) -> None:
    index = build_index([build_image(LAYERS, platform=ARM64), IMAGE])
    pulled = puller(puller.serve(index, None))
    assert pulled.out == f"REGISTRY/library/app@{IMAGE.digest}\n"
    assert puller.index[0]["annotations"] == {
        "io.containerd.image.name": f"{puller.registry.host}/library/app@{IMAGE.digest}"
    }


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [
        ("linux/arm64", None, ARM64),
        ("linux/arm64", "linux/amd64", ARM64),
        (None, "linux/arm64/v8", ARM64),
        (None, "linux/amd64", AMD64),
    ],
)
def test_platform_is_chosen_and_said(
    puller: Puller, option: str | None, variable: str | None, expected: Platform
) -> None:
    """The option overrides DOCKER_DEFAULT_PLATFORM. Only the chosen manifest is stored, so no reference dangles."""
    images = {platform: build_image(LAYERS, platform=platform) for platform in (AMD64, ARM64)}
    reference = puller.serve(build_index(list(images.values())))
    pulled = puller(reference, *(["--platform", option] if option else []), platform=variable)
    chosen = images[expected]
    assert pulled.out == f"REGISTRY/library/app:1@{chosen.digest}\n"
    assert pulled.lines[0] == f"ociexport: REGISTRY/library/app:1: platform {expected}, manifest {chosen.digest}"
    assert [(entry["digest"], entry["platform"]) for entry in puller.index] == [
        (str(chosen.digest), expected.to_json())
    ]
    assert puller.blobs == {digest.encoded for digest in chosen.all_digests}


def on(*platforms: Platform) -> list[BuiltImage]:
    return [build_image(LAYERS, platform=platform) for platform in platforms]


@pytest.mark.parametrize("options", [["--all"], ["-a"], ["--platform", "all"]])
def test_all_platforms_are_pulled_with_their_index(puller: Puller, options: list[str]) -> None:
    amd64, arm64 = on(AMD64, ARM64)
    index = build_index([arm64, amd64])
    pulled = puller(puller.serve(index), *options)
    assert (pulled.code, pulled.out) == (0, f"REGISTRY/library/app:1@{index.digest}\n")
    assert pulled.lines[:3] == [
        f"ociexport: REGISTRY/library/app:1: platform linux/arm64, manifest {arm64.digest}",
        f"ociexport: REGISTRY/library/app:1: platform linux/amd64, manifest {amd64.digest}",
        f"ociexport: REGISTRY/library/app:1: index {index.digest}, as published",
    ]
    assert re.fullmatch(
        rf"ociexport: pulled REGISTRY/library/app:1 to LAYOUT: sha256:{index.digest.short}, an index of 2 manifests, "
        r"5 blobs \([\d.]+ kB\) fetched, N s",
        pulled.lines[-1],
    )
    assert puller.blobs == {digest.encoded for digest in index.all_digests}


@pytest.mark.parametrize(
    "options", [["--platform", "linux/amd64,arm64"], ["--platform=linux/amd64", "--platform=linux/arm64"]]
)
def test_some_platforms_get_an_index_of_their_own_and_that_is_said(puller: Puller, options: list[str]) -> None:
    amd64, arm64, armv7 = on(AMD64, ARM64, Platform("linux", "arm", "v7"))
    index = build_index([armv7, arm64, amd64])
    pulled = puller(puller.serve(index), *options)
    made = puller.index[0]["digest"]
    assert made not in (str(index.digest), str(amd64.digest), str(arm64.digest))
    assert pulled.out == f"REGISTRY/library/app:1@{made}\n"
    assert pulled.lines[2] == (
        f"ociexport: REGISTRY/library/app:1: index {made} was made of the chosen platforms, the published one is "
        f"{index.digest}; --sparse keeps that one"
    )


def test_sparse_keeps_the_published_index(puller: Puller) -> None:
    amd64, arm64 = on(AMD64, ARM64)
    index = build_index([arm64, amd64])
    pulled = puller(puller.serve(index), "--platform", "linux/arm64", "--sparse")
    assert pulled.out == f"REGISTRY/library/app:1@{index.digest}\n"
    assert puller.blobs == {digest.encoded for digest in {*arm64.all_digests, index.digest}}


def test_pulled_index_is_a_source_for_each_of_its_platforms(puller: Puller) -> None:
    amd64, arm64 = on(AMD64, ARM64)
    puller(puller.serve(build_index([arm64, amd64])), "--all")
    ended = run_command("pull", puller.layout, "--out", puller.home / "x.tar", "--platform=arm64", home=puller.home)
    assert ended.stdout.strip().endswith(f"@{arm64.digest}")


@pytest.mark.system
def test_skopeo_reads_a_pulled_index(puller: Puller) -> None:
    require("skopeo")
    amd64, arm64 = on(AMD64, ARM64)
    index = build_index([arm64, amd64])
    puller(puller.serve(index), "--all")
    said = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{puller.layout}:1"], capture_output=True, check=True, timeout=60
    )
    assert said.stdout == index.raw
    copied = puller.home / "copy"
    subprocess.run(
        ["skopeo", "copy", "--all", f"oci:{puller.layout}:1", f"dir:{copied}"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert (copied / "manifest.json").read_bytes() == index.raw


def test_image_for_another_machine_only_is_pulled_with_a_warning(puller: Puller) -> None:
    pulled = puller(puller.serve(build_image(LAYERS, platform=Platform("linux", "s390x"))), "-q", platform=None)
    assert (pulled.code, pulled.lines) == (
        0,
        [f"ociexport: warning: REGISTRY/library/app:1: is for linux/s390x only, not for {host_platform()}"],
    )


@pytest.mark.parametrize("media_types", ["oci", "docker", "legacy"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_all_kinds_of_images_are_kept_byte_for_byte(puller: Puller, media_types: Any, compression: Any) -> None:
    image = build_image(LAYERS, media_types=media_types, compression=compression)
    assert puller(puller.serve(image)).code == 0
    for digest, raw in {**{image.digest: image.raw}, **image.blobs}.items():
        assert (puller.layout / "blobs" / "sha256" / digest.encoded).read_bytes() == raw


def test_artifact_is_pulled_and_called_what_it_is(puller: Puller) -> None:
    artifact = build_artifact(b"chart")
    pulled = puller(puller.serve(artifact))
    assert (pulled.code, pulled.lines[0]) == (
        0,
        "ociexport: REGISTRY/library/app:1: not an image but an artifact of type 'application/vnd.example.chart'",
    )
    assert puller.blobs == {digest.encoded for digest in artifact.all_digests}


def test_layout_is_a_source_too(puller: Puller, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = tmp_path_factory.mktemp("source")
    write_layout(source, {"1": IMAGE, "docker.io/library/other:2": build_image(LAYERS[:1])})
    assert puller(f"oci:{source}:1").out == f"{source}:1@{IMAGE.digest}\n"
    assert puller(f"{source}:other:2").code == 0
    assert len(puller.index) == 2


def test_credentials_of_docker_are_used(puller: Puller) -> None:
    puller.registry.auth, puller.registry.users = "bearer", {"me": "secret"}
    reference = puller.serve(IMAGE)
    config = puller.home / ".docker" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {puller.registry.host: {"auth": "bWU6c2VjcmV0"}}}))
    assert puller(reference).code == 0
