"""Failures of `ociexport pull`: one line, the exit code, and no files left behind."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from ociexport.spec.descriptor import Platform
from ociexport.spec.digest import Digest
from tests.support.command import run_command
from tests.support.fake_registry import Fault
from tests.support.image_builder import ARM64, BuiltImage, build_image, build_index, write_layout
from tests.support.memory_source import member
from tests.support.puller import Pulled, Puller

LAYERS = [[member("a", b"1" * 3000)], [member("b", b"2" * 5000)], [member("c", b"3")]]
IMAGE = build_image(LAYERS)
PAGE = Fault(body=b"<!DOCTYPE html>\n<html><body>Log in</body></html>", headers={"Content-Type": "text/html"})
VERIFY_HINT = "hint: ociexport verify REGISTRY/library/app:1 lists its problems"
NOT_FOUND_HINT = "hint: check the spelling; if it is private, log in with 'ociexport login REGISTRY'"


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
        (["alpine", "--xyzzy"], ["pull: unknown option '--xyzzy'", "hint: see ociexport pull --help"]),
        (["alpine", "--plattform=x"], ["pull: unknown option '--plattform'", "hint: did you mean --platform?"]),
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
        "ociexport: error: -o/--out: expected PATH, got an empty word\nhint: is a shell variable unset?\n",
    )


def test_layout_is_not_pulled_into_itself(puller: Puller) -> None:
    """`pull ./layout -o layout`."""
    write_layout(puller.layout, {"1": IMAGE})
    pulled = puller(puller.layout)
    assert (pulled.code, pulled.lines) == (
        2,
        [
            f"ociexport: error: '{puller.layout}': expected an image from elsewhere, got the layout that --out names",
            "hint: docker:// before a name makes it an image reference",
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
        f"hint: check whether the server can be reached from here: curl -I http://{host}/v2/",
    )
    retries = [re.sub(r"[0-9.]+ s$", "N s", line) for line in pulled.others]
    assert retries == [f"ociexport: registry {host}: connection refused; retry {n} of 3 in N s" for n in (1, 2, 3)]


def test_token_service_that_is_down_is_named(puller: Puller) -> None:
    """The seed: the registry behind a proxy names a realm on a port where nothing listens."""
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
        f"hint: registry REGISTRY directs clients to {realm} for tokens: report this to its operators",
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
        "hint: the registry requires credentials: log in with 'ociexport login REGISTRY'",
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
         f"from the Docker-Content-Digest header, got {Digest.of(IMAGE.raw + b' ')}"),
        ("manifests/1$", PAGE, 7,
         f"image REGISTRY/library/app:1: digest mismatch: expected {IMAGE.digest}, "
         f"from the Docker-Content-Digest header, got {Digest.of(PAGE.body or b'')}"),
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
        f"hint: ociexport verify REGISTRY/library/app@{IMAGE.digest} lists its problems",
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
        "ociexport: error: image REGISTRY/library/app:1: GET http://REGISTRY/v2/library/app/manifests/1: "
        "expected a manifest, got HTML document, ASCII text",
        "hint: the server may not be a registry; this may be a login or proxy page",
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
        (edited(edit_manifest=lambda manifest: manifest.update(schemaVersion=1)), 8,
         "manifest {manifest}: schemaVersion: expected 2, got 1"),
    ],
    ids=["counts", "digest path", "diff_id path", "negative size", "smaller size", "larger size", "layer digest",
         "config digest", "config size", "config limit", "schema version"],
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
        "hint: the source lacks this blob of the image: someone who has the image should push it again",
    )


def test_foreign_layer_that_the_registry_does_not_keep(puller: Puller) -> None:
    """layer.md, "Non-Distributable Layers": registries did not store Windows base layers."""
    image = edited(edit_manifest=lambda manifest: manifest["layers"][1].update(urls=["https://example.com/layer"]))
    reference = puller.serve(image)
    del puller.registry.blobs[str(LAYER)]
    assert_fails(
        puller,
        puller(reference),
        3,
        f"ociexport: error: blob {LAYER}: GET http://REGISTRY/v2/library/app/blobs/{LAYER}: "
        "404 Not Found: BLOB_UNKNOWN: blob unknown to registry",
        "hint: a foreign layer, which its registry does not store; --foreign fetches it from 'https://example.com/layer'",
    )


def test_bad_image_leaves_a_good_layout_as_it_was(puller: Puller) -> None:
    puller(puller.serve(IMAGE, "1"))
    before = {path: path.read_bytes() for path in puller.layout.rglob("*") if path.is_file()}
    bad = build_image([*LAYERS, [member("d", b"4")], [member("e", b"5")]])
    bad.blobs[bad.layers[4].digest] += b" "
    assert puller(puller.serve(bad, "2")).code == 7
    assert {path: path.read_bytes() for path in puller.layout.rglob("*") if path.is_file()} == before


def test_failing_image_does_not_keep_the_others_from_coming(puller: Puller) -> None:
    """Each failure is reported with its image; the exit code is that of the first."""
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
