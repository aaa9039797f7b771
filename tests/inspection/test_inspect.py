"""inspect: an image's documents through the library; no layer is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ociexport
from ociexport.errors import DigestMismatchError, InvalidImageError, NoMatchingPlatformError, NotFoundError
from ociexport.inspection.inspect import history_of, inspect_source
from ociexport.spec import mediatypes
from ociexport.spec.descriptor import ATTESTED_ANNOTATION, Platform
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_artifact, build_image, build_index, write_layout
from tests.support.memory_source import member

S390X = Platform("linux", "s390x")
HISTORY = [
    {"created_by": "ADD rootfs"},
    {"created_by": "ENV A=b", "empty_layer": True},
    {"created_by": "RUN true"},
]


def with_history(config: dict[str, Any]) -> None:
    config["history"] = HISTORY


IMAGE = build_image([[member("a")], [member("b")]], edit_config=with_history)
ARM_IMAGE = build_image([[member("a")], [member("c")]], platform=ARM64)


def attested_index(*images: BuiltImage) -> BuiltImage:
    """Return an index of ``images``, with the attestation that BuildKit adds for the first.

    Spec: BuildKit's attestation-storage.md.
    """

    def add_attestation(index: dict[str, Any]) -> None:
        entry = build_artifact(b"{}").descriptor.to_json()
        entry["platform"] = {"os": "unknown", "architecture": "unknown"}
        entry["annotations"] = {
            ATTESTED_ANNOTATION: str(images[0].digest),
            "vnd.docker.reference.type": "attestation-manifest",
        }
        index["manifests"].append(entry)
        index["annotations"] = {"org.opencontainers.image.title": "two"}

    return build_index(images, edit_index=add_attestation)


INDEX = attested_index(IMAGE, ARM_IMAGE)


def test_no_layer_is_read() -> None:
    """Issue 5, Looking: inspect reads documents."""
    source = INDEX.source()
    inspect_source(source, AMD64, must_fit=True)
    assert source.opened == [IMAGE.config.digest]


def test_index_is_told_with_its_platforms_and_attestations() -> None:
    """Entries of unknown/unknown with BuildKit's annotation are attestations, not platforms."""
    found = ociexport.inspect(INDEX.source(), platform=ARM64)
    assert found.top.raw == INDEX.raw
    assert [entry.platform for entry in found.manifests] == [AMD64, ARM64]
    assert [entry.digest for entry in found.attestations] == [build_artifact(b"{}").digest]
    assert found.image is not None
    assert (found.image.manifest.digest, found.image.platform) == (ARM_IMAGE.digest, ARM64)
    assert found.missing is None


def test_platforms_of_indexes_within_an_index_are_listed() -> None:
    outer = build_index([INDEX, build_image([], platform=S390X)])
    found = inspect_source(outer.source(), AMD64, must_fit=False)
    assert [entry.platform for entry in found.manifests] == [AMD64, ARM64, S390X]
    assert len(found.attestations) == 1


def test_index_within_an_index_that_is_not_there_is_listed_itself() -> None:
    outer = build_index([INDEX, IMAGE])
    source = outer.source()
    fetch = source.fetch_manifest

    def fetch_all_but_one(descriptor: Any = None) -> Any:
        if descriptor is not None and descriptor.digest == INDEX.digest:
            raise NotFoundError("not there")
        return fetch(descriptor)

    source.fetch_manifest = fetch_all_but_one  # type: ignore[method-assign]
    found = inspect_source(source, AMD64, must_fit=False)
    assert [entry.media_type for entry in found.manifests] == [mediatypes.OCI_INDEX, mediatypes.OCI_MANIFEST]


def test_platform_that_was_asked_for_must_be_there() -> None:
    with pytest.raises(NoMatchingPlatformError):
        ociexport.inspect(INDEX.source(), platform=S390X)


def test_index_without_this_machines_platform_is_still_told() -> None:
    found = inspect_source(INDEX.source(), S390X, must_fit=False)
    assert found.image is None
    assert found.missing == (
        f"manifest {INDEX.digest}: no image for platform linux/s390x, there are: linux/amd64, linux/arm64"
    )


def test_history_stands_with_the_layers_that_it_made() -> None:
    """image-spec config.md: steps with ``empty_layer`` have no layer."""
    found = ociexport.inspect(IMAGE.source())
    assert found.image is not None
    assert [(line.entry.created_by, line.layer) for line in found.image.history] == [
        ("ADD rootfs", 1),
        ("ENV A=b", None),
        ("RUN true", 2),
    ]
    made_second = history_of(found.image.history, 2)
    assert made_second is not None
    assert made_second.created_by == "RUN true"
    assert [layer.diff_id for layer in found.image.layers] == list(IMAGE.diff_ids)


@pytest.mark.parametrize("history", [HISTORY[:1], [*HISTORY, {"created_by": "one too many"}]])
def test_history_that_does_not_fit_is_paired_with_nothing(history: list[object]) -> None:
    """A history is optional, and some tools write a wrong one; a wrong pairing would mislead."""
    image = build_image([[member("a")], [member("b")]], edit_config=lambda config: config.update(history=history))
    found = ociexport.inspect(image.source())
    assert found.image is not None
    assert {line.layer for line in found.image.history} == {None}
    assert history_of(found.image.history, 1) is None


def test_artifact_is_told_without_a_config() -> None:
    artifact = build_artifact(b"chart")
    found = ociexport.inspect(artifact.source())
    assert found.image is not None
    assert (found.image.config, found.image.layers, found.image.size) == (None, (), 5)
    assert found.image.manifest.artifact_type == "application/vnd.example.chart"


def test_broken_config_is_an_error() -> None:
    image = build_image([[member("a")]], edit_config=lambda config: config["rootfs"]["diff_ids"].clear())
    with pytest.raises(InvalidImageError, match="expected as many diff_ids as layers, got 1 layer but 0 diff_ids"):
        ociexport.inspect(image.source())


def test_config_is_verified() -> None:
    image = build_image([[member("a")]])
    image.blobs[image.config.digest] = image.blobs[image.config.digest].replace(b"amd64", b"arm64")
    with pytest.raises(DigestMismatchError):
        ociexport.inspect(image.source())


def test_names_of_sources_are_opened(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"1": IMAGE})
    assert ociexport.inspect(str(tmp_path / "layout")).top.digest == IMAGE.digest
    with FakeRegistry() as registry:
        found = ociexport.inspect(IMAGE.serve(registry, "team/app", "1"))
        assert found.name == f"{registry.host}/team/app:1"
        assert found.top.raw == IMAGE.raw


def test_altered_manifest_is_refused() -> None:
    with FakeRegistry() as registry:
        name = IMAGE.serve(registry, "team/app", None)
        registry.misbehave("/manifests/", Fault(change=lambda raw: raw + b"\n"))
        with pytest.raises(DigestMismatchError):
            ociexport.inspect(name)


def test_deep_indexes_end() -> None:
    index = IMAGE
    for _ in range(6):
        index = build_index(
            [index],
            edit_index=lambda index: index["manifests"][0].update(platform={"os": "linux", "architecture": "amd64"}),
        )
    with pytest.raises(InvalidImageError, match="indexes within indexes: expected at most 5"):
        inspect_source(index.source(), AMD64, must_fit=False)


def test_what_is_typed_is_typed() -> None:
    """Issue 6, Library: `ociexport.inspect` is public, and its result is a value."""
    assert {"inspect", "Inspection"} <= set(ociexport.__all__)
    assert hash(ociexport.inspect(IMAGE.source()).top) is not None
    json.loads(ociexport.inspect(IMAGE.source()).top.raw)
