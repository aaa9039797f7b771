"""`ociexport pull` into a layout where something stands in a file's place: the error names this place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.image_builder import build_image
from tests.support.memory_source import member
from tests.support.puller import Puller

IMAGE = build_image([[member("a", b"1" * 3000)]])


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
