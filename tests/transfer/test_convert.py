"""sources.convert: every command sees an image of schema 1 as an OCI image.

Spec: distribution docs/spec/manifest-v2-1.md; moby's pull_v2.go and image/v1 for docker's conversion.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import pytest

import ociexport
from ociexport.errors import InvalidImageError
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import format_bytes
from tests.support.converted_image import DIFF_IDS, IMAGE, LAYERS, A, B, made
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64
from tests.support.memory_source import member
from tests.support.puller import Puller
from tests.support.schema1_images import EMPTY_LAYER, build_schema1, sign


def test_pull_converts_and_says_so(puller: Puller) -> None:
    ended = puller(IMAGE.serve(puller.registry, "library/old"))
    ((descriptor, name),) = ImageLayout(puller.layout).read_images()
    assert (ended.code, ended.errors) == (0, [])
    assert ended.out == f"REGISTRY/library/old:1@{descriptor.digest}\n"
    assert name.full == f"{puller.registry.host}/library/old:1"
    told = (
        "ociexport: REGISTRY/library/old:1: a Docker schema 1 manifest, which was converted to OCI: "
        f"requested {IMAGE.digest}, made {descriptor.digest}"
    )
    assert told in ended.lines
    assert [line for line in ended.lines if "already there" in line and "layer" in line] == []
    config = Path(ImageLayout(puller.layout).blob_path(Digest.parse(made(puller.layout)[0]["config"]["digest"])))
    sizes = [len(blob) for blob in (*IMAGE.layers, config.read_bytes())]
    assert f"3 blobs ({format_bytes(sum(sizes))}) fetched, N s" in ended.lines[-1]
    # The layer of a step that changed no file is not fetched.
    assert puller.blobs == {digest.encoded for digest in LAYERS} | {
        descriptor.digest.encoded,
        Digest.parse(made(puller.layout)[0]["config"]["digest"]).encoded,
    }
    assert f"/v2/library/old/blobs/{Digest.of(EMPTY_LAYER)}" not in puller.registry.paths()


def test_config_is_the_newest_ones_with_the_history_of_all(puller: Puller) -> None:
    puller(IMAGE.serve(puller.registry, "library/old"))
    manifest, config = made(puller.layout)
    assert [(layer["mediaType"], layer["digest"]) for layer in manifest["layers"]] == [
        (mediatypes.OCI_LAYER_GZIP, str(digest)) for digest in LAYERS
    ]
    assert config == {
        "architecture": "amd64",
        "author": "somebody",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": None},
        "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) step 3 <&>"]},
        "created": "2016-01-04T00:00:00Z",
        "docker_version": "1.9.1",
        "history": [
            {"created": "2016-01-02T00:00:00Z", "created_by": "/bin/sh -c #(nop) step 1 <&>"},
            {"created": "2016-01-03T00:00:00Z", "created_by": "/bin/sh -c #(nop) step 2 <&>", "empty_layer": True},
            {
                "created": "2016-01-04T00:00:00Z",
                "author": "somebody",
                "created_by": "/bin/sh -c #(nop) step 3 <&>",
            },
        ],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": DIFF_IDS},
    }
    assert ociexport.verify(str(puller.layout)).findings == ()


def test_what_is_made_is_the_same_each_time_and_everywhere(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = IMAGE.serve(registry, "library/old")
    pulled = ociexport.pull(reference, tmp_path / "layout", platform=AMD64)
    archived = ociexport.pull(reference, tmp_path / "a.tar", platform=AMD64)
    unpacked = ociexport.unpack(reference, tmp_path / "rootfs", platform=AMD64)
    assert pulled.digest == archived.digest == unpacked.manifest_digest
    assert sorted(path.name for path in (tmp_path / "rootfs").iterdir()) == ["a", "b"]


def test_second_pull_fetches_no_layer(puller: Puller) -> None:
    reference = IMAGE.serve(puller.registry, "library/old")
    puller(reference)
    before = puller.blobs
    puller.registry.misbehave("/blobs/", Fault(status=500), when=lambda request: "range" not in request.headers)
    ended = puller(reference)
    assert (ended.code, ended.errors, puller.blobs) == (0, [], before)


@pytest.mark.parametrize("media_type", [None, "application/json", "text/plain; charset=utf-8"])
def test_it_is_known_by_itself(puller: Puller, media_type: str | None) -> None:
    image = build_schema1([A], signed=False)
    reference = image.serve(puller.registry, "library/old", media_type=media_type or "application/octet-stream")
    assert puller(reference).code == 0
    assert made(puller.layout)[1]["rootfs"]["diff_ids"] == DIFF_IDS[:1]


def test_plain_layers_are_called_plain(puller: Puller) -> None:
    """The specification's own example has an uncompressed empty tar."""
    image = build_schema1([A], compressed=False)
    puller(image.serve(puller.registry, "library/old"))
    (layer,) = made(puller.layout)[0]["layers"]
    assert layer["mediaType"] == mediatypes.OCI_LAYER
    assert layer["digest"] == DIFF_IDS[0]


def test_image_without_any_layer(puller: Puller) -> None:
    image = build_schema1([None])
    assert puller(image.serve(puller.registry, "library/old")).code == 0
    assert made(puller.layout)[0]["layers"] == []


def test_pull_by_digest_is_of_what_was_signed(puller: Puller) -> None:
    reference = IMAGE.serve(puller.registry, "library/old", tag=None)
    ended = puller(reference)
    ((descriptor, name),) = ImageLayout(puller.layout).read_images()
    assert (ended.code, ended.out) == (0, f"REGISTRY/library/old@{descriptor.digest}\n")
    assert name.full == f"{puller.registry.host}/library/old@{descriptor.digest}"


def test_pull_by_digest_of_another_is_refused(puller: Puller) -> None:
    other = build_schema1([B])
    reference = IMAGE.serve(puller.registry, "library/old", tag=None)
    puller.registry.manifests["library/old", str(IMAGE.digest)] = (other.raw, other.media_type)
    ended = puller(reference)
    assert (ended.code, ended.errors) == (
        7,
        [
            f"ociexport: error: image REGISTRY/library/old@{IMAGE.digest}: "
            f"digest mismatch: expected {IMAGE.digest}, got {other.digest}",
            f"hint: ociexport verify REGISTRY/library/old@{IMAGE.digest} lists its problems",
        ],
    )
    puller.assert_nothing_left()


def test_signed_document_with_other_layers_beside_is_refused(puller: Puller) -> None:
    """The requested digest is that of the signed part; the rest of the document is unsigned."""
    other = build_schema1([B])
    raw = sign(other.payload, formatLength=0, formatTail=base64.urlsafe_b64encode(IMAGE.payload).decode().rstrip("="))
    reference = IMAGE.serve(puller.registry, "library/old", tag=None)
    puller.registry.manifests["library/old", str(IMAGE.digest)] = (raw, IMAGE.media_type)
    ended = puller(reference)
    assert ended.code == 8
    assert ended.errors[0].endswith(
        ": signatures: expected a signed payload that matches the document, got a different one"
    )
    puller.assert_nothing_left()


def test_announced_digest_that_is_another_is_refused(puller: Puller) -> None:
    reference = IMAGE.serve(puller.registry, "library/old")
    puller.registry.misbehave("/manifests/", Fault(headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"}))
    assert puller(reference).code == 7
    puller.assert_nothing_left()


@pytest.mark.parametrize("out", ["layout", "a.tar"])
def test_layer_that_is_another_is_refused(puller: Puller, tmp_path: Path, out: str) -> None:
    reference = IMAGE.serve(puller.registry, "library/old")
    puller.registry.misbehave(str(LAYERS[1]), Fault(change=lambda raw: raw[:-1] + b"X"))
    ended = puller(reference, out=tmp_path / out)
    assert ended.code == 7
    assert ended.errors[0].startswith(
        f"ociexport: error: manifest {IMAGE.digest}: layer 2 of 2 ({LAYERS[1]}): digest mismatch: expected {LAYERS[1]}"
    )
    puller.assert_nothing_left()


def test_layer_that_is_damaged_is_refused(puller: Puller) -> None:
    """Its digest is correct: it was pushed like this."""
    image = build_schema1([A])
    (digest,) = image.blobs
    bad = image.blobs[digest][:-9]
    broken = build_schema1([A], edit=lambda manifest: manifest["fsLayers"][0].update(blobSum=str(Digest.of(bad))))
    reference = broken.serve(puller.registry, "library/old")
    puller.registry.add_blob(bad)
    ended = puller(reference)
    assert (ended.code, ended.errors) == (
        8,
        [
            f"ociexport: error: manifest {broken.digest}: layer 1 of 1 ({Digest.of(bad)}): "
            "gzip data: expected a complete stream, got one that ends too soon",
            "hint: ociexport verify REGISTRY/library/old:1 lists its problems",
        ],
    )
    puller.assert_nothing_left()


def test_bomb_is_stopped(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociexport.system.compression.RATIO_FROM_BYTES", 1024 * 1024)
    bomb = build_schema1([gzip.compress(bytes(8 * 1024 * 1024), 9, mtime=0)], compressed=False)
    with pytest.raises(InvalidImageError, match="expected at most 250 times the"):
        ociexport.pull(bomb.serve(registry, "library/old"), tmp_path / "layout", platform=AMD64)


@pytest.mark.parametrize("length", ["range", "whole", "none"])
def test_sizes_are_found_out_however_a_registry_tells_them(puller: Puller, length: str) -> None:
    puller.registry.ranges = length == "range"
    puller.registry.chunked = length == "none"
    assert puller(IMAGE.serve(puller.registry, "library/old")).code == 0
    manifest, _ = made(puller.layout)
    assert [layer["size"] for layer in manifest["layers"]] == [len(blob) for blob in IMAGE.layers]


def test_layer_that_is_not_there_is_told(puller: Puller) -> None:
    reference = IMAGE.serve(puller.registry, "library/old")
    del puller.registry.blobs[str(LAYERS[0])]
    ended = puller(reference)
    assert ended.code == 3
    assert ended.errors[0].startswith(f"ociexport: error: blob {LAYERS[0]}: ")
    puller.assert_nothing_left()


def test_pull_that_was_cut_goes_on(puller: Puller) -> None:
    content = bytes(range(256)) * 2000
    image = build_schema1([[member("big", content)]], compressed=False)
    (layer,) = map(Digest.of, image.layers)
    reference = image.serve(puller.registry, "library/old")
    puller.registry.misbehave(
        str(layer), Fault(cut_after=100_000), when=lambda request: request.headers.get("range") != "bytes=0-0"
    )
    assert puller(reference, "--retry-times", "0").code == 5
    partial = Path(ImageLayout(puller.layout).partial_path(layer))
    assert partial.stat().st_size == 100_000
    puller.registry.behave()
    ended = puller(reference)
    assert ended.code == 0
    assert any(line.endswith(f"resumed at 100000 of {len(image.layers[0])} bytes") for line in ended.lines)


@pytest.mark.parametrize(("words", "out"), [((), "a.tar"), (("--legacy",), "a.tar"), (("--decompress",), "l")])
def test_other_destinations(puller: Puller, tmp_path: Path, words: tuple[str, ...], out: str) -> None:
    ended = puller(IMAGE.serve(puller.registry, "library/old"), *words, out=tmp_path / out)
    assert (ended.code, ended.errors) == (0, [])
    result = ociexport.unpack(str(tmp_path / out), tmp_path / "rootfs", platform=AMD64)
    assert [str(diff_id) for diff_id in result.config.diff_ids] == DIFF_IDS
    if words == ("--decompress",):
        # Nothing but the image's own blobs.
        assert ociexport.verify(str(tmp_path / out)).findings == ()


def test_dry_run_fetches_no_layer(puller: Puller) -> None:
    ended = puller(IMAGE.serve(puller.registry, "library/old"), "--dry-run")
    sizes = [len(blob) for blob in IMAGE.layers]
    assert ended.code == 0
    assert ended.out.splitlines()[:5] == [
        f"image REGISTRY/library/old:1: {IMAGE.digest}",
        "  from REGISTRY, anonymous: the registry asked for no credentials",
        "  a converted manifest for linux/amd64",
        f"  layer 1/2 {LAYERS[0].short}: {sizes[0]} B, to fetch",
        f"  layer 2/2 {LAYERS[1].short}: {sizes[1]} B, to fetch",
    ]
    assert f"to fetch: 2 blobs ({sum(sizes)} B), 0 already there" in ended.out
    assert (
        f"ociexport: REGISTRY/library/old:1: a Docker schema 1 manifest, which would be converted to OCI: "
        f"requested {IMAGE.digest}, its new digest depends on its layers"
    ) in ended.lines
    assert [request.headers.get("range") for request in puller.registry.requests if "/blobs/" in request.path] == [
        "bytes=0-0",
        "bytes=0-0",
    ]
    puller.assert_nothing_left()


def test_dry_run_of_an_archive_knows_its_size(puller: Puller, tmp_path: Path) -> None:
    reference = IMAGE.serve(puller.registry, "library/old")
    plan = json.loads(puller(reference, "--dry-run", "--json", out=tmp_path / "a.tar").out)
    assert plan["images"][0]["manifests"] == [
        {
            "digest": None,
            "configDigest": None,
            "isImage": True,
            "platform": {"architecture": "amd64", "os": "linux"},
        }
    ]
    puller(reference, out=tmp_path / "a.tar")
    assert plan["writeBytes"] == (tmp_path / "a.tar").stat().st_size
