"""sources.convert, apart from pull: other commands that read an image of schema 1, and other places of its manifest."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

import ociexport
from ociexport.errors import DigestMismatchError, UnsupportedMediaTypeError
from ociexport.spec import mediatypes
from ociexport.spec.config import parse_config
from ociexport.spec.digest import Digest
from ociexport.spec.manifest import parse_document
from ociexport.spec.reference import ImageReference
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.sources.open import open_source
from tests.support.command import run_command
from tests.support.converted_image import DIFF_IDS, IMAGE, LAYERS, A, B, made
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, ARM64, build_image, descriptor_of, to_json
from tests.support.image_builder import write_layout as write_built_layout
from tests.support.puller import Puller
from tests.support.registry_image import open_registry_source
from tests.support.schema1_images import Schema1Image, build_schema1
from tests.support.system_parts import docker_registry, require, run


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
        "its signature is not checked"
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


# Other places of such a manifest.


def write_layout(path: Path, image: Schema1Image, *entries: dict[str, Any]) -> None:
    """Write a layout that holds ``image``; index.json has ``entries``, or the image's own entry."""
    directory = path / "blobs" / "sha256"
    directory.mkdir(parents=True)
    for raw in (*image.blobs.values(), image.raw):
        (directory / Digest.of(raw).encoded).write_bytes(raw)
    listed = entries or (descriptor_of(image.raw, image.media_type).to_json(),)
    (path / "index.json").write_bytes(to_json({"schemaVersion": 2, "manifests": list(listed)}))
    (path / "oci-layout").write_bytes(b'{"imageLayoutVersion": "1.0.0"}')


def test_layout_may_hold_one(tmp_path: Path) -> None:
    """In a layout its digest covers all its bytes, as for any blob."""
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
    """Serve an index of one image of schema 1 and one OCI image."""
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
    """Its digest would be that of a document unknown to OCI."""
    ended = puller(index_of_both(puller.registry), *words)
    assert ended.code == 8
    assert ended.errors[0].endswith(
        f": expected image manifests, got a Docker schema 1 manifest, {IMAGE.digest}, which an OCI index can't list"
    )
    assert ended.errors[1] == "hint: --platform with one platform takes that manifest alone and converts it"
    puller.assert_nothing_left()


def test_source_of_ones_own_is_refused_with_a_hint(registry: FakeRegistry, tmp_path: Path) -> None:
    """A source opened by name is wrapped in the converting one."""
    source = open_registry_source(ImageReference.parse(IMAGE.serve(registry, "library/old")))
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        ociexport.pull(source, tmp_path / "layout", platform=AMD64)
    source.close()
    assert caught.value.hint == "open_source() converts such an image to an OCI image"


def test_config_is_written_as_docker_writes_it(registry: FakeRegistry) -> None:
    """Its digest is docker's image ID, so each byte counts: the order of members, and escaped HTML characters."""
    source = open_source(IMAGE.serve(registry, "library/old"))
    manifest = parse_document(source.fetch_manifest().raw, None)
    assert isinstance(manifest, ociexport.spec.manifest.Manifest)
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
    """A real registry signs the schema 1 image that skopeo pushes; skopeo converts it as docker does."""
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
    # skopeo stores such a manifest unchanged in a dir: directory.
    assert ociexport.pull(f"dir:{tmp_path / 'old'}", tmp_path / "dirs", platform=AMD64).digest == pulled.digest
    assert str(ociexport.inspect(f"dir:{tmp_path / 'old'}").top.digest) == published
