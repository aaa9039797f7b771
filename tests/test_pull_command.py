"""`ociexport pull`, the real command against a registry on loopback: what it says, how it ends, what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ociexport.digest import Digest
from ociexport.documents import Platform
from ociexport.layout import ImageLayout
from tests.command import command_environment, command_line, run_command
from tests.fake_registry import FakeRegistry, Fault
from tests.image_builder import AMD64, ARM64, BuiltImage, build_artifact, build_image, build_index, write_layout
from tests.memory_source import member
from tests.puller import Pulled, Puller
from tests.system_parts import require

LAYERS = [[member("a", b"1" * 3000)], [member("b", b"2" * 5000)], [member("c", b"3")]]
IMAGE = build_image(LAYERS)
PAGE = Fault(body=b"<!DOCTYPE html>\n<html><body>Log in</body></html>", headers={"Content-Type": "text/html"})
VERIFY_HINT = "hint: ociexport verify REGISTRY/library/app:1 says all that is wrong with it"
NOT_FOUND_HINT = "hint: check the spelling; if it is private, log in with 'ociexport login REGISTRY'"


@pytest.fixture
def puller(tmp_path: Path) -> Iterator[Puller]:
    with FakeRegistry() as registry:
        yield Puller(registry, tmp_path)


# What goes well


def test_image_is_there_and_its_name_is_on_standard_output(puller: Puller) -> None:
    """CONVENTIONS: data on stdout, progress on stderr, digests as name@digest so that commands chain."""
    pulled = puller(puller.serve(IMAGE))
    assert (pulled.code, pulled.out) == (0, f"REGISTRY/library/app:1@{IMAGE.digest}\n")
    assert pulled.lines[0] == f"ociexport: REGISTRY/library/app:1: platform linux/amd64, manifest {IMAGE.digest}"
    size = sum(map(len, IMAGE.blobs.values()))
    assert pulled.lines[-1] == (
        f"ociexport: REGISTRY/library/app:1: image {IMAGE.config.digest} in LAYOUT: "
        f"4 blobs ({size / 1000:.1f} kB) fetched, 0 (0 B) already there, N s"
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
        f"ociexport: REGISTRY/library/app:1: image {IMAGE.config.digest} in LAYOUT: "
        f"0 blobs (0 B) fetched, 4 ({size / 1000:.1f} kB) already there, N s",
    )
    assert puller.registry.paths("GET") == ["/v2/", "/v2/library/app/manifests/1"]


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
    """The option goes before DOCKER_DEFAULT_PLATFORM. Only the chosen manifest is kept, so nothing dangles."""
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
        rf"ociexport: REGISTRY/library/app:1: index {index.digest} of 2 manifests in LAYOUT: "
        r"5 blobs \([\d.]+ kB\) fetched, 0 \(0 B\) already there, N s",
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
    pulled = puller(puller.serve(IMAGE), "--platform", "linux/arm64", "-q")
    assert (pulled.code, pulled.lines) == (
        0,
        ["ociexport: warning: REGISTRY/library/app:1: is for linux/amd64 only, not for linux/arm64"],
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
        "ociexport: REGISTRY/library/app:1: no image, but an artifact of type 'application/vnd.example.chart'",
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


# What does not go well: one line, the exit code, and nothing left behind


def assert_fails(puller: Puller, pulled: Pulled, code: int, *errors: str) -> None:
    assert (pulled.code, pulled.errors, pulled.out) == (code, list(errors), "")
    puller.assert_nothing_left()


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        (
            ["Foo/BAR:1"],
            ["image reference 'Foo/BAR:1': repository: must be lower case, got 'BAR'", "hint: did you mean foo/bar:1?"],
        ),
        (["alpine", "--frob"], ["pull: there is no option '--frob'", "hint: see ociexport pull --help"]),
        (["alpine", "--plattform=x"], ["pull: there is no option '--plattform'", "hint: did you mean --platform?"]),
        (["alpine", "--jobs", "0"], ["--jobs: expected 1 to 64, got 0"]),
        (["alpine", "--jobs", "x"], ["-j/--jobs: expected a whole number, got 'x'", "hint: see ociexport pull --help"]),
        (
            ["alpine", "--platform", "a/b/c/d"],
            ["platform 'a/b/c/d': expected os/arch[/variant]", "hint: for example --platform linux/arm64"],
        ),
        (
            ["alpine", "--all", "--platform", "linux/arm64"],
            ["--platform: expected no platform beside --all, got one", "hint: leave out one of the two"],
        ),
        (
            ["alpine", "--platform", "all,arm64"],
            ["--platform: expected no platform beside --all, got one", "hint: leave out one of the two"],
        ),
        (["alpine@sha256:../../x"], [
            "image reference 'alpine@sha256:../../x': digest: expected 64 lower-case hexadecimal digits after "
            "'sha256:', got '../../x'"
        ]),
        (["oci:"], ["source '': expected a path, got none"]),
        ([], ["pull: expected IMAGE, got none", "hint: for example ociexport pull debian:12 --out ./layout"]),
    ],
)  # fmt: skip
def test_usage_errors(puller: Puller, arguments: list[str], errors: list[str]) -> None:
    pulled = puller(*arguments)
    assert_fails(puller, pulled, 2, f"ociexport: error: {errors[0]}", *errors[1:])
    assert (puller.registry.requests, pulled.others) == ([], [])


def test_out_that_is_in_use_is_refused_and_untouched(puller: Puller) -> None:
    puller.layout.mkdir()
    (puller.layout / "thesis.tex").write_text("important")
    pulled = puller(puller.serve(IMAGE))
    assert (pulled.code, pulled.lines) == (
        2,
        [
            f"ociexport: error: '{puller.layout}': expected an OCI layout or an empty directory, "
            "got a directory of other files",
            "hint: choose another directory for the layout",
        ],
    )
    assert [path.name for path in puller.layout.iterdir()] == ["thesis.tex"]
    assert puller.registry.requests == []


def test_out_that_is_a_file_is_refused(puller: Puller) -> None:
    puller.layout.write_text("important")
    pulled = puller(puller.serve(IMAGE))
    assert (pulled.code, pulled.lines) == (
        2,
        [f"ociexport: error: '{puller.layout}': expected a directory, got a file"],
    )


def test_out_that_is_empty_text_is_refused(puller: Puller) -> None:
    ended = run_command("pull", puller.serve(IMAGE), "--out", "", home=puller.home)
    assert (ended.returncode, ended.stderr) == (
        2,
        "ociexport: error: -o/--out: expected PATH, got an empty word\n"
        "hint: is it a variable of the shell that is not set?\n",
    )


def test_layout_is_not_pulled_into_itself(puller: Puller) -> None:
    """`pull alpine -o alpine`, the second time: a plain word that is a layout reads as one."""
    write_layout(puller.layout, {"1": IMAGE})
    pulled = puller(puller.layout)
    assert (pulled.code, pulled.lines) == (
        2,
        [
            f"ociexport: error: '{puller.layout}': expected an image from elsewhere, got the layout that --out names",
            "hint: docker:// before a reference tells that it is one",
        ],
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [("library/absent:1", "NAME_UNKNOWN: repository name not known to registry"),
     ("library/app:2", "MANIFEST_UNKNOWN: manifest unknown")],
)  # fmt: skip
def test_unknown_image_and_tag(puller: Puller, name: str, code: str) -> None:
    puller.serve(IMAGE)
    pulled = puller(f"{puller.registry.host}/{name}")
    repository, _, tag = name.partition(":")
    url = f"http://REGISTRY/v2/{repository}/manifests/{tag}"
    error = f"ociexport: error: image REGISTRY/{name}: GET {url}: 404 Not Found: {code}"
    assert_fails(puller, pulled, 3, error, NOT_FOUND_HINT)
    assert pulled.others == []


@pytest.mark.parametrize(
    ("typed", "hint"),
    [("3.2O", "did you mean REGISTRY/library/app:3.20?"), ("9.99", NOT_FOUND_HINT.removeprefix("hint: "))],
)
def test_misspelt_tag_is_corrected(puller: Puller, typed: str, hint: str) -> None:
    for tag in ("3.18", "3.20", "edge"):
        puller.serve(IMAGE, tag)
    pulled = puller(f"{puller.registry.host}/library/app:{typed}")
    assert (pulled.code, pulled.errors[1]) == (3, f"hint: {hint}")


def test_list_of_tags_that_is_no_use_changes_nothing(puller: Puller) -> None:
    puller.serve(IMAGE, "3.20")
    puller.registry.misbehave("/tags/list", PAGE)
    pulled = puller(f"{puller.registry.host}/library/app:3.2O")
    assert (pulled.code, pulled.errors[1]) == (3, NOT_FOUND_HINT)


def test_registry_that_is_down(puller: Puller) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        pulled = puller(f"{host}/library/app:1", "--retry-delay", "0.01")
    assert_fails(
        puller,
        pulled,
        5,
        f"ociexport: error: registry {host}: GET http://{host}/v2/: connection refused",
        f"hint: see whether it can be reached from here: curl -I http://{host}/v2/",
    )
    retries = [re.sub(r"[0-9.]+ s$", "N s", line) for line in pulled.others]
    assert retries == [f"ociexport: registry {host}: connection refused; retry {n} of 3 in N s" for n in (1, 2, 3)]


def test_token_service_that_is_down_is_named(puller: Puller) -> None:
    """The seed: the registry behind a proxy names a realm on a port where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        realm = f"http://127.0.0.1:{unused.getsockname()[1]}/service/token"
        puller.registry.auth, puller.registry.realm = "bearer", realm
        pulled = puller(puller.serve(IMAGE), "--retry-delay", "0.01")
    assert_fails(
        puller,
        pulled,
        5,
        f"ociexport: error: registry REGISTRY: its token service: GET {realm}?…: connection refused; "
        "the registry's own token service is misconfigured or unreachable",
        f"hint: registry REGISTRY sends its clients to {realm} for tokens: tell those who run it",
    )


def test_credentials_that_are_refused(puller: Puller) -> None:
    puller.registry.auth, puller.registry.users = "basic", {"me": "secret"}
    pulled = puller(puller.serve(IMAGE))
    assert_fails(
        puller,
        pulled,
        4,
        "ociexport: error: image REGISTRY/library/app:1: GET http://REGISTRY/v2/library/app/manifests/1: "
        "401 Unauthorized: UNAUTHORIZED: authentication required",
        "hint: the registry wants to know who asks: log in with 'ociexport login REGISTRY'",
    )


MANIFEST, CONFIG, LAYER = f"manifest {IMAGE.digest}", f"config {IMAGE.config.digest}", IMAGE.layers[1].digest
CONFIG_SIZE, LAYER_SIZE = IMAGE.config.size, IMAGE.layers[1].size
PLACE = f"layer 2 of 3 ({LAYER})"
CONFIG_BYTES, LAYER_BYTES = IMAGE.blobs[IMAGE.config.digest], IMAGE.blobs[LAYER]


@pytest.mark.parametrize(
    ("pattern", "fault", "code", "error"),
    [
        ("manifests/1$", Fault(change=lambda raw: raw + b" "), 7,
         f"image REGISTRY/library/app:1: digest mismatch: expected {IMAGE.digest}, "
         f"as its Docker-Content-Digest announces, got {Digest.of(IMAGE.raw + b' ')}"),
        ("manifests/1$", PAGE, 7,
         f"image REGISTRY/library/app:1: digest mismatch: expected {IMAGE.digest}, "
         f"as its Docker-Content-Digest announces, got {Digest.of(PAGE.body or b'')}"),
        ("manifests/1$", Fault(body=b"x" * 5 * 1024 * 1024), 8,
         "image REGISTRY/library/app:1: manifest: expected at most 4194304 bytes, got 5242880"),
        (IMAGE.config.digest.encoded, Fault(change=lambda raw: raw[:-1] + b" "), 7,
         f"{MANIFEST}: {CONFIG}: digest mismatch: expected {IMAGE.config.digest}, "
         f"got {Digest.of(CONFIG_BYTES[:-1] + b' ')}"),
        (IMAGE.config.digest.encoded, Fault(change=lambda raw: raw[:-1]), 7,
         f"{MANIFEST}: {CONFIG}: size mismatch: expected {CONFIG_SIZE} bytes, got {CONFIG_SIZE - 1}"),
        (IMAGE.config.digest.encoded, Fault(change=lambda raw: raw + b" "), 7,
         f"{MANIFEST}: {CONFIG}: size mismatch: expected {CONFIG_SIZE} bytes, got more ({CONFIG_SIZE + 1} so far)"),
        (IMAGE.config.digest.encoded, PAGE, 7,
         f"{MANIFEST}: {CONFIG}: size mismatch: expected {CONFIG_SIZE} bytes, got 48 (HTML document, ASCII text)"),
        (LAYER.encoded, Fault(change=lambda raw: raw[::-1]), 7,
         f"{PLACE}: digest mismatch: expected {LAYER}, got {Digest.of(LAYER_BYTES[::-1])}"),
        (LAYER.encoded, Fault(change=lambda raw: raw[:-1]), 7,
         f"{PLACE}: size mismatch: expected {LAYER_SIZE} bytes, got {LAYER_SIZE - 1}"),
        (LAYER.encoded, Fault(change=lambda raw: raw + b" "), 7,
         f"{PLACE}: size mismatch: expected {LAYER_SIZE} bytes, got more ({LAYER_SIZE + 1} so far)"),
        (LAYER.encoded, PAGE, 7,
         f"{PLACE}: size mismatch: expected {LAYER_SIZE} bytes, got 48 (HTML document, ASCII text)"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)  # fmt: skip
def test_bytes_that_are_not_what_was_promised(
    puller: Puller, pattern: str, fault: Fault, code: int, error: str
) -> None:
    reference = puller.serve(IMAGE)
    puller.registry.misbehave(pattern, fault)
    assert_fails(puller, puller(reference), code, f"ociexport: error: {error}", VERIFY_HINT)


def test_manifest_by_digest_that_is_another(puller: Puller) -> None:
    reference = puller.serve(IMAGE, None)
    puller.registry.misbehave("/manifests/", Fault(change=lambda raw: raw + b" "))
    assert_fails(
        puller,
        puller(reference),
        7,
        f"ociexport: error: image REGISTRY/library/app@{IMAGE.digest}: digest mismatch: expected {IMAGE.digest}, "
        f"got {Digest.of(IMAGE.raw + b' ')}",
        f"hint: ociexport verify REGISTRY/library/app@{IMAGE.digest} says all that is wrong with it",
    )


def test_page_in_place_of_a_manifest(puller: Puller) -> None:
    reference = puller.serve(IMAGE)
    headers = {"Content-Type": "text/html", "Docker-Content-Digest": None}
    puller.registry.misbehave("/manifests/", Fault(body=PAGE.body, headers=headers))
    pulled = puller(reference)
    assert_fails(
        puller,
        pulled,
        8,
        f"ociexport: error: manifest {Digest.of(PAGE.body or b'')}: expected a JSON document, "
        "got HTML document, ASCII text (Expecting value: line 1 column 1 (char 0))",
        VERIFY_HINT,
    )
    assert pulled.others == []


def edited(**edits: Callable[[dict[str, Any]], object]) -> BuiltImage:
    return build_image(LAYERS, **edits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "code", "error"),
    [
        (edited(edit_config=lambda config: config["rootfs"]["diff_ids"].pop()), 8,
         "manifest {manifest}: config {config}: expected as many diff_ids as layers, got 3 layers but 2 diff_ids"),
        (edited(edit_manifest=lambda manifest: manifest["layers"][1].update(digest="sha256:../../x")), 8,
         "manifest {manifest}: layers[1]: digest: expected 64 lower-case hexadecimal digits after 'sha256:', "
         "got '../../x'"),
        (edited(edit_config=lambda config: config["rootfs"]["diff_ids"].__setitem__(0, "sha256:../../x")), 8,
         "config {config}: rootfs: diff_ids[0]: expected 64 lower-case hexadecimal digits after 'sha256:', "
         "got '../../x'"),
        (edited(edit_manifest=lambda manifest: manifest["layers"][1].update(size=-1)), 8,
         "manifest {manifest}: layers[1]: size: expected 0 to 9223372036854775807, got -1"),
        (edited(edit_manifest=lambda manifest: manifest["layers"][1].update(size=7)), 7,
         f"{PLACE}: size mismatch: expected 7 bytes, got more ({LAYER_SIZE} so far)"),
        (edited(edit_manifest=lambda manifest: manifest["layers"][1].update(size=LAYER_SIZE + 1)), 7,
         f"{PLACE}: size mismatch: expected {LAYER_SIZE + 1} bytes, got {LAYER_SIZE}"),
        (edited(edit_manifest=lambda manifest: manifest["layers"][1].update(digest="sha256:" + "0" * 64)), 7,
         f"layer 2 of 3 (sha256:{'0' * 64}): digest mismatch: expected sha256:{'0' * 64}, got {LAYER}"),
        (edited(edit_manifest=lambda manifest: manifest["config"].update(digest="sha256:" + "0" * 64)), 7,
         f"manifest {{manifest}}: config sha256:{'0' * 64}: digest mismatch: expected sha256:{'0' * 64}, "
         f"got {IMAGE.config.digest}"),
        (edited(edit_manifest=lambda manifest: manifest["config"].update(size=7)), 7,
         "manifest {manifest}: config {config}: size mismatch: expected 7 bytes, got more (8 so far)"),
        (edited(edit_manifest=lambda manifest: manifest["config"].update(size=5 * 1024 * 1024)), 8,
         "manifest {manifest}: config {config}: expected at most 4194304 bytes, got 5242880"),
        (edited(edit_config=lambda config: config.pop("rootfs")), 8,
         "config {config}: rootfs: expected an object, got nothing"),
        (edited(edit_manifest=lambda manifest: manifest.update(schemaVersion=1)), 8,
         "manifest {manifest}: schemaVersion: expected 2, got 1"),
    ],
    ids=["counts", "digest path", "diff_id path", "negative size", "smaller size", "larger size", "layer digest",
         "config digest", "config size", "config limit", "no rootfs", "schema version"],
)  # fmt: skip
def test_image_that_is_wrong_in_itself(puller: Puller, image: BuiltImage, code: int, error: str) -> None:
    pulled = puller(puller.serve(image))
    error = error.format(manifest=image.digest, config=image.config.digest)
    assert_fails(puller, pulled, code, f"ociexport: error: {error}", VERIFY_HINT)


def test_index_without_the_platform_lists_those_there_are(puller: Puller) -> None:
    index = build_index(
        [build_image(LAYERS, platform=ARM64), build_image(LAYERS, platform=Platform("windows", "amd64"))]
    )
    assert_fails(
        puller,
        puller(puller.serve(index), "--platform", "linux/s390x"),
        10,
        f"ociexport: error: manifest {index.digest}: no image for platform linux/s390x, "
        "there are: linux/arm64, windows/amd64",
        "hint: for example --platform linux/arm64",
    )


def test_layer_that_the_registry_does_not_have(puller: Puller) -> None:
    reference = puller.serve(IMAGE)
    del puller.registry.blobs[str(LAYER)]
    url = f"http://REGISTRY/v2/library/app/blobs/{LAYER}"
    assert_fails(
        puller,
        puller(reference),
        3,
        f"ociexport: error: blob {LAYER}: GET {url}: 404 Not Found: BLOB_UNKNOWN: blob unknown to registry",
        "hint: the image names a blob that is not there: whoever has the image should push it again",
    )


def test_foreign_layer_that_the_registry_does_not_keep(puller: Puller) -> None:
    """layer.md, "Non-Distributable Layers": Windows base layers were not kept by registries."""
    image = edited(edit_manifest=lambda manifest: manifest["layers"][1].update(urls=["https://example.com/layer"]))
    reference = puller.serve(image)
    del puller.registry.blobs[str(LAYER)]
    assert_fails(
        puller,
        puller(reference),
        3,
        f"ociexport: error: blob {LAYER}: GET http://REGISTRY/v2/library/app/blobs/{LAYER}: "
        "404 Not Found: BLOB_UNKNOWN: blob unknown to registry",
        "hint: a foreign layer, which its registry does not keep; --foreign fetches it from 'https://example.com/layer'",
    )


def test_bad_image_leaves_a_good_layout_as_it_was(puller: Puller) -> None:
    puller(puller.serve(IMAGE, "1"))
    before = {path: path.read_bytes() for path in puller.layout.rglob("*") if path.is_file()}
    bad = build_image([*LAYERS, [member("d", b"4")], [member("e", b"5")]])
    bad.blobs[bad.layers[4].digest] += b" "
    assert puller(puller.serve(bad, "2")).code == 7
    assert {path: path.read_bytes() for path in puller.layout.rglob("*") if path.is_file()} == before


def test_failing_image_does_not_keep_the_others_from_coming(puller: Puller) -> None:
    """Each failure is told with its image; the code is that of the first."""
    good = puller.serve(IMAGE, "1")
    other = build_image(LAYERS[:1])
    absent = f"{puller.registry.host}/library/app:2"
    bad = build_image([*LAYERS, [member("d", b"4")]], edit_config=lambda config: config["rootfs"]["diff_ids"].pop())
    pulled = puller(good, absent, puller.serve(bad, "3"), puller.serve(other, "4"))
    assert (pulled.code, pulled.out) == (
        3,
        f"REGISTRY/library/app:1@{IMAGE.digest}\nREGISTRY/library/app:4@{other.digest}\n",
    )
    assert pulled.errors == [
        "ociexport: error: image REGISTRY/library/app:2: GET http://REGISTRY/v2/library/app/manifests/2: "
        "404 Not Found: MANIFEST_UNKNOWN: manifest unknown",
        NOT_FOUND_HINT,
        f"ociexport: error: image 'REGISTRY/library/app:3': manifest {bad.digest}: config {bad.config.digest}: "
        "expected as many diff_ids as layers, got 4 layers but 3 diff_ids",
        VERIFY_HINT.replace("app:1", "app:3"),
    ]
    assert puller.blobs == {digest.encoded for digest in IMAGE.all_digests | other.all_digests}


# What is cut short


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_it_at_once_and_the_next_run_goes_on(
    puller: Puller, number: signal.Signals, code: int, word: str
) -> None:
    image = build_image([[member("big", os.urandom(4_000_000))], [member("b", b"2")]])
    reference = puller.serve(image)
    puller.registry.misbehave(image.layers[0].digest.encoded, Fault(stall_after=2_000_000, delay_seconds=60))
    partial = puller.layout / ".ociexport" / "partial" / f"sha256-{image.layers[0].digest.encoded}"
    with subprocess.Popen(
        command_line("pull", reference, "--out", puller.layout, "--platform", "linux/amd64"),
        env=command_environment(puller.home),
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            wait_for(lambda: partial.exists() and partial.stat().st_size >= 1_000_000)
            started = time.monotonic()
            command.send_signal(number)
            said = command.communicate(timeout=30)[1]
        finally:
            command.kill()
    assert time.monotonic() - started < 2
    assert command.returncode == code
    assert said.splitlines()[-1] == f"ociexport: error: {word}"
    assert json.loads((puller.layout / "index.json").read_bytes())["manifests"] == []

    puller.registry.behave()
    pulled = puller(reference)
    assert pulled.code == 0
    assert any(
        line.startswith(f"ociexport: layer 1/2 {image.layers[0].digest.short}: resumed at ") for line in pulled.lines
    )
    assert not (puller.layout / ".ociexport").exists()


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_at_once_while_the_name_service_is_silent(puller: Puller, number: signal.Signals) -> None:
    """The system's own look-up goes on for ten seconds, whatever signals come."""
    require("unshare", "mount", root=True)
    configuration = puller.home / "resolv.conf"
    configuration.write_text("nameserver 127.0.0.57\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind(("127.0.0.57", 53))
        service.settimeout(30)
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        words = command_line("pull", "registry.example.test/app:1", "--out", puller.layout, "-q")
        with subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, configuration, *words],
            env=command_environment(puller.home),
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            service.recv(4096)
            started = time.monotonic()
            command.send_signal(number)
            said = command.communicate(timeout=30)[1]
    assert time.monotonic() - started < 2
    assert said == f"ociexport: error: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"


def test_killed_amid_parallel_parts_the_next_run_goes_on(puller: Puller) -> None:
    """Parts that came ahead of their turn lie in the file already: it is as long as the blob, and has gaps."""
    image = build_image([[member("big", os.urandom(28 << 20))]], compression="plain")
    (layer,) = image.layers
    reference = puller.serve(image)
    puller.registry.bytes_per_second = 4 << 20
    layout, partial = ImageLayout(puller.layout), puller.partial(layer)
    command = subprocess.Popen(
        command_line("pull", reference, "--out", puller.layout, "-q"), env=command_environment(puller.home)
    )
    try:
        wait_for(lambda: layout.partial_bytes(layer) > 5 << 20 and partial.stat().st_size > layer.size)
    finally:
        command.kill()
    assert command.wait() == -signal.SIGKILL
    there = layout.partial_bytes(layer)
    assert 5 << 20 < there < layer.size

    puller.registry.bytes_per_second = None
    pulled = puller(reference)
    assert pulled.code == 0
    assert f"ociexport: layer 1/1 {layer.digest.short}: resumed at {there} of {layer.size} bytes" in pulled.lines
    assert Digest.of(puller.blob(layer).read_bytes()) == layer.digest
    assert not (puller.layout / ".ociexport").exists()


def test_blob_that_lacks_only_its_name_is_not_fetched_again(puller: Puller) -> None:
    """kill -9 between the last byte and the name."""
    reference = puller.serve(IMAGE)
    for layer in IMAGE.layers[:2]:
        puller.partial(layer).parent.mkdir(parents=True, exist_ok=True)
        puller.partial(layer).write_bytes(IMAGE.blobs[layer.digest])
    damaged = IMAGE.layers[1]
    puller.partial(damaged).write_bytes(bytes(damaged.size))
    assert puller(reference).code == 0
    fetched = [path.rpartition("/")[2] for path in puller.registry.paths() if "/blobs/" in path]
    assert sorted(fetched) == sorted(map(str, [IMAGE.config.digest, damaged.digest, IMAGE.layers[2].digest]))


def test_two_at_once_lose_nothing(puller: Puller) -> None:
    """containers/image issue 513: parallel copies into one layout lose entries of index.json."""
    references = [puller.serve(build_image([*LAYERS, [member("n", b"%d" % n)]]), str(n)) for n in range(4)]
    commands = [
        subprocess.Popen(
            command_line("pull", reference, "--out", puller.layout, "-q"),
            env=command_environment(puller.home),
            stdout=subprocess.DEVNULL,
        )
        for reference in references
    ]
    assert [command.wait(60) for command in commands] == [0, 0, 0, 0]
    names = {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in puller.index}
    assert names == {"0", "1", "2", "3"}
    assert not (puller.layout / ".ociexport").exists()


def test_two_processes_fetch_a_blob_once(puller: Puller) -> None:
    image = build_image([[member("big", os.urandom(4_000_000))]])
    reference = puller.serve(image)
    puller.registry.bytes_per_second = 4_000_000
    commands = [
        subprocess.Popen(
            command_line("pull", reference, "--out", puller.layout, "-q"),
            env=command_environment(puller.home),
            stdout=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]
    assert [command.wait(60) for command in commands] == [0, 0, 0]
    assert len([path for path in puller.registry.paths() if path.endswith(str(image.layers[0].digest))]) == 1


def test_who_waits_for_a_blob_goes_on_where_the_other_was_killed(puller: Puller) -> None:
    image = build_image([[member("big", os.urandom(4_000_000))]])
    (layer,) = image.layers
    reference = puller.serve(image)
    puller.registry.misbehave(str(layer.digest), Fault(stall_after=2_000_000, delay_seconds=60), times=1)
    words = command_line("pull", reference, "--out", puller.layout, "-q")
    with subprocess.Popen(words, env=command_environment(puller.home)) as first:
        wait_for(lambda: puller.partial(layer).exists() and puller.partial(layer).stat().st_size >= 1_000_000)
        with subprocess.Popen(words, env=command_environment(puller.home)) as second:
            wait_for(lambda: len([path for path in puller.registry.paths() if "/manifests/" in path]) == 2)
            first.kill()
            assert second.wait(60) == 0
    asked = [request for request in puller.registry.requests if request.path.endswith(str(layer.digest))]
    assert len(asked) == 2
    assert int(asked[1].headers["range"].removeprefix("bytes=").removesuffix("-")) >= 1_000_000
    assert Digest.of(puller.blob(layer).read_bytes()) == layer.digest


def test_output_that_nobody_reads_is_no_error_of_ours(puller: Puller) -> None:
    """`ociexport pull … | true`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            command_line("pull", puller.serve(IMAGE), "--out", puller.layout, "-q"),
            env=command_environment(puller.home),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")
