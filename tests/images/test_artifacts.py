"""Artifacts that registries hold beside images are copied like images, and `unpack` reports their type.

Spec: image-spec 1.1 manifest.md, "Guidelines for Artifact Usage"; Helm's and the CNCF's media types; oras 0.x to 1.2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ociexport
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, BuiltImage, build_attestation, build_image, descriptor_of, to_json
from tests.support.memory_source import member, sloppy_gzip, tar_of
from tests.support.puller import Puller

CHART = sloppy_gzip(tar_of([member("chart/Chart.yaml", b"name: chart")]))
WASM = b"\0asm\x01\0\0\0"


def artifact(config: bytes, config_type: str, *layers: tuple[bytes, str], **members: Any) -> BuiltImage:
    """Return a manifest of these, with ``members`` added."""
    descriptors = [descriptor_of(raw, media_type) for raw, media_type in layers]
    described = descriptor_of(config, config_type)
    manifest = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": described.to_json(),
        "layers": [
            {**descriptor.to_json(), "annotations": {"org.opencontainers.image.title": f"file{number}"}}
            for number, descriptor in enumerate(descriptors)
        ],
        **members,
    }
    raw = to_json(manifest)
    return BuiltImage(
        descriptor=descriptor_of(raw, mediatypes.OCI_MANIFEST),
        documents={Digest.of(raw): (raw, mediatypes.OCI_MANIFEST)},
        blobs={Digest.of(blob): blob for blob in (config, *(layer for layer, _ in layers))},
        config=described,
        layers=tuple(descriptors),
        diff_ids=(),
    )


HELM = artifact(
    b'{"name":"chart","version":"0.1.0","apiVersion":"v2"}',
    "application/vnd.cncf.helm.config.v1+json",
    (CHART, "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
    (b"-----BEGIN PGP SIGNED MESSAGE-----", "application/vnd.cncf.helm.chart.provenance.v1.prov"),
)
KINDS = {
    "helm chart": (HELM, "application/vnd.cncf.helm.config.v1+json"),
    "wasm module": (
        artifact(
            b'{"architecture":"wasm","os":"wasip2","layerDigests":[]}',
            "application/vnd.wasm.config.v0+json",
            (WASM, "application/wasm"),
        ),
        "application/vnd.wasm.config.v0+json",
    ),
    "wasm module of wasm-to-oci": (
        artifact(b"{}", "application/vnd.wasm.config.v1+json", (WASM, "application/vnd.wasm.content.layer.v1+wasm")),
        "application/vnd.wasm.config.v1+json",
    ),
    "wasm module with an image's config": (
        artifact(
            to_json(
                {
                    "architecture": "wasm",
                    "os": "wasip1",
                    "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(WASM))]},
                }
            ),
            mediatypes.OCI_CONFIG,
            (WASM, "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"),
        ),
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    ),
    "files of oras 1.2": (
        artifact(
            b"{}",
            mediatypes.OCI_EMPTY,
            (b"hello", mediatypes.OCI_LAYER),
            artifactType="application/vnd.unknown.artifact.v1",
        ),
        "application/vnd.unknown.artifact.v1",
    ),
    "files of oras 0.x": (
        artifact(b"{}", "application/vnd.unknown.config.v1+json", (b"hello", mediatypes.OCI_LAYER)),
        "application/vnd.unknown.config.v1+json",
    ),
    "files of oras, for registries that want an image's config": (
        artifact(b"{}", mediatypes.OCI_CONFIG, (b"hello", "text/plain")),
        "text/plain",
    ),
    "an attestation": (build_attestation(build_image([[member("a")]])), "application/vnd.in-toto+json"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pull_carries_it_as_it_is(registry: FakeRegistry, tmp_path: Path, kind: str) -> None:
    thing, what = KINDS[kind]
    puller = Puller(registry, tmp_path)
    ended = puller(puller.serve(thing))
    assert (ended.code, ended.errors) == (0, [])
    assert ended.out == f"REGISTRY/library/app:1@{thing.digest}\n"
    assert f"ociexport: REGISTRY/library/app:1: not an image but an artifact of type '{what}'" in ended.lines
    assert puller.blobs == {digest.encoded for digest in thing.all_digests}
    assert not [finding for finding in ociexport.verify(str(puller.layout)).findings if finding.is_wrong]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [("rootfs",), ("--to-tar", "a.tar")])
def test_unpack_says_what_it_is(
    registry: FakeRegistry, tmp_path: Path, kind: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    thing, what = KINDS[kind]
    ended = run_command("unpack", thing.serve(registry, "library/app"), *words, home=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.splitlines()[-1:]) == (
        8,
        "",
        [f"ociexport: error: manifest {thing.digest}: expected an image, got an artifact of type '{what}'"],
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_archive_carries_it_too(registry: FakeRegistry, tmp_path: Path, kind: str) -> None:
    thing, _ = KINDS[kind]
    ociexport.pull(thing.serve(registry, "library/app"), tmp_path / "a.tar", platform=AMD64)
    again = ociexport.pull(str(tmp_path / "a.tar"), tmp_path / "layout", platform=AMD64)
    assert (again.digest, again.is_image) == (thing.digest, False)


def test_image_whose_layers_have_types_of_their_own_is_one(registry: FakeRegistry, tmp_path: Path) -> None:
    """The content of a layer decides; an unknown layer type that contains "tar" does not make an artifact."""

    def rename(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["mediaType"] = "application/vnd.example.layer.tar.xz"

    image = build_image([[member("a", b"1")]], edit_manifest=rename)
    ociexport.unpack(image.serve(registry, "library/app"), tmp_path / "rootfs", platform=AMD64)
    assert (tmp_path / "rootfs" / "a").read_bytes() == b"1"
