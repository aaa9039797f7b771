"""pull --referrers: signatures, SBOMs and other referrers are copied with the image, and are found in the copy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ociexport.errors import LimitExceededError, SignatureError
from ociexport.images.choose import PlatformChoice
from ociexport.images.keys import VerificationKey
from ociexport.images.signatures import SignaturePolicy
from ociexport.spec import mediatypes
from ociexport.storage.layout.layout import ImageLayout
from ociexport.transfer.pull import pull
from ociexport.transfer.sources.open import open_source
from ociexport.verification.verify import verify
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import AMD64, ARM64, BuiltImage, build_artifact, build_image, build_index, to_json
from tests.support.memory_source import member
from tests.support.puller import Puller
from tests.support.real_tools import skopeo_copy
from tests.support.signing import pem_of, signature_of, tag_of
from tests.support.system_parts import require, run

KEY = ec.generate_private_key(ec.SECP256R1())
POLICY = SignaturePolicy((VerificationKey.parse(pem_of(KEY), "cosign.pub"),))
IMAGE = build_image([[member("a", b"1")]])
OTHER = build_image([[member("b", b"2")]], platform=ARM64)
SBOM_TYPE = "application/vnd.example.sbom"


def about(subject: BuiltImage, content: bytes = b"packages") -> BuiltImage:
    """Return an SBOM that names ``subject`` (image-spec 1.1 manifest.md, "subject")."""
    artifact = build_artifact(content, artifact_type=SBOM_TYPE)
    raw = to_json({**json.loads(artifact.raw), "subject": subject.descriptor.to_json()})
    descriptor = replace(artifact.descriptor, digest=artifact.digest.of(raw), size=len(raw))
    return replace(artifact, descriptor=descriptor, documents={descriptor.digest: (raw, mediatypes.OCI_MANIFEST)})


def list_of(*entries: BuiltImage) -> BuiltImage:
    """Return the index under the referrers tag, for a registry without the referrers API."""
    return build_index(
        [replace(entry, descriptor=replace(entry.descriptor, artifact_type=SBOM_TYPE)) for entry in entries]
    )


def referrers_tag_of(image: BuiltImage) -> str:
    return f"{image.digest.algorithm}-{image.digest.encoded}"


SIGNATURE = signature_of(IMAGE, KEY)
SBOM = about(IMAGE)
SBOM_SIGNATURE = signature_of(SBOM, KEY)
BESIDE = {SIGNATURE.digest, SBOM.digest, SBOM_SIGNATURE.digest}


def serve(registry: FakeRegistry, image: BuiltImage = IMAGE) -> str:
    """Serve ``image`` with a signature, an SBOM, and a signature of the SBOM."""
    SIGNATURE.serve(registry, "library/app", tag_of(IMAGE))
    list_of(SBOM).serve(registry, "library/app", referrers_tag_of(IMAGE))
    SBOM_SIGNATURE.serve(registry, "library/app", tag_of(SBOM))
    return image.serve(registry, "library/app", "1")


def names_in(place: str) -> dict[str, Any]:
    listed = json.loads((Path(place) / "index.json").read_bytes())["manifests"]
    return {entry["digest"]: entry for entry in listed}


def test_tags_and_referrers_come_along_and_what_is_about_them(registry: FakeRegistry, tmp_path: Path) -> None:
    result = pull(serve(registry), tmp_path / "layout", platform=AMD64, referrers=True)
    assert set(result.companions) == BESIDE
    listed = names_in(str(tmp_path / "layout"))
    assert set(listed) == {str(digest) for digest in BESIDE | {IMAGE.digest}}
    assert listed[str(SIGNATURE.digest)]["annotations"] == {
        "org.opencontainers.image.ref.name": tag_of(IMAGE),
        "io.containerd.image.name": f"{registry.host}/library/app:{tag_of(IMAGE)}",
    }
    assert listed[str(SBOM.digest)]["artifactType"] == SBOM_TYPE
    assert "annotations" not in listed[str(SBOM.digest)]
    # The image's own name is written last.
    assert list(listed)[-1] == str(IMAGE.digest)
    assert verify(tmp_path / "layout").is_right


@pytest.mark.parametrize("out", ["second", "second.tar"])
def test_they_go_on_from_there_and_prove_the_image(registry: FakeRegistry, tmp_path: Path, out: str) -> None:
    """skopeo 1994, cosign 2705: on the other side of an air gap the signature must be checked again."""
    pull(serve(registry), tmp_path / "layout", platform=AMD64, referrers=True)
    first = str(tmp_path / "layout")
    result = pull(first, tmp_path / out, platform=AMD64, referrers=True, signatures=POLICY)
    assert set(result.companions) == BESIDE
    again = pull(str(tmp_path / out), tmp_path / "third", platform=AMD64, referrers=True, signatures=POLICY)
    assert set(again.companions) == BESIDE
    assert names_in(str(tmp_path / "third")).keys() == names_in(first).keys()


def test_the_image_is_still_the_only_one(registry: FakeRegistry, tmp_path: Path) -> None:
    """A source without a name means the image, not its companions."""
    pull(serve(registry), tmp_path / "layout", platform=AMD64, referrers=True)
    assert open_source(str(tmp_path / "layout")).fetch_manifest().digest == IMAGE.digest
    for words in (("unpack", "layout", "rootfs", "-q"), ("inspect", "layout", "--raw")):
        ended = run_command(words[0], f"{tmp_path}/{words[1]}", *_within(tmp_path, words[2:]), home=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
    shown = run_command("inspect", tmp_path / "layout", home=tmp_path)
    assert str(IMAGE.config.digest) in shown.stdout
    # A companion is meant if the layout holds nothing else.
    pull(f"{registry.host}/library/app:{tag_of(IMAGE)}", tmp_path / "alone", platform=AMD64)
    assert open_source(str(tmp_path / "alone")).fetch_manifest().digest == SIGNATURE.digest


def _within(place: Path, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word if word.startswith("-") else str(place / word) for word in words)


def test_second_pull_appends_nothing(registry: FakeRegistry, tmp_path: Path) -> None:
    """go-containerregistry 1807."""
    reference = serve(registry)
    pull(reference, tmp_path / "layout", platform=AMD64, referrers=True)
    before = sorted(json.loads((tmp_path / "layout" / "index.json").read_bytes())["manifests"], key=str)
    result = pull(reference, tmp_path / "layout", platform=AMD64, referrers=True)
    assert sorted(json.loads((tmp_path / "layout" / "index.json").read_bytes())["manifests"], key=str) == before
    assert result.fetched_blobs == 0


def test_what_is_about_the_index_stays_behind_without_it_and_is_told(registry: FakeRegistry, tmp_path: Path) -> None:
    """cosign signs the index; a pull of one platform takes only its manifest."""
    index = build_index([IMAGE, OTHER])
    signature = signature_of(index, KEY)
    signature.serve(registry, "library/app", tag_of(index))
    reference = serve(registry, index)
    puller = Puller(registry, tmp_path)
    pulled = puller(reference, "--referrers")
    assert (
        f"ociexport: REGISTRY/library/app:1: referrers of the published index {index.digest} were not copied: 1; "
        "--sparse keeps that index, and copies them"
    ) in pulled.lines
    assert set(names_in(str(puller.layout))) == {str(digest) for digest in BESIDE | {IMAGE.digest}}
    result = pull(reference, tmp_path / "sparse", platform=PlatformChoice((AMD64,), keeps_index=True), referrers=True)
    assert set(result.companions) == BESIDE | {signature.digest}
    pull(str(tmp_path / "sparse"), tmp_path / "proven", platform=AMD64, signatures=POLICY)


def test_command_tells_what_comes_along(registry: FakeRegistry, tmp_path: Path) -> None:
    puller = Puller(registry, tmp_path)
    pulled = puller(serve(registry), "--referrers", "--json")
    assert json.loads(pulled.out)["images"][0]["companions"] == [
        str(SIGNATURE.digest),
        str(SBOM.digest),
        str(SBOM_SIGNATURE.digest),
    ]
    assert [line for line in pulled.lines if "of type" in line] == [
        f"ociexport: REGISTRY/library/app:1: {tag_of(IMAGE)}, of type "
        f"application/vnd.dev.cosign.simplesigning.v1+json, manifest {SIGNATURE.digest}",
        f"ociexport: REGISTRY/library/app:1: referrer {SBOM.digest}, of type {SBOM_TYPE}, manifest {SBOM.digest}",
        f"ociexport: REGISTRY/library/app:1: {tag_of(SBOM)}, of type "
        f"application/vnd.dev.cosign.simplesigning.v1+json, manifest {SBOM_SIGNATURE.digest}",
    ]
    assert "artifact, " not in pulled.lines[-1]
    assert ", with 3 referring artifacts, 2 blobs" in pulled.lines[-1]


def test_dry_run_counts_them_and_writes_nothing(registry: FakeRegistry, tmp_path: Path) -> None:
    puller = Puller(registry, tmp_path)
    pulled = puller(serve(registry), "--referrers", "--dry-run", "--json")
    planned = json.loads(pulled.out)["images"]
    assert {image["digest"] for image in planned} == {str(digest) for digest in BESIDE | {IMAGE.digest}}
    puller.assert_nothing_left()


def test_bad_companion_leaves_nothing(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = serve(registry)
    layer = SIGNATURE.layers[0] if SIGNATURE.layers else json.loads(SIGNATURE.raw)["layers"][0]
    digest = layer["digest"] if isinstance(layer, dict) else str(layer.digest)
    size = len(registry.blobs[digest])
    registry.blobs[digest] = bytes(size)
    puller = Puller(registry, tmp_path)
    assert puller(reference, "--referrers").code == 7
    puller.assert_nothing_left()


def test_referrer_that_is_gone_is_told_and_passed_over(registry: FakeRegistry, tmp_path: Path) -> None:
    """Deleting a referrer does not remove it from the list under the referrers tag."""
    reference = serve(registry)
    gone = about(IMAGE, b"old")
    raw = list_of(gone, SBOM)
    registry.add_manifest("library/app", referrers_tag_of(IMAGE), raw.raw, mediatypes.OCI_INDEX)
    pulled = Puller(registry, tmp_path)(reference, "--referrers")
    assert pulled.code == 0
    assert [line for line in pulled.lines if "warning" in line and "a listed referrer is missing" in line]


def test_referrers_without_end_are_refused(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ociexport.transfer.companions._MAX_COMPANIONS", 2)
    with pytest.raises(LimitExceededError) as caught:
        pull(serve(registry), tmp_path / "layout", platform=AMD64, referrers=True)
    assert str(caught.value) == f"{registry.host}/library/app:1: referrers: expected at most 2, got more"
    assert not (tmp_path / "layout").exists()


def padded(image: BuiltImage, size: int) -> BuiltImage:
    """Return ``image`` with a manifest of ``size`` bytes."""
    raw = image.raw + b" " * (size - len(image.raw))
    descriptor = replace(image.descriptor, digest=image.digest.of(raw), size=len(raw))
    return replace(image, descriptor=descriptor, documents={descriptor.digest: (raw, mediatypes.OCI_MANIFEST)})


def test_documents_of_all_referrers_together_are_limited(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may have 4 MiB, but 2048 of these are more than this machine has."""
    monkeypatch.setattr("ociexport.images.budget.MAX_BYTES", 50_000)
    large = [padded(about(IMAGE, b"%d" % number), 20_000) for number in range(9)]
    for one in large:
        one.serve(registry, "library/app", None)
    list_of(*large).serve(registry, "library/app", referrers_tag_of(IMAGE))
    with pytest.raises(LimitExceededError) as caught:
        pull(IMAGE.serve(registry, "library/app", "1"), tmp_path / "layout", platform=AMD64, referrers=True)
    assert str(caught.value) == (
        f"{registry.host}/library/app:1: referrers: documents: expected at most 50000 bytes in total, got more"
    )
    assert caught.value.hint == "without --referrers only the image is copied"
    assert sum(f"/manifests/{one.digest}" in path for one in large for path in registry.paths()) == 3
    assert not (tmp_path / "layout").exists()


def test_pages_of_referrers_count_with_their_padding(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ociexport.images.budget.MAX_BYTES", 50_000)
    page = Fault(
        status=200,
        headers={"Content-Type": mediatypes.OCI_INDEX, "Link": '</more?n=1>; rel="next"'},
        body=list_of(SBOM).raw + b" " * 20_000,
    )
    registry.misbehave("/referrers/", page)
    with pytest.raises(LimitExceededError, match="referrers: documents: expected at most 50000 bytes"):
        pull(serve(registry), tmp_path / "layout", platform=AMD64, referrers=True)
    assert sum("/referrers/" in path for path in registry.paths()) == 3


def test_referrer_that_is_listed_again_and_again_is_fetched_once(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = serve(registry)
    list_of(*[SBOM] * 50).serve(registry, "library/app", referrers_tag_of(IMAGE))
    pull(reference, tmp_path / "layout", platform=AMD64, referrers=True)
    assert registry.paths().count(f"/v2/library/app/manifests/{SBOM.digest}") == 1


def test_referrers_that_are_not_there_are_not_asked_for_without_end(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ociexport.images.budget.MAX_DOCUMENTS", 10)
    gone = [about(IMAGE, b"%d" % number) for number in range(50)]
    list_of(*gone).serve(registry, "library/app", referrers_tag_of(IMAGE))
    with pytest.raises(LimitExceededError) as caught:
        pull(IMAGE.serve(registry, "library/app", "1"), tmp_path / "layout", platform=AMD64, referrers=True)
    assert str(caught.value) == (
        f"{registry.host}/library/app:1: referrers: documents: expected at most 10 of them, got more"
    )


def test_source_that_keeps_none_says_so(tmp_path: Path) -> None:
    result = pull(IMAGE.source("1"), tmp_path / "layout", platform=AMD64, referrers=True)
    assert result.companions == ()


def test_unsigned_image_does_not_come_with_them(registry: FakeRegistry, tmp_path: Path) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    policy = SignaturePolicy((VerificationKey.parse(pem_of(stranger), "other.pub"),))
    with pytest.raises(SignatureError):
        pull(serve(registry), tmp_path / "layout", platform=AMD64, referrers=True, signatures=policy)
    assert not (tmp_path / "layout").exists()


def test_archive_of_them_is_one_image_for_docker(registry: FakeRegistry, tmp_path: Path) -> None:
    pull(serve(registry), tmp_path / "a.tar", platform=AMD64, referrers=True)
    (_, name), *_ = ImageLayout(_unpacked(tmp_path)).read_images()
    assert name.full == f"{registry.host}/library/app:1"
    assert len(json.loads((tmp_path / "x" / "manifest.json").read_bytes())) == 1


def _unpacked(place: Path) -> Path:
    (place / "x").mkdir()
    run("tar", "xf", place / "a.tar", "-C", place / "x")
    return place / "x"


@pytest.mark.system
def test_skopeo_finds_them_by_their_tags(tmp_path: Path) -> None:
    require("skopeo")
    with FakeRegistry() as registry:
        pull(serve(registry), tmp_path / "layout", platform=AMD64, referrers=True)
    for tag, image in (("1", IMAGE), (tag_of(IMAGE), SIGNATURE)):
        skopeo_copy(f"oci:{tmp_path / 'layout'}:{tag}", f"dir:{tmp_path / tag[:6]}")
        assert (tmp_path / tag[:6] / "manifest.json").read_bytes() == image.raw
