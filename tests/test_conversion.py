"""conversion: an image of schema 1 comes out as an OCI image, whatever is done with it.

Spec: distribution docs/spec/manifest-v2-1.md; moby's pull_v2.go and image/v1 for what docker makes of it.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ociexport
from ociexport import mediatypes
from ociexport.digest import Digest
from ociexport.documents import parse_config, parse_document
from ociexport.errors import DigestMismatchError, InvalidImageError, UnsupportedMediaTypeError
from ociexport.layout import ImageLayout
from ociexport.progress import format_bytes
from ociexport.reference import ImageReference
from ociexport.registry.client import open_registry_source
from ociexport.source_names import open_source
from tests.command import run_command
from tests.fake_registry import FakeRegistry, Fault
from tests.image_builder import AMD64, ARM64, build_image, descriptor_of, to_json
from tests.image_builder import write_layout as write_built_layout
from tests.memory_source import member, tar_of
from tests.puller import Puller
from tests.schema1_images import EMPTY_LAYER, Schema1Image, build_schema1, sign
from tests.system_parts import docker_registry, require, run

A, B = [member("a", b"1" * 1000), member("gone", b"")], [member("b", b"2"), member(".wh.gone")]
IMAGE = build_schema1([A, None, B])
LAYERS = tuple(map(Digest.of, IMAGE.layers))
DIFF_IDS = [str(Digest.of(tar_of(tar))) for tar in (A, B)]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def puller(registry: FakeRegistry, tmp_path: Path) -> Puller:
    return Puller(registry, tmp_path)


def made(layout: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest and the config of the only image in a layout."""
    ((descriptor, _),) = ImageLayout(layout).read_images()
    manifest = json.loads(Path(ImageLayout(layout).blob_path(descriptor.digest)).read_bytes())
    config = Path(ImageLayout(layout).blob_path(Digest.parse(manifest["config"]["digest"])))
    return manifest, json.loads(config.read_bytes())


def test_pull_converts_and_says_so(puller: Puller) -> None:
    ended = puller(IMAGE.serve(puller.registry, "library/old"))
    ((descriptor, name),) = ImageLayout(puller.layout).read_images()
    assert (ended.code, ended.errors) == (0, [])
    assert ended.out == f"REGISTRY/library/old:1@{descriptor.digest}\n"
    assert name.full == f"{puller.registry.host}/library/old:1"
    told = (
        "ociexport: REGISTRY/library/old:1: a Docker schema 1 manifest, which was converted to OCI: "
        f"asked for {IMAGE.digest}, made {descriptor.digest}"
    )
    assert told in ended.lines
    assert [line for line in ended.lines if "already there" in line and "layer" in line] == []
    config = Path(ImageLayout(puller.layout).blob_path(Digest.parse(made(puller.layout)[0]["config"]["digest"])))
    sizes = [len(blob) for blob in (*IMAGE.layers, config.read_bytes())]
    assert f"3 blobs ({format_bytes(sum(sizes))}) fetched, 0 (0 B) already there" in ended.lines[-1]
    # The steps' layers and no others: that of a step without one is not even fetched.
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
    """The specification's own example has an empty tar that is not compressed."""
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
            f"hint: ociexport verify REGISTRY/library/old@{IMAGE.digest} says all that is wrong with it",
        ],
    )
    puller.assert_nothing_left()


def test_signed_document_with_other_layers_beside_is_refused(puller: Puller) -> None:
    """The digest asked for is that of what was signed, and the rest of the document is somebody else's."""
    other = build_schema1([B])
    raw = sign(other.payload, formatLength=0, formatTail=base64.urlsafe_b64encode(IMAGE.payload).decode().rstrip("="))
    reference = IMAGE.serve(puller.registry, "library/old", tag=None)
    puller.registry.manifests["library/old", str(IMAGE.digest)] = (raw, IMAGE.media_type)
    ended = puller(reference)
    assert ended.code == 8
    assert ended.errors[0].endswith(
        ": signatures: expected what was signed to be what the document says, got something else"
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
    """Its digest is right: whoever pushed it pushed it so."""
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
            "hint: ociexport verify REGISTRY/library/old:1 says all that is wrong with it",
        ],
    )
    puller.assert_nothing_left()


def test_bomb_is_stopped(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ociexport.compression.RATIO_FROM_BYTES", 1024 * 1024)
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
        # Nothing beside what the image is made of.
        assert ociexport.verify(str(tmp_path / out)).findings == ()


def test_dry_run_fetches_no_layer(puller: Puller) -> None:
    ended = puller(IMAGE.serve(puller.registry, "library/old"), "--dry-run")
    sizes = [len(blob) for blob in IMAGE.layers]
    assert ended.code == 0
    assert ended.out.splitlines()[:5] == [
        f"image REGISTRY/library/old:1: {IMAGE.digest}",
        "  from REGISTRY, asked as nobody: no credentials were wanted",
        "  a manifest to be made of it for linux/amd64",
        f"  layer 1/2 {LAYERS[0].short}: {sizes[0]} B, to fetch",
        f"  layer 2/2 {LAYERS[1].short}: {sizes[1]} B, to fetch",
    ]
    assert f"to fetch: 2 blobs ({sum(sizes)} B), 0 already there" in ended.out
    assert (
        f"ociexport: REGISTRY/library/old:1: a Docker schema 1 manifest, which is to be converted to OCI: "
        f"asked for {IMAGE.digest}, its new digest is known when the layers are there"
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


# What is beside a pull.


def test_unpack_keeps_layers_among_temporary_files_and_removes_them(registry: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    reference = IMAGE.serve(registry, "library/old")
    ended = run_command(
        "unpack", reference, tmp_path / "rootfs", home=tmp_path, variables={"TMPDIR": str(tmp_path / "tmp")}
    )
    assert ended.returncode == 0
    assert re.search(r": layers are kept in \S+/tmp/ociexport-\w+ until they are used$", ended.stderr, re.M)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert (tmp_path / "rootfs" / "a").read_bytes() == b"1" * 1000


def test_inspect_reads_no_layer(registry: FakeRegistry, tmp_path: Path) -> None:
    ended = run_command("inspect", IMAGE.serve(registry, "library/old"), home=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.replace(registry.host, "REGISTRY").splitlines() == [
        "name:          REGISTRY/library/old:1",
        f"digest:        {IMAGE.digest}",
        f"media type:    {mediatypes.DOCKER_SCHEMA1_SIGNED}",
        "platform:      linux/amd64",
        "created:       2016-01-04T00:00:00Z",
        "author:        somebody",
        'cmd:           ["/bin/sh"]',
        "env:",
        "  PATH=/bin",
        f"layers:        2, {sum(map(len, IMAGE.layers))} B",
        f"  1  {LAYERS[0]}  {len(IMAGE.layers[0])} B  {mediatypes.OCI_LAYER_GZIP}",
        "     /bin/sh -c #(nop) step 1 <&>",
        "  -  /bin/sh -c #(nop) step 2 <&>",
        f"  2  {LAYERS[1]}  {len(IMAGE.layers[1])} B  {mediatypes.OCI_LAYER_GZIP}",
        "     /bin/sh -c #(nop) step 3 <&>",
    ]
    assert {r.headers.get("range") for r in registry.requests if "/blobs/" in r.path} == {"bytes=0-0"}


def test_inspect_as_json_and_raw(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = IMAGE.serve(registry, "library/old")
    told = json.loads(run_command("inspect", reference, "--json", home=tmp_path).stdout)
    assert told["digest"] == str(IMAGE.digest)
    assert told["image"]["config"]["digest"] is None
    assert [layer["diffId"] for layer in told["image"]["layers"]] == [None, None]
    assert run_command("inspect", reference, "--raw", home=tmp_path).stdout.encode() == IMAGE.raw
    config = json.loads(run_command("inspect", reference, "--config", home=tmp_path).stdout)
    assert config["rootfs"]["diff_ids"] == DIFF_IDS


def test_verify_hashes_what_it_names(registry: FakeRegistry) -> None:
    reference = IMAGE.serve(registry, "library/old")
    place = f"{registry.host}/library/old:1: manifest {IMAGE.digest}"
    note = (
        f"note: {place}: a Docker schema 1 manifest: no sizes and diff_ids to compare with; "
        "its signature is not looked at"
    )
    verification = ociexport.verify(reference)
    assert [str(finding) for finding in verification.findings] == [note]
    assert (verification.documents, verification.blobs) == (1, 3)
    registry.blobs[str(LAYERS[0])] = b"other"
    (_, finding) = ociexport.verify(reference).findings
    assert str(finding) == (
        f"wrong: {place}: layer 1 of 2 ({LAYERS[0]}): digest mismatch: expected {LAYERS[0]}, got {Digest.of(b'other')}"
    )


def test_verify_tells_what_is_wrong_with_the_manifest(registry: FakeRegistry) -> None:
    image = build_schema1([A, B], edit=lambda manifest: manifest["history"].pop())
    (finding,) = ociexport.verify(image.serve(registry, "library/old")).findings
    assert str(finding) == (
        f"wrong: {registry.host}/library/old:1: manifest {image.digest}: "
        "expected as many entries of history as of fsLayers, and at least one, got 1 and 2"
    )


# Where else such a manifest may stand.


def write_layout(path: Path, image: Schema1Image, *entries: dict[str, Any]) -> None:
    """Write a layout that holds ``image``, and in whose index.json there are ``entries``, or it."""
    directory = path / "blobs" / "sha256"
    directory.mkdir(parents=True)
    for raw in (*image.blobs.values(), image.raw):
        (directory / Digest.of(raw).encoded).write_bytes(raw)
    listed = entries or (descriptor_of(image.raw, image.media_type).to_json(),)
    (path / "index.json").write_bytes(to_json({"schemaVersion": 2, "manifests": list(listed)}))
    (path / "oci-layout").write_bytes(b'{"imageLayoutVersion": "1.0.0"}')


def test_layout_may_hold_one(tmp_path: Path) -> None:
    """There its digest is that of all its bytes, as of any blob."""
    write_layout(tmp_path / "old", IMAGE)
    result = ociexport.unpack(str(tmp_path / "old"), tmp_path / "rootfs", platform=AMD64)
    assert [str(diff_id) for diff_id in result.config.diff_ids] == DIFF_IDS
    assert ociexport.pull(str(tmp_path / "old"), tmp_path / "new", platform=AMD64).digest == result.manifest_digest
    assert ociexport.inspect(str(tmp_path / "old")).top.digest == Digest.of(IMAGE.raw)
    (finding,) = ociexport.verify(str(tmp_path / "old")).findings
    assert not finding.is_wrong


def test_archive_may_hold_one(tmp_path: Path) -> None:
    write_layout(tmp_path / "old", IMAGE)
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        tar.add(tmp_path / "old", "")
    result = ociexport.unpack(str(tmp_path / "old.tar"), tmp_path / "rootfs", platform=AMD64)
    assert [str(diff_id) for diff_id in result.config.diff_ids] == DIFF_IDS


def index_of_both(registry: FakeRegistry) -> str:
    """Serve an index of an image of schema 1 and one of today."""
    today = build_image([A], platform=ARM64)
    IMAGE.serve(registry, "library/old", tag=None)
    today.serve(registry, "library/old", tag=None)
    entries = [
        {
            **descriptor_of(IMAGE.raw, IMAGE.media_type).to_json(),
            "digest": str(IMAGE.digest),
            "platform": AMD64.to_json(),
        },
        today.descriptor.to_json(),
    ]
    raw = to_json({"schemaVersion": 2, "mediaType": mediatypes.DOCKER_MANIFEST_LIST, "manifests": entries})
    registry.add_manifest("library/old", "1", raw, mediatypes.DOCKER_MANIFEST_LIST)
    return f"{registry.host}/library/old:1"


def test_index_may_name_one(registry: FakeRegistry, tmp_path: Path) -> None:
    """manifest-v2-2.md, "Manifest List": a list may refer to manifests of schema 1."""
    result = ociexport.pull(index_of_both(registry), tmp_path / "layout", platform=AMD64)
    assert made(tmp_path / "layout")[1]["rootfs"]["diff_ids"] == DIFF_IDS
    assert result.digest == ImageLayout(tmp_path / "layout").read_images()[0][0].digest


@pytest.mark.parametrize("words", [("--all",), ("--platform", "linux/amd64,linux/arm64"), ("--sparse",)])
def test_index_that_names_one_is_not_kept(puller: Puller, words: tuple[str, ...]) -> None:
    """Its digest would be that of a document which OCI does not know."""
    ended = puller(index_of_both(puller.registry), *words)
    assert ended.code == 8
    assert ended.errors[0].endswith(
        f": expected image manifests, got a Docker schema 1 manifest, {IMAGE.digest}, which no index of OCI can name"
    )
    assert ended.errors[1] == "hint: --platform for one platform takes it alone, and converts it"
    puller.assert_nothing_left()


def test_source_of_ones_own_is_refused_with_a_hint(registry: FakeRegistry, tmp_path: Path) -> None:
    """What converts is around a source that was opened by name."""
    source = open_registry_source(ImageReference.parse(IMAGE.serve(registry, "library/old")))
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        ociexport.pull(source, tmp_path / "layout", platform=AMD64)
    source.close()
    assert caught.value.hint == "open_source() gives such an image out as an OCI image"


def test_config_is_written_as_docker_writes_it(registry: FakeRegistry) -> None:
    """Its digest is docker's image ID, so that each byte counts: members in order, HTML's own characters escaped."""
    source = open_source(IMAGE.serve(registry, "library/old"))
    manifest = parse_document(source.fetch_manifest().raw, None)
    assert isinstance(manifest, ociexport.documents.Manifest)
    raw = source.open_blob(manifest.config).read(10_000)
    source.close()
    assert parse_config(raw).digest == manifest.config.digest
    assert list(json.loads(raw)) == sorted(json.loads(raw))
    assert b"step 1 \\u003c\\u0026\\u003e" in raw
    assert raw == json.dumps(json.loads(raw), separators=(",", ":")).replace("<&>", "\\u003c\\u0026\\u003e").encode()


def test_digest_mismatch_of_a_layer_is_told_by_library(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = IMAGE.serve(registry, "library/old")
    registry.blobs[str(LAYERS[0])] = b"x" * len(IMAGE.layers[0])
    with pytest.raises(DigestMismatchError):
        ociexport.unpack(reference, tmp_path / "rootfs", platform=AMD64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_image_id_is_the_one_that_skopeo_gives_it(tmp_path: Path) -> None:
    """A real registry signs what skopeo pushes as schema 1; skopeo makes of it what docker makes of it."""
    require("docker-registry", "skopeo")

    def with_empty_step(config: dict[str, Any]) -> None:
        config["history"].insert(1, {"created_by": "ENV <a>&b", "empty_layer": True, "author": "Müller"})

    write_built_layout(tmp_path / "new", {"1": build_image([A, B], edit_config=with_empty_step)})
    with docker_registry(tmp_path / "registry", schema1=True) as host:
        reference = f"{host}/library/old:1"
        copy = ("skopeo", "copy", "--quiet", "--insecure-policy")
        run(*copy, "--dest-tls-verify=false", "--format", "v2s1", f"oci:{tmp_path / 'new'}:1", f"docker://{reference}")
        run(*copy, "--src-tls-verify=false", "--format", "v2s2", f"docker://{reference}", f"dir:{tmp_path / 'dir'}")
        run(*copy, "--src-tls-verify=false", f"docker://{reference}", f"dir:{tmp_path / 'old'}")
        published = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{reference}"))["Digest"]
        pulled = ociexport.pull(reference, tmp_path / "layout", platform=AMD64)
        by_digest = ociexport.pull(f"{host}/library/old@{published}", tmp_path / "layout", platform=AMD64)
    converted = json.loads((tmp_path / "dir" / "manifest.json").read_bytes())
    assert str(pulled.config_digest) == converted["config"]["digest"]
    assert by_digest.digest == pulled.digest
    # skopeo keeps such a manifest as it is in a directory of files.
    assert ociexport.pull(f"dir:{tmp_path / 'old'}", tmp_path / "dirs", platform=AMD64).digest == pulled.digest
    assert str(ociexport.inspect(f"dir:{tmp_path / 'old'}").top.digest) == published
