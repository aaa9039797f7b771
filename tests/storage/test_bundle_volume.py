"""The member ``volume`` of a ``bundle.json`` is untrusted: what is out of range is refused at the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ociexport.errors import InvalidImageError, OciexportError
from ociexport.storage.bundle import parse_bundle
from ociexport.storage.bundle_volume import MAX_VOLUMES, volume_name
from tests.support.image_builder import build_image
from tests.support.updates import layer
from tests.support.volumes import files_in, write_volumes


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    image = build_image([layer("big", 70_000), layer("small", 500)])
    volumes = write_volumes(tmp_path_factory.mktemp("volumes") / "u.tar", image, "1", 40_000)
    return files_in(volumes[0])["bundle.json"]


def test_it_is_read_as_it_was_written(document: bytes) -> None:
    bundle = parse_bundle(document, where="")
    assert bundle.to_json() == document
    assert bundle.volume is not None
    assert (bundle.volume.number, bundle.volume.count, len(bundle.volume.ranges)) == (1, 3, 1)


def _changed(document: bytes, change: Callable[[Any], object]) -> bytes:
    item = json.loads(document)
    change(item["volume"])
    return json.dumps(item).encode()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda it: it.update(number=0), "volume: number"),
        (lambda it: it.update(number=4), "volume: number"),
        (lambda it: it.update(count=MAX_VOLUMES + 1), "volume: count"),
        (lambda it: it.update(set="sha256:abc"), "volume: set"),
        (lambda it: it["blobs"][0].update(last=4), "volume: blobs[0]: last"),
        (lambda it: it["blobs"][0].update(first=3, last=2), "volume: blobs[0]: last"),
        (lambda it: it["blobs"][0].update(first=0), "volume: blobs[0]: first"),
        (lambda it: it["blobs"][0].update(size=-1), "volume: blobs[0]: size"),
        (lambda it: it["ranges"][0].update(offset=-1), "volume: ranges[0]: offset"),
        (lambda it: it["ranges"][0].update(offset=it["ranges"][0]["size"]), "volume: ranges[0]: offset"),
        (lambda it: it["ranges"][0].update(length=it["ranges"][0]["size"] + 1), "volume: ranges[0]: length"),
        (lambda it: it["ranges"][0].update(length=0), "volume: ranges[0]: length"),
        (lambda it: it["ranges"][0].update(size=2**63), "volume: ranges[0]: size"),
        (lambda it: it["ranges"][0].update(blob="../../etc/passwd"), "volume: ranges[0]: blob"),
        (lambda it: it["ranges"][0].update(digest=1), "volume: ranges[0]: digest"),
        (lambda it: it["ranges"].append(it["ranges"][0]), "volume: ranges"),
        (lambda it: it.update(ranges=7), "volume: ranges"),
    ],
)
def test_what_is_out_of_range_is_refused_at_its_field(
    document: bytes, change: Callable[[Any], object], place: str
) -> None:
    with pytest.raises(OciexportError) as refused:
        parse_bundle(_changed(document, change), where="x")
    assert isinstance(refused.value, InvalidImageError)
    assert refused.value.where == f"x: {place}"


def test_names_of_the_other_volumes_follow_from_the_name_of_one(document: bytes) -> None:
    volume = parse_bundle(document, where="").volume
    assert volume is not None
    assert volume.name_of(2, "d/u.1-of-3.tar") == "d/u.2-of-3.tar"
    assert volume.name_of(2, "d/u.01-of-03.tar") == "d/u.02-of-03.tar"
    for other in ("u.tar", "u.2-of-3.tar", "u.1-of-4.tar", "standard input", "u.1-of-3/x"):
        assert volume.name_of(2, other) == "volume 2 of 3"
    assert volume.name_of(2, volume_name(str(Path("a") / "b.tar"), 1, 3)) == "a/b.2-of-3.tar"
