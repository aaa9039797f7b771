"""--verify-key: cosign's signatures by key pairs, checked before an image gets a name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ociexport.errors import LimitExceededError, RegistryError, SignatureError, UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.images.keys import VerificationKey
from ociexport.images.signatures import SignaturePolicy
from ociexport.rootfs.unpack import unpack
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.transfer.pull import pull
from tests.support.command import run_command
from tests.support.fake_registry import FakeRegistry, Fault
from tests.support.image_builder import (
    AMD64,
    ARM64,
    BuiltImage,
    build_image,
    build_index,
    descriptor_of,
    to_json,
    write_layout,
)
from tests.support.memory_source import member
from tests.support.puller import Puller
from tests.support.schema1_images import build_schema1
from tests.support.signing import bundle_for, payload_for, pem_of, signature_of, tag_of

IMAGE = build_image([[member("a", b"1")]])
OTHER = build_image([[member("b", b"2")]])
KEYS: dict[str, Any] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
KEY = KEYS["P-256"]
STRANGER = ec.generate_private_key(ec.SECP256R1())


def policy_of(*keys: Any) -> SignaturePolicy:
    return SignaturePolicy(tuple(VerificationKey.parse(pem_of(key), "cosign.pub") for key in keys))


def serve(registry: FakeRegistry, image: BuiltImage, signature: BuiltImage | None = None) -> str:
    if signature is not None:
        signature.serve(registry, "library/app", tag_of(image))
    return image.serve(registry, "library/app", "1")


def assert_taken(reference: str, out: Path, *keys: Any, choice: Any = AMD64) -> None:
    pull(reference, out, platform=choice, signatures=policy_of(*keys))
    assert (out / "index.json").exists()


def assert_refused(reference: str, out: Path, *keys: Any, choice: Any = AMD64) -> str:
    with pytest.raises(SignatureError) as caught:
        pull(reference, out, platform=choice, signatures=policy_of(*keys))
    assert not out.exists()
    return str(caught.value)


def because(registry: FakeRegistry, digest: Digest, reason: str) -> str:
    return (
        f"{registry.host}/library/app:1: manifest {digest}: expected a signature by the key in 'cosign.pub': {reason}"
    )


@pytest.mark.parametrize("kind", KEYS)
def test_signature_under_cosigns_tag_is_accepted(registry: FakeRegistry, tmp_path: Path, kind: str) -> None:
    reference = serve(registry, IMAGE, signature_of(IMAGE, KEYS[kind]))
    assert_taken(reference, tmp_path / "layout", KEYS[kind])


def test_image_without_a_signature_is_refused_and_nothing_is_written(registry: FakeRegistry, tmp_path: Path) -> None:
    told = assert_refused(serve(registry, IMAGE), tmp_path / "layout", KEY)
    assert told == because(registry, IMAGE.digest, "no signature found")
    assert [path for path in registry.paths() if "/blobs/" in path] == []


@pytest.mark.parametrize("signed", [True, False])
def test_image_of_schema_1_is_signed_as_it_is_published(registry: FakeRegistry, tmp_path: Path, signed: bool) -> None:
    """The converted image has another digest, unknown before the conversion."""
    old = build_schema1([[member("a", b"1")]])
    reference = old.serve(registry, "library/app")
    if not signed:
        told = assert_refused(reference, tmp_path / "layout", KEY)
        assert told == because(registry, old.digest, "no signature found")
        assert [path for path in registry.paths() if "/blobs/" in path] == []
        return
    signature = signature_of(replace(IMAGE, descriptor=replace(IMAGE.descriptor, digest=old.digest)), KEY)
    signature.serve(registry, "library/app", f"sha256-{old.digest.encoded}.sig")
    assert_taken(reference, tmp_path / "layout", KEY)
    unpack(reference, tmp_path / "rootfs", platform=AMD64, signatures=policy_of(KEY))


def test_signature_by_a_stranger_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    told = assert_refused(serve(registry, IMAGE, signature_of(IMAGE, STRANGER)), tmp_path / "layout", KEY)
    assert told == because(registry, IMAGE.digest, "a signature by another key, or of altered content")


def test_signature_of_another_image_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    """A replay: a valid signature of one image is moved beside an unsigned one."""
    told = assert_refused(serve(registry, IMAGE, signature_of(OTHER, KEY)), tmp_path / "layout", KEY)
    assert told == because(registry, IMAGE.digest, f"a signature of '{OTHER.digest}'")


def test_altered_payload_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    signature = signature_of(OTHER, KEY)
    altered = signature_of(IMAGE, KEY, payload=payload_for(IMAGE.digest))
    raw = altered.raw.replace(
        json.loads(altered.raw)["layers"][0]["annotations"]["dev.cosignproject.cosign/signature"].encode(),
        json.loads(signature.raw)["layers"][0]["annotations"]["dev.cosignproject.cosign/signature"].encode(),
    )
    descriptor = descriptor_of(raw, mediatypes.OCI_MANIFEST)
    altered = replace(altered, descriptor=descriptor, documents={descriptor.digest: (raw, mediatypes.OCI_MANIFEST)})
    assert_refused(serve(registry, IMAGE, altered), tmp_path / "layout", KEY)


def test_payload_of_another_kind_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    signature = signature_of(IMAGE, KEY, payload=payload_for(IMAGE.digest, "atomic container signature"))
    told = assert_refused(serve(registry, IMAGE, signature), tmp_path / "layout", KEY)
    assert told == because(registry, IMAGE.digest, "a signature that can't be read")


@pytest.mark.parametrize("payload", [b"no json", b"{}", b'{"critical": 3}', b'{"critical": {"type": []}}', b""])
def test_payload_that_can_not_be_read_is_refused(registry: FakeRegistry, tmp_path: Path, payload: bytes) -> None:
    told = assert_refused(serve(registry, IMAGE, signature_of(IMAGE, KEY, payload=payload)), tmp_path / "layout", KEY)
    assert "a signature that can't be read (" in told


def test_signature_that_is_no_base64_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    signature = signature_of(IMAGE, KEY, encode=lambda raw: b"\xc3\xa9" + raw.hex().encode())
    assert "a signature that can't be read" in assert_refused(serve(registry, IMAGE, signature), tmp_path / "x", KEY)


def test_keyless_signature_is_told_as_such(registry: FakeRegistry, tmp_path: Path) -> None:
    signature = signature_of(IMAGE, STRANGER, annotations={"dev.sigstore.cosign/certificate": "PEM"})
    told = assert_refused(serve(registry, IMAGE, signature), tmp_path / "layout", KEY)
    assert told == because(registry, IMAGE.digest, "a signature with a certificate (keyless), which is not checked")


def test_one_good_signature_among_others_is_enough(registry: FakeRegistry, tmp_path: Path) -> None:
    assert_taken(serve(registry, IMAGE, signature_of(IMAGE, STRANGER, KEY)), tmp_path / "layout", KEY)


def test_any_of_several_keys_is_enough(registry: FakeRegistry, tmp_path: Path) -> None:
    assert_taken(serve(registry, IMAGE, signature_of(IMAGE, KEY)), tmp_path / "layout", KEYS["RSA"], KEY)


def test_signatures_without_end_are_not_all_looked_at(registry: FakeRegistry, tmp_path: Path) -> None:
    signature = signature_of(IMAGE, *[STRANGER] * 257, KEY)
    told = assert_refused(serve(registry, IMAGE, signature), tmp_path / "layout", KEY)
    assert told.endswith("more than 256 signatures, the others were not checked")


def test_documents_of_all_signatures_together_are_limited(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = serve(registry, IMAGE, signature_of(IMAGE, STRANGER))
    monkeypatch.setattr("ociexport.images.budget.MAX_BYTES", 300)
    with pytest.raises(LimitExceededError) as caught:
        pull(reference, tmp_path / "layout", platform=AMD64, signatures=policy_of(KEY))
    assert str(caught.value) == f"{reference}: signatures: documents: expected at most 300 bytes in total, got more"


def test_payload_that_is_too_large_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    signature = signature_of(IMAGE, KEY, payload=payload_for(IMAGE.digest) + b" " * 1024 * 1024)
    assert "a signature that can't be read (" in assert_refused(
        serve(registry, IMAGE, signature), tmp_path / "layout", KEY
    )


# Referrers


def referrers_index(*entries: BuiltImage) -> bytes:
    return to_json(
        {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_INDEX,
            "manifests": [entry.descriptor.to_json() for entry in entries],
        }
    )


@pytest.mark.parametrize("make", [bundle_for, lambda image, key: signature_of(image, key, subject=True)])
def test_signature_among_the_referrers_is_accepted(registry: FakeRegistry, tmp_path: Path, make: Any) -> None:
    """By the referrers tag, since this registry lacks the API."""
    signature = make(IMAGE, KEY)
    signature.serve(registry, "library/app", None)
    registry.add_manifest("library/app", tag_of(IMAGE, ""), referrers_index(signature), mediatypes.OCI_INDEX)
    assert_taken(serve(registry, IMAGE), tmp_path / "layout", KEY)
    assert_refused(serve(registry, IMAGE), tmp_path / "other", STRANGER)


def test_bundle_of_an_attestation_is_no_signature(registry: FakeRegistry, tmp_path: Path) -> None:
    """A signature of an SBOM does not cover the image."""
    bundle = bundle_for(IMAGE, KEY, predicate="https://spdx.dev/Document")
    bundle.serve(registry, "library/app", None)
    registry.add_manifest("library/app", tag_of(IMAGE, ""), referrers_index(bundle), mediatypes.OCI_INDEX)
    told = assert_refused(serve(registry, IMAGE), tmp_path / "layout", KEY)
    assert told == because(registry, IMAGE.digest, "a signature that can't be read")


def test_referrer_that_is_gone_is_told(registry: FakeRegistry, tmp_path: Path) -> None:
    bundle = bundle_for(IMAGE, KEY)
    registry.add_manifest("library/app", tag_of(IMAGE, ""), referrers_index(bundle), mediatypes.OCI_INDEX)
    assert "a signature that can't be read (" in assert_refused(serve(registry, IMAGE), tmp_path / "layout", KEY)


def test_api_of_referrers_is_asked_page_by_page(registry: FakeRegistry, tmp_path: Path) -> None:
    signature = bundle_for(IMAGE, KEY)
    signature.serve(registry, "library/app", None)
    headers = {"Content-Type": mediatypes.OCI_INDEX}
    path = f"/referrers/{IMAGE.digest}"
    registry.misbehave(
        path,
        Fault(status=200, body=referrers_index(), headers={**headers, "Link": f'<{path}?page=2>; rel="next"'}),
        times=1,
    )
    registry.misbehave(path, Fault(status=200, body=referrers_index(signature), headers=headers), times=1)
    assert_taken(serve(registry, IMAGE), tmp_path / "layout", KEY)
    asked = [request.query for request in registry.requests if "/referrers/" in request.path]
    assert asked == [{}, {"page": ["2"]}]


def test_registry_that_does_not_tell_is_an_error(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.misbehave(f"/referrers/{IMAGE.digest}", Fault(status=403))
    with pytest.raises(RegistryError, match="403"):
        pull(serve(registry, IMAGE), tmp_path / "layout", platform=AMD64, signatures=policy_of(KEY))
    assert not (tmp_path / "layout").exists()


# Several platforms


def test_signature_of_the_index_is_one_of_all_that_it_names(registry: FakeRegistry, tmp_path: Path) -> None:
    index = build_index([IMAGE, build_image([[member("a")]], platform=ARM64)])
    reference = serve(registry, index, signature_of(index, KEY))
    assert_taken(reference, tmp_path / "one", KEY)
    assert_taken(reference, tmp_path / "all", KEY, choice=PlatformChoice())


def test_signature_of_the_manifest_is_enough_for_it_alone(registry: FakeRegistry, tmp_path: Path) -> None:
    arm64 = build_image([[member("a")]], platform=ARM64)
    index = build_index([IMAGE, arm64])
    signature_of(IMAGE, KEY).serve(registry, "library/app", tag_of(IMAGE))
    reference = serve(registry, index)
    assert_taken(reference, tmp_path / "one", KEY)
    told = assert_refused(reference, tmp_path / "all", KEY, choice=PlatformChoice())
    assert told == because(registry, arm64.digest, "no signature found")


# Over the air gap


def test_signature_in_a_layout_is_accepted(tmp_path: Path) -> None:
    signature = signature_of(IMAGE, KEY)
    write_layout(tmp_path / "layout", {"1": IMAGE, tag_of(IMAGE): signature})
    assert_taken(f"{tmp_path}/layout:1", tmp_path / "copy", KEY)
    with pytest.raises(SignatureError, match="another key"):
        pull(f"{tmp_path}/layout:1", tmp_path / "other", platform=AMD64, signatures=policy_of(STRANGER))


def test_signature_comes_along_by_its_tag(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = serve(registry, IMAGE, signature_of(IMAGE, KEY))
    archive = tmp_path / "x.tar"
    for out in (archive, tmp_path / "layout"):
        ended = run_command("pull", reference, f"{registry.host}/library/app:{tag_of(IMAGE)}", "-o", out, home=tmp_path)
        assert (ended.returncode, "platform /" in ended.stderr) == (0, False)
        assert_taken(f"{out}:1", tmp_path / f"from {out.stem}", KEY)


def test_signature_in_a_layout_as_referrer_is_accepted(tmp_path: Path) -> None:
    bundle = bundle_for(IMAGE, KEY)
    write_layout(tmp_path / "layout", {"1": IMAGE, "bundle": bundle})
    assert_taken(f"{tmp_path}/layout:1", tmp_path / "copy", KEY)


def test_docker_archive_has_no_place_for_signatures(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", {"docker.io/library/app:1": IMAGE})
    archive = tmp_path / "x.tar"
    pull(f"{tmp_path}/layout", archive, platform=AMD64, legacy=True)
    with pytest.raises(SignatureError, match=r"this kind of source holds none$"):
        pull(str(archive), tmp_path / "copy", platform=AMD64, signatures=policy_of(KEY))


# Keys


@pytest.mark.parametrize(
    ("pem", "told"),
    [
        (
            KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "expected a public key, got a private one",
        ),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n", "expected a public key in PEM, got a certificate"),
        (b"ssh-ed25519 AAAA", "expected a public key in PEM, got something else"),
        (b"", "expected a public key in PEM, got something else"),
        (pem_of(rsa.generate_private_key(65537, 1024)), "expected at least 2048 bits, got 1024"),
        (pem_of(dsa.generate_private_key(2048)), "expected ECDSA, RSA or Ed25519, got another kind"),
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused(pem: bytes, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        VerificationKey.parse(pem, "my.key")
    assert str(caught.value) == f"key 'my.key': {told}"


# The command


def test_command_takes_what_is_signed_and_refuses_what_is_not(registry: FakeRegistry, tmp_path: Path) -> None:
    key, stranger = tmp_path / "cosign.pub", tmp_path / "stranger.pub"
    key.write_bytes(pem_of(KEY))
    stranger.write_bytes(pem_of(STRANGER))
    puller = Puller(registry, tmp_path)
    reference = serve(registry, IMAGE, signature_of(IMAGE, KEY))
    refused = puller(reference, "--verify-key", stranger)
    assert (refused.code, refused.errors) == (
        7,
        [
            f"ociexport: error: REGISTRY/library/app:1: manifest {IMAGE.digest}: expected a signature by the key in "
            f"'{stranger}': a signature by another key, or of altered content"
        ],
    )
    assert not puller.layout.exists()
    assert puller(reference, "--verify-key", stranger, "--verify-key", key).code == 0
    targets: list[list[str]] = [[f"{tmp_path}/rootfs"], ["--to-tar", f"{tmp_path}/x.tar"]]
    for target in targets:
        assert run_command("unpack", reference, *target, "--verify-key", stranger, home=tmp_path).returncode == 7
        assert not Path(target[-1]).exists()
        assert run_command("unpack", reference, *target, "--verify-key", key, home=tmp_path).returncode == 0


def test_archive_is_not_written_for_what_is_not_signed(registry: FakeRegistry, tmp_path: Path) -> None:
    key = tmp_path / "cosign.pub"
    key.write_bytes(pem_of(KEY))
    puller = Puller(registry, tmp_path)
    pulled = puller(serve(registry, IMAGE), "--verify-key", key, out=tmp_path / "x.tar")
    assert (pulled.code, sorted(path.name for path in tmp_path.iterdir())) == (7, ["cosign.pub"])


def test_key_that_is_not_there_is_told(registry: FakeRegistry, tmp_path: Path) -> None:
    pulled = Puller(registry, tmp_path)(serve(registry, IMAGE), "--verify-key", tmp_path / "none")
    assert (pulled.code, pulled.errors) == (3, [f"ociexport: error: {tmp_path}/none: No such file or directory"])
