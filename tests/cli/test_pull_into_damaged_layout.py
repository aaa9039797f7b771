"""`ociexport pull` into a layout where something stands in a file's place: the error and its hint name this place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.puller import Puller

IMAGE = build_image([[member("a", b"1" * 3000)]])
LAYER = IMAGE.layers[0].digest
PARTIAL = f".ociexport/partial/sha256-{LAYER.encoded}"
VERIFY_HINT = "hint: ociexport verify LAYOUT lists its problems"
OWN_HINT = "hint: no image needs LAYOUT/.ociexport; while nothing uses the layout, it may be removed"


@pytest.mark.parametrize(
    ("name", "kind", "place", "hint"),
    [
        ("index.json", "directory", "", VERIFY_HINT),
        ("oci-layout", "fifo", "", VERIFY_HINT),
        (".ociexport/users", "fifo", "", OWN_HINT),
        (".ociexport/lock", "directory", "", OWN_HINT),
        (PARTIAL, "fifo", f"layer 1 of 1 ({LAYER}): ", OWN_HINT),
    ],
)
def test_error_names_what_is_in_the_way(puller: Puller, name: str, kind: str, place: str, hint: str) -> None:
    reference = puller.serve(IMAGE)
    assert puller(reference).code == 0
    puller.blob(IMAGE.layers[0]).unlink()
    path = puller.layout / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True, parents=True)
    (os.mkdir if kind == "directory" else os.mkfifo)(path)
    pulled = puller(reference)
    errors = [line.replace(str(puller.layout), "LAYOUT") for line in pulled.errors]
    error = f"ociexport: error: {place}LAYOUT/{name}: expected a file, got a {kind}"
    assert (pulled.code, errors) == (8, [error, hint])


@pytest.mark.parametrize("has_cache", [False, True])
def test_a_directory_in_a_blobs_place_is_named(puller: Puller, tmp_path: Path, *, has_cache: bool) -> None:
    reference = puller.serve(IMAGE)
    options = ("--cache", str(tmp_path / "cache")) if has_cache else ()
    assert puller(reference, *options).code == 0
    blob = puller.blob(IMAGE.layers[0])
    blob.unlink()
    blob.mkdir()
    pulled = puller(reference, *options)
    assert (pulled.code, pulled.errors) == (9, [f"ociexport: error: {blob}: Is a directory"])
