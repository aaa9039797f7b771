"""verify(): what is wrong with the documents and names of a layout; documents are followed as far as can be read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport import verify
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.verification.schemas import config_flaws, index_flaws, manifest_flaws
from tests.support.damaged_layout import DamagedLayout
from tests.support.image_builder import (
    ARM64,
    Json,
    build_artifact,
    build_image,
    build_index,
    descriptor_of,
    to_json,
)
from tests.support.memory_source import member
from tests.support.schema1_images import EMPTY_LAYER, build_schema1

IMAGE = build_image([[member("a", b"x")], [member("b")]])
OTHER = build_image([[member("c")]], platform=ARM64)

FIRST, SECOND = IMAGE.layers


def test_config_and_manifest_must_have_as_many_layers(layout: DamagedLayout) -> None:
    layout.write(
        one=build_image([[member("a")], [member("b")]], edit_config=lambda config: config["rootfs"]["diff_ids"].pop()),
        two=build_image([[member("c")]], edit_config=lambda config: config["history"].append({"created_by": "x"})),
    )
    assert layout.findings() == [
        "wrong: one: manifest <one>: config <one config>: expected as many diff_ids as layers, "
        "got 2 layers but 1 diff_id",
        "note: two: manifest <two>: config <two config>: history: 2 steps with a layer, but 1 layer",
    ]


def test_all_flaws_of_a_document_are_told(layout: DamagedLayout) -> None:
    def spoil(manifest: Json) -> None:
        manifest["annotations"] = {"a": 1}
        manifest["layers"][0].update(size="7", mediaType="tar")
        del manifest["layers"][1]["digest"]

    def spoil_config(config: Json) -> None:
        del config["architecture"]
        config.update(created="yesterday", author=7, history=[{"empty_layer": "no"}])
        config["config"].update(Env="PATH=/", ExposedPorts={"80/tcp": None}, Volumes=None, ArgsEscaped=1)
        config["rootfs"]["type"] = "tree"

    layout.write(one=build_image([[member("a")], [member("b")]], edit_config=spoil_config, edit_manifest=spoil))
    assert [line for line in layout.findings() if line.startswith("wrong")] == [
        "wrong: one: manifest <one>: layers[0]: mediaType: expected a media type, got 'tar'",
        "wrong: one: manifest <one>: layers[0]: size: expected an integer, got a string",
        "wrong: one: manifest <one>: layers[1]: digest: expected a string, got nothing",
        "wrong: one: manifest <one>: annotations['a']: expected a string, got an integer",
    ]
    layout.write(one=build_image([[member("a")]], edit_config=spoil_config))
    place = "wrong: one: manifest <one>: config <one config>"
    assert [line for line in layout.findings() if line.startswith("wrong")] == [
        f"{place}: architecture: expected a string, got nothing",
        f"{place}: rootfs: type: expected 'layers', got 'tree'",
        f"{place}: created: expected an RFC 3339 time, got 'yesterday'",
        f"{place}: author: expected a string, got an integer",
        f"{place}: config: ExposedPorts['80/tcp']: expected an object, got nothing",
        f"{place}: config: Env: expected a list, got a string",
        f"{place}: config: ArgsEscaped: expected a boolean, got an integer",
        f"{place}: history[0]: empty_layer: expected a boolean, got a string",
    ]


def test_flawed_document_is_followed_as_far_as_it_can_be_read(layout: DamagedLayout) -> None:
    layout.write(all=build_index([IMAGE, OTHER], edit_index=lambda index: index["manifests"][1].update(size=-1)))
    layout.blob(SECOND.digest).unlink()
    layout.names |= {str(IMAGE.digest): "<image>", str(SECOND.digest): "<layer>"}
    assert [line for line in layout.findings() if line.startswith("wrong")] == [
        "wrong: all: manifest <all>: manifests[1]: size: expected 0 to 9223372036854775807, got -1",
        "wrong: all: manifest <image>: layer 2 of 2 (<layer>): not there",
    ]


@pytest.mark.parametrize(
    ("document", "media_type", "finding"),
    [
        (
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
            mediatypes.OCI_MANIFEST,
            "mediaType: expected application/vnd.oci.image.manifest.v1+json, as announced, "
            "got 'application/vnd.oci.image.index.v1+json'",
        ),
        (
            b'{"schemaVersion":2,"manifests":[],"layers":[]}',
            mediatypes.OCI_INDEX,
            "manifests: expected an index, got a document that has layers or a config as well",
        ),
        (b"no JSON", mediatypes.OCI_INDEX, None),
        (b"[]", mediatypes.OCI_INDEX, "expected a JSON object, got a list"),
    ],
)
def test_document_of_another_kind_is_told(
    layout: DamagedLayout, document: bytes, media_type: str, finding: str
) -> None:
    """CVE-2021-41190: what a document is must not depend on who reads it."""
    layout.write()
    layout.add(document, media_type)
    found = layout.findings()
    assert len(found) == 1
    assert found[0].startswith("wrong: added: manifest <added>: ")
    if finding:
        assert found[0] == f"wrong: added: manifest <added>: {finding}"


def test_manifest_with_the_config_of_something_else_is_told(layout: DamagedLayout) -> None:
    layout.write(
        one=build_image(
            [[member("a")]], edit_manifest=lambda manifest: manifest["config"].update(mediaType="application/x+json")
        )
    )
    assert layout.findings() == [
        "note: one: manifest <one>: config <one config>: not an image config, but of type 'application/x+json'"
    ]


def test_config_that_is_no_json_is_told(layout: DamagedLayout) -> None:
    image = build_image([[member("a")]])
    raw = json.loads(image.raw)
    raw["config"] = descriptor_of(b"[]", mediatypes.OCI_CONFIG).to_json()
    layout.write(one=image)
    layout.add(to_json(raw), mediatypes.OCI_MANIFEST)
    layout.blob(Digest.of(b"[]")).write_bytes(b"[]")
    assert layout.findings() == [
        f"wrong: added: manifest <added>: config {Digest.of(b'[]')}: expected a JSON object, got a list"
    ]


def test_unknown_documents_are_followed_but_no_error(layout: DamagedLayout) -> None:
    """image-spec considerations.md: an unknown media type is no error."""
    layout.write(one=IMAGE)
    layout.blob(Digest.of(b"blob")).write_bytes(b"blob")
    layout.add(
        to_json({"blobs": [{"digest": str(Digest.of(b"blob")), "size": 4}, {"digest": f"sha256:{'0' * 64}"}]}),
        "application/vnd.cncf.oras.artifact.manifest.v1+json",
    )
    layout.add(b"<xml/>", "application/xml", tag="xml")
    assert layout.findings() == [
        f"note: added: manifest <added>: blob sha256:{'0' * 64}: absent, which is allowed here",
    ]


def test_dockers_first_manifest_is_followed(layout: DamagedLayout) -> None:
    """What stands in the place of a layer that is none need not be there."""
    layout.write(one=IMAGE)
    old = build_schema1([[member("a")], None])
    layout.add(old.raw, old.media_type, tag="old")
    (digest,) = map(Digest.of, old.layers)
    note = "a Docker schema 1 manifest: no sizes and diff_ids to compare with; its signature is not checked"
    absent = f"note: old: manifest <old>: blob {Digest.of(EMPTY_LAYER)}: absent, which is allowed here"
    assert layout.findings() == [
        f"note: old: manifest <old>: {note}",
        f"wrong: old: manifest <old>: layer 1 of 1 ({digest}): not there",
        absent,
    ]
    layout.blob(digest).write_bytes(old.layers[0])
    assert layout.findings() == [f"note: old: manifest <old>: {note}", absent]


def test_subject_may_be_absent_and_is_looked_at_where_it_is_there(layout: DamagedLayout) -> None:
    """distribution-spec 1.1, "Pushing Manifests with Subject"."""
    layout.write(one=IMAGE)
    raw = json.loads(build_artifact(b"{}").raw)
    raw["subject"] = IMAGE.descriptor.to_json()
    layout.blob(Digest.of(b"{}")).write_bytes(b"{}")
    layout.add(to_json(raw), mediatypes.OCI_MANIFEST)
    layout.edit_index(lambda index: index["manifests"].pop(0))
    assert layout.findings() == []
    for digest in IMAGE.all_digests:
        layout.blob(digest).unlink()
    assert layout.findings() == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["manifests", "layers", "config", "digest", "size", "rootfs", "x"]), inner)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_document_gives_flaws_and_no_exception(document: object) -> None:
    for flaws in (index_flaws, manifest_flaws, config_flaws):
        for where, message in flaws(document):
            assert where or not isinstance(document, dict)
            assert message


@given(JSON)
def test_any_document_in_a_layout_gives_findings_and_no_exception(
    tmp_path_factory: pytest.TempPathFactory, document: object
) -> None:
    layout = DamagedLayout(tmp_path_factory.mktemp("layout")).write(one=IMAGE)
    layout.add(to_json(document), mediatypes.OCI_INDEX, tag="index")
    layout.add(to_json({"x": document}), "application/x+json", tag="unknown")
    (layout.path / "oci-layout").write_bytes(to_json(document))
    assert not verify(layout.path).is_right


# index.json, names, oci-layout.


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"schemaVersion":2}'])
def test_index_that_can_not_be_read_is_told(layout: DamagedLayout, content: bytes | None) -> None:
    layout.write(one=IMAGE)
    (layout.path / "index.json").unlink()
    if content is not None:
        (layout.path / "index.json").write_bytes(content)
    first, *others = layout.findings()
    assert first.startswith("wrong: index.json: ")
    assert len(others) == len(IMAGE.all_digests)
    if content is None:
        assert first == "wrong: index.json: not there"


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (None, "wrong: oci-layout: not there"),
        (b'{"imageLayoutVersion":"2.0.0"}', "wrong: oci-layout: imageLayoutVersion: expected '1.0.0', got '2.0.0'"),
        (b"{}", "wrong: oci-layout: imageLayoutVersion: expected '1.0.0', got None"),
        (b"[]", "wrong: oci-layout: expected a JSON object, got a list"),
    ],
)
def test_layout_file_must_be_right(layout: DamagedLayout, content: bytes | None, finding: str) -> None:
    """image-layout.md, "oci-layout file"."""
    layout.write(one=IMAGE)
    (layout.path / "oci-layout").unlink()
    if content is not None:
        (layout.path / "oci-layout").write_bytes(content)
    assert layout.findings() == [finding]


def test_two_images_of_one_name_are_right_for_two_platforms(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, other=OTHER)
    layout.edit_index(lambda index: index["manifests"][1].update(annotations=index["manifests"][0]["annotations"]))
    # For two platforms that is an index in the index, whether or not it declares them.
    assert layout.findings() == []
    layout.edit_index(lambda index: index["manifests"][1].pop("platform"))
    assert layout.findings() == []


def test_two_images_of_one_name_and_platform_are_wrong(layout: DamagedLayout) -> None:
    layout.write(one=IMAGE, other=build_image([[member("c")]]))
    layout.edit_index(lambda index: index["manifests"][1].update(annotations=index["manifests"][0]["annotations"]))
    assert layout.findings() == [
        "wrong: index.json: manifests[1]: the name 'one' already belongs to another image, index.json: manifests[0]"
    ]
    layout.edit_index(lambda index: index["manifests"].append(index["manifests"][0]))
    assert layout.findings()[1:] == [
        "note: index.json: manifests[2]: the name 'one' already belongs to the same image, index.json: manifests[0]"
    ]


def test_names_that_mean_nothing_are_told(layout: DamagedLayout) -> None:
    """annotations.md, "org.opencontainers.image.ref.name"; a name by digest must be of that digest."""
    layout.write(one=IMAGE)
    other = f"docker.io/library/app@sha256:{'0' * 64}"

    def rename(index: Json) -> None:
        index["manifests"][0]["annotations"] = {
            "org.opencontainers.image.ref.name": "my image",
            "io.containerd.image.name": other,
        }

    layout.edit_index(rename)
    assert layout.findings() == [
        "note: index.json: manifests[0]: org.opencontainers.image.ref.name: "
        "expected letters, digits and single separators, got 'my image'",
        "wrong: index.json: manifests[0]: io.containerd.image.name: "
        f"expected the image's digest <one>, got sha256:{'0' * 64}",
    ]
    layout.edit_index(lambda index: index["manifests"][0].update(annotations={"io.containerd.image.name": "a/UPPER"}))
    assert layout.findings()[0].startswith("note: index.json: manifests[0]: io.containerd.image.name: image reference")
