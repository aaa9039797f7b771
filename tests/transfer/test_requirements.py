"""`pull --require`: an image without a signature, an SBOM or referrers fails before anything is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import BuiltImage, build_artifact, build_image, build_index, to_json, write_layout
from tests.support.memory_source import member
from tests.support.signing import signature_of, tag_of
from tests.support.updates import NAME

KEY = ec.generate_private_key(ec.SECP256R1())
IMAGE = build_image([[member("a", b"1")]])
PLAIN = build_image([[member("b", b"2")]])


def about(subject: BuiltImage, artifact_type: str, **annotations: str) -> BuiltImage:
    """Return an artifact that names ``subject``."""
    artifact = build_artifact(b"content", artifact_type=artifact_type)
    raw = to_json({**json.loads(artifact.raw), "subject": subject.descriptor.to_json(), "annotations": annotations})
    descriptor = replace(artifact.descriptor, digest=Digest.of(raw), size=len(raw))
    return replace(artifact, descriptor=descriptor, documents={descriptor.digest: (raw, mediatypes.OCI_MANIFEST)})


SIGNATURE = signature_of(IMAGE, KEY)
SPDX = about(IMAGE, "application/spdx+json")
NOTATION = about(IMAGE, "application/vnd.cncf.notary.signature")
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGSTORE = about(IMAGE, BUNDLE)
SIGSTORE_SBOM = about(IMAGE, BUNDLE, **{"dev.sigstore.bundle.predicateType": "https://cyclonedx.org/bom"})
OTHER = about(IMAGE, "application/vnd.example.report")


def serve(registry: FakeRegistry, *companions: BuiltImage, image: BuiltImage = IMAGE) -> str:
    """Serve an image with companions, listed under the referrers tag."""
    for companion in companions:
        companion.serve(registry, "library/app", tag_of(IMAGE) if companion is SIGNATURE else None)
    listed = [companion for companion in companions if companion is not SIGNATURE]
    if listed:
        build_index(listed).serve(registry, "library/app", f"{IMAGE.digest.algorithm}-{IMAGE.digest.encoded}")
    return image.serve(registry, "library/app", "1")


def pull(place: Path, *words: str | Path, code: int = 0) -> list[str]:
    ended = run_command("pull", *words, home=place, variables={"DOCKER_DEFAULT_PLATFORM": "linux/amd64"})
    assert ended.returncode == code, ended.stderr
    return [line for line in ended.stderr.splitlines() if line.startswith(("ociexport: error: ", "hint: "))]


KINDS: dict[str, tuple[BuiltImage, set[str]]] = {
    "cosign's signature": (SIGNATURE, {"signature", "referrers"}),
    "notation's signature": (NOTATION, {"signature", "referrers"}),
    "a sigstore bundle": (SIGSTORE, {"signature", "referrers"}),
    "a sigstore bundle of an SBOM": (SIGSTORE_SBOM, {"sbom", "referrers"}),
    "an SPDX document": (SPDX, {"sbom", "referrers"}),
    "another referrer": (OTHER, {"referrers"}),
}


@pytest.mark.parametrize("required", ["signature", "sbom", "referrers"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_fulfils_what_it_is(tmp_path: Path, registry: FakeRegistry, kind: str, required: str) -> None:
    companion, fulfils = KINDS[kind]
    reference = serve(registry, companion)
    errors = pull(
        tmp_path, reference, "--require", required, "--out", tmp_path / "out", code=0 if required in fulfils else 3
    )
    if required in fulfils:
        assert (tmp_path / "out" / "blobs" / "sha256" / companion.digest.encoded).is_file()
    else:
        what = {"signature": "a signature", "sbom": "an SBOM"}[required]
        assert errors == [f"ociexport: error: {reference}: expected {what} of {IMAGE.digest}, got other referrers only"]
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["out", "out.tar", "out.tar.zst"])
def test_without_it_nothing_is_written(tmp_path: Path, registry: FakeRegistry, out: str) -> None:
    reference = serve(registry)
    for words in ([], ["--dry-run"]):
        errors = pull(tmp_path, reference, "--require", "signature", "--out", tmp_path / out, *words, code=3)
        assert errors == [f"ociexport: error: {reference}: expected a signature of {IMAGE.digest}, got none"]
    assert list(tmp_path.iterdir()) == []


def test_several_may_be_required(tmp_path: Path, registry: FakeRegistry) -> None:
    reference = serve(registry, SIGNATURE, SPDX)
    assert (
        pull(tmp_path, reference, "--require", "signature,sbom", "--require", "referrers", "-o", tmp_path / "a") == []
    )


def test_one_image_without_it_ends_the_run_before_any_is_written(tmp_path: Path, registry: FakeRegistry) -> None:
    signed = serve(registry, SIGNATURE)
    unsigned = PLAIN.serve(registry, "library/other", "1")
    for out in ("out", "out.tar"):
        errors = pull(tmp_path, signed, unsigned, "--require", "signature", "--out", tmp_path / out, code=3)
        assert len(errors) == 1
        assert f"expected a signature of {PLAIN.digest}, got none" in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_signature_of_the_sbom_is_none_of_the_image(tmp_path: Path, registry: FakeRegistry) -> None:
    reference = serve(registry, SPDX)
    signature_of(SPDX, KEY).serve(registry, "library/app", tag_of(SPDX))
    errors = pull(tmp_path, reference, "--require", "signature", "--out", tmp_path / "out", code=3)
    assert "expected a signature of" in errors[0]


def test_the_signature_of_the_index_needs_the_index(tmp_path: Path, registry: FakeRegistry) -> None:
    index = build_index([IMAGE, build_artifact(b"x")])
    reference = index.serve(registry, "library/app", "1")
    signature_of(index, KEY).serve(registry, "library/app", tag_of(index))
    errors = pull(tmp_path, reference, "--require", "signature", "--out", tmp_path / "out", code=3)
    assert errors[1] == "hint: the published index may have it: --all or --sparse copies that index"
    assert pull(tmp_path, reference, "--sparse", "--require", "signature", "--out", tmp_path / "out") == []


def test_a_layout_has_them_too(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {f"{NAME}:1": IMAGE, tag_of(IMAGE): SIGNATURE})
    assert pull(tmp_path, tmp_path / "layout", "--require", "signature", "--out", tmp_path / "a.tar") == []
    assert len(pull(tmp_path, tmp_path / "layout", "--require", "sbom", "--out", tmp_path / "b.tar", code=3)) == 1


def test_an_unknown_word_is_refused(tmp_path: Path) -> None:
    errors = pull(tmp_path, "alpine", "--require", "sig", "--out", tmp_path / "a", code=2)
    assert errors == ["ociexport: error: --require: expected signature, sbom or referrers, got 'sig'"]


def test_it_keeps_the_manifest_as_published(tmp_path: Path) -> None:
    errors = pull(tmp_path, "alpine", "--require", "sbom", "--decompress", "--out", tmp_path / "a.tar", code=2)
    assert errors[0] == "ociexport: error: referrers: expected neither decompressed layers nor a legacy archive"
