"""descriptor, manifest, config: a parsed document is valid, or an error names the field."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError, UnsupportedMediaTypeError, counted
from ociexport.spec import mediatypes
from ociexport.spec.config import pair_layers, parse_config
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.json_fields import parse_json_object
from ociexport.spec.manifest import Index, Manifest, parse_document
from tests.spec.test_json_fields import JSON_VALUES
from tests.support.image_builder import ARM64, build_artifact, build_image, build_index, to_json
from tests.support.memory_source import member

LAYERS = [[member("a", b"1")], [member("b", b"2")]]
# From docker's registry in 2016, with the config under the type used then (docker-pull.txt shows this manifest).
LEGACY_MANIFEST = b"""{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
   "config": {
      "mediaType": "application/octet-stream",
      "size": 3820,
      "digest": "sha256:4791cda23dbc3d1c7a0491644ae1c819c7d24b516be95df79113119e0f073416"
   },
   "layers": [
      {
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
         "size": 65699368,
         "digest": "sha256:56eb14001cebec19f2255d95e125c9f5199c9e1d97dd708e1f3ebda3d32e5da7"
      }
   ]
}"""


def test_manifest_keeps_its_bytes_and_its_order() -> None:
    image = build_image(LAYERS)
    manifest = parse_document(image.raw, mediatypes.OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert (manifest.raw, manifest.digest) == (image.raw, image.digest)
    assert manifest.config == image.config
    assert manifest.layers == image.layers
    assert manifest.descriptor == Descriptor(mediatypes.OCI_MANIFEST, image.digest, len(image.raw))


def test_legacy_manifest_is_read() -> None:
    manifest = parse_document(LEGACY_MANIFEST, mediatypes.DOCKER_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert manifest.config.media_type == mediatypes.LEGACY_CONFIG
    assert manifest.layers[0].size == 65699368


@pytest.mark.parametrize("content_type", [None, "", "application/json", "text/plain; charset=utf-8"])
def test_shape_tells_where_nothing_else_does(content_type: str | None) -> None:
    """image-spec manifest.md: mediaType SHOULD be present; older OCI images lack it."""
    image = build_image(LAYERS, edit_manifest=lambda manifest: manifest.pop("mediaType"))
    assert parse_document(image.raw, content_type).media_type == mediatypes.OCI_MANIFEST
    index = build_index([image], edit_index=lambda index: index.pop("mediaType"))
    assert isinstance(parse_document(index.raw, content_type), Index)


def test_content_type_may_have_parameters_and_capitals() -> None:
    image = build_image(LAYERS, media_types="docker", edit_manifest=lambda manifest: manifest.pop("mediaType"))
    document = parse_document(image.raw, "Application/vnd.docker.distribution.manifest.v2+JSON; charset=utf-8")
    assert document.media_type == mediatypes.DOCKER_MANIFEST


def test_index_lists_platforms_and_attestations() -> None:
    def attest(index: dict[str, Any]) -> None:
        index["manifests"][1]["annotations"] = {"vnd.docker.reference.digest": "sha256:" + "0" * 64}

    index = parse_document(
        build_index([build_image(LAYERS, platform=ARM64), build_image([])], edit_index=attest).raw, None
    )
    assert isinstance(index, Index)
    assert [entry.platform for entry in index.manifests] == [ARM64, Platform("linux", "amd64")]
    assert [entry.is_attestation for entry in index.manifests] == [False, True]


def test_artifact_tells_its_type() -> None:
    document = parse_document(build_artifact(b"chart").raw, None)
    assert document.artifact_type == "application/vnd.example.chart"


def broken(edit: Any) -> bytes:
    return build_image(LAYERS, edit_manifest=edit).raw


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.pop("config"), "config: expected an object, got nothing"),
        (lambda m: m.update(schemaVersion=3), "schemaVersion: expected 2, got 3"),
        (lambda m: m.pop("schemaVersion"), "schemaVersion: expected an integer, got nothing"),
        (lambda m: m["layers"][1].pop("digest"), "layers[1]: digest: expected a string, got nothing"),
        (lambda m: m["layers"][1].update(size=-1), "layers[1]: size: expected 0 to 9223372036854775807, got -1"),
        (lambda m: m["layers"][1].update(size=2**63), f"layers[1]: size: expected 0 to {2**63 - 1}, got {2**63}"),
        (lambda m: m["layers"][1].update(size="7"), "layers[1]: size: expected an integer, got a string"),
        (lambda m: m["layers"][1].update(size=True), "layers[1]: size: expected an integer, got a boolean"),
        (lambda m: m["layers"].append("x"), "layers[2]: expected an object, got a string"),
        (
            lambda m: m["layers"][0].update(digest="sha256:../../x"),
            "layers[0]: digest: expected 64 lower-case hexadecimal digits after 'sha256:', got '../../x'",
        ),
        (
            lambda m: m["config"].update(data="!"),
            "config: data: expected base64, got '!'",
        ),
        (
            lambda m: m.update(manifests=[]),
            "layers: expected a manifest, got a document that has manifests as well",
        ),
        (
            lambda m: m.update(mediaType=mediatypes.OCI_INDEX),
            "manifests: expected an index, got a document that has layers or a config as well",
        ),
        (lambda m: m.update(subject="x"), "subject: expected an object, got a string"),
        (lambda m: m.update(annotations={"a": 1}), "annotations['a']: expected a string, got an integer"),
    ],
)
def test_broken_manifest_is_told_by_its_field(edit: Any, message: str) -> None:
    raw = broken(edit)
    with pytest.raises(InvalidImageError) as caught:
        parse_document(raw, None)
    assert str(caught.value) == f"manifest {Digest.of(raw)}: {message}"


def test_document_that_is_announced_as_another_is_refused() -> None:
    """CVE-2021-41190: a document must not be a manifest to one reader and an index to the other."""
    image = build_image(LAYERS)
    with pytest.raises(InvalidImageError) as caught:
        parse_document(image.raw, mediatypes.OCI_INDEX)
    assert str(caught.value) == (
        f"manifest {image.digest}: mediaType: expected application/vnd.oci.image.index.v1+json, as announced, "
        "got 'application/vnd.oci.image.manifest.v1+json'"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b'{"schemaVersion": 1, "name": "a", "fsLayers": []}',
        b'{"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}',
    ],
)
def test_schema_1_is_named(raw: bytes) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        parse_document(raw, None)
    assert str(caught.value) == (
        f"manifest {Digest.of(raw)}: expected an image manifest or index, got a Docker schema 1 manifest"
    )
    assert caught.value.hint is not None


def test_document_of_another_kind_is_named() -> None:
    raw = b'{"schemaVersion": 2, "mediaType": "application/vnd.example+json"}'
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        parse_document(raw, None)
    assert str(caught.value) == (
        f"manifest {Digest.of(raw)}: expected an image manifest or index, got 'application/vnd.example+json'"
    )


def test_embedded_data_is_verified() -> None:
    """image-spec descriptor.md, "Embedded Content": the data must have the descriptor's digest."""
    right = {"mediaType": "x", "digest": str(Digest.of(b"{}")), "size": 2, "data": base64.b64encode(b"{}").decode()}
    assert Descriptor.from_json(parse_json_object(to_json(right), where="")).data == b"{}"
    wrong = {**right, "data": base64.b64encode(b"[]").decode()}
    with pytest.raises(InvalidImageError) as caught:
        Descriptor.from_json(parse_json_object(to_json(wrong), where=""))
    assert str(caught.value) == f"data: expected the 2 bytes of {Digest.of(b'{}')}, got 2 other bytes"


def test_descriptor_reads_as_it_is_written() -> None:
    descriptor = Descriptor(
        "application/x",
        Digest.of(b""),
        0,
        annotations={"a": "b"},
        platform=Platform("windows", "amd64", "v2", "10.0.1", ("win32k",)),
        urls=("https://example.com/x",),
        artifact_type="application/y",
    )
    assert Descriptor.from_json(parse_json_object(to_json(descriptor.to_json()), where="")) == descriptor


def test_config_is_read() -> None:
    config = {
        "created": "2024-01-01T00:00:00Z",
        "author": "me",
        "os": "linux",
        "architecture": "arm",
        "variant": "v7",
        "config": {
            "User": "1000:1000",
            "Env": ["A=b"],
            "Entrypoint": ["/x"],
            "Cmd": None,
            "WorkingDir": "/w",
            "Labels": {"l": "m"},
            "ExposedPorts": {"80/tcp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b""))]},
        "history": [{"created_by": "x", "empty_layer": True}, {"created_by": "y"}],
    }
    parsed = parse_config(to_json(config))
    assert parsed.digest == Digest.of(to_json(config))
    assert str(parsed.platform) == "linux/arm/v7"
    assert parsed.diff_ids == (Digest.of(b""),)
    assert [(entry.created_by, entry.empty_layer) for entry in parsed.history] == [("x", True), ("y", False)]
    container = parsed.container
    assert (container.user, container.env, container.entrypoint, container.cmd) == ("1000:1000", ("A=b",), ("/x",), ())
    assert (container.working_dir, container.labels, container.stop_signal) == ("/w", {"l": "m"}, "SIGTERM")
    assert (container.exposed_ports, container.volumes) == (("80/tcp",), ("/data",))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "rootfs: expected an object, got nothing"),
        ({"rootfs": {"type": "x"}}, "rootfs: type: expected 'layers', got 'x'"),
        ({"rootfs": {"diff_ids": []}}, "rootfs: type: expected a string, got nothing"),
        (
            {"rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b"")), "sha256:../../x"]}},
            "rootfs: diff_ids[1]: expected 64 lower-case hexadecimal digits after 'sha256:', got '../../x'",
        ),
        (
            {"rootfs": {"type": "layers", "diff_ids": []}, "config": {"Env": "A=b"}},
            "config: Env: expected a list, got a string",
        ),
    ],
)
def test_broken_config_is_told_by_its_field(config: dict[str, Any], message: str) -> None:
    raw = to_json(config)
    with pytest.raises(InvalidImageError) as caught:
        parse_config(raw)
    assert str(caught.value) == f"config {Digest.of(raw)}: {message}"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_counts_are_compared_before_they_are_paired(count: int) -> None:
    """STYLE: the numbers of layers and diff_ids are compared before anything is indexed."""
    diff_ids = [str(Digest.of(b"%d" % number)) for number in range(count)]
    image = build_image(LAYERS, edit_config=lambda config: config["rootfs"].update(diff_ids=diff_ids))
    manifest = parse_document(image.raw, None)
    assert isinstance(manifest, Manifest)
    config = parse_config(image.blobs[image.config.digest])
    with pytest.raises(InvalidImageError) as caught:
        pair_layers(manifest, config)
    assert str(caught.value) == (
        f"manifest {image.digest}: config {image.config.digest}: "
        f"expected as many diff_ids as layers, got 2 layers but {counted(count, 'diff_id')}"
    )


def test_layers_are_paired_in_order() -> None:
    image = build_image(LAYERS)
    manifest = parse_document(image.raw, None)
    assert isinstance(manifest, Manifest)
    layers = pair_layers(manifest, parse_config(image.blobs[image.config.digest]))
    assert [(layer.descriptor, layer.diff_id) for layer in layers] == list(
        zip(image.layers, image.diff_ids, strict=True)
    )
    assert str(layers[1]) == f"layer 2 of 2 ({image.layers[1].digest})"


def test_platform_is_shown_so_that_no_terminal_obeys_it() -> None:
    assert str(Platform("li\x1b[31mnux\n", "amd64", None, "10")) == r"li\x1b[31mnux\n(10)/amd64"


DOCUMENTS = st.dictionaries(
    st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "subject"]),
    JSON_VALUES | st.just(2) | st.sampled_from(sorted(mediatypes.INDEXES | mediatypes.MANIFESTS)),
)


@given(DOCUMENTS, st.none() | st.text() | st.sampled_from(mediatypes.ACCEPTED_MANIFESTS))
def test_any_document_is_one_or_an_invalid_image(members: dict[str, Any], media_type: str | None) -> None:
    with contextlib.suppress(InvalidImageError):
        parse_document(json.dumps(members).encode(), media_type)


@given(
    st.dictionaries(
        st.sampled_from(["os", "architecture", "rootfs", "config", "history", "created"]),
        JSON_VALUES | st.just({"type": "layers", "diff_ids": []}),
    )
)
def test_any_config_is_one_or_an_invalid_image(members: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidImageError):
        parse_config(json.dumps(members).encode())
