"""Signatures in the forms that cosign pushes, by plain keys.

They are made with the cryptography library, in the formats that cosign documents (SIGNATURE_SPEC.md, and Sigstore's
bundle 0.3 with a DSSE envelope), since cosign itself is not in Debian.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.image_builder import BuiltImage, descriptor_of, to_json

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def sign(key: Any, content: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(content, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(content, padding.PKCS1v15(), hashes.SHA256())
    return bytes(key.sign(content))


def pem_of(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def payload_for(digest: Digest, kind: str = "cosign container image signature") -> bytes:
    critical = {
        "identity": {"docker-reference": "registry.example/library/app"},
        "image": {"docker-manifest-digest": str(digest)},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def signature_of(
    image: BuiltImage,
    *keys: Any,
    payload: bytes | None = None,
    encode: Any = base64.b64encode,
    annotations: dict[str, str] | None = None,
    subject: bool = False,
) -> BuiltImage:
    """Return the manifest that cosign pushes: one layer for each signature of the same payload."""
    payload = payload if payload is not None else payload_for(image.digest)
    layer = descriptor_of(payload, SIMPLE_SIGNING)
    raw_config = to_json(
        {
            "architecture": "",
            "os": "",
            "created": "0001-01-01T00:00:00Z",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [str(layer.digest)] * len(keys)},
        }
    )
    config = descriptor_of(raw_config, mediatypes.OCI_CONFIG)
    layers = [
        {
            **layer.to_json(),
            "annotations": {
                "dev.cosignproject.cosign/signature": encode(sign(key, payload)).decode(),
                **(annotations or {}),
            },
        }
        for key in keys
    ]
    return artifact_of(
        {"config": config.to_json(), "layers": layers, **({"subject": image.descriptor.to_json()} if subject else {})},
        {config.digest: raw_config, layer.digest: payload},
        SIGNATURE_TYPE if subject else None,
    )


def bundle_for(image: BuiltImage, key: Any, *, predicate: str = "https://sigstore.dev/cosign/sign/v1") -> BuiltImage:
    """Return the manifest that cosign pushes since version 3: a referrer with a Sigstore bundle."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {image.digest.algorithm: image.digest.encoded}}],
        "predicateType": predicate,
        "predicate": {},
    }
    payload, kind = json.dumps(statement).encode(), "application/vnd.in-toto+json"
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": base64.b64encode(sign(key, signed)).decode()}],
        },
    }
    raw = json.dumps(bundle).encode()
    config, layer = descriptor_of(b"{}", mediatypes.OCI_EMPTY), descriptor_of(raw, BUNDLE_TYPE)
    return artifact_of(
        {"config": config.to_json(), "layers": [layer.to_json()], "subject": image.descriptor.to_json()},
        {config.digest: b"{}", layer.digest: raw},
        BUNDLE_TYPE,
    )


def artifact_of(members: dict[str, Any], blobs: dict[Digest, bytes], artifact_type: str | None) -> BuiltImage:
    manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, **members}
    if artifact_type is not None:
        manifest["artifactType"] = artifact_type
    raw = to_json(manifest)
    descriptor = replace(descriptor_of(raw, mediatypes.OCI_MANIFEST), artifact_type=artifact_type)
    return BuiltImage(
        descriptor=descriptor,
        documents={descriptor.digest: (raw, mediatypes.OCI_MANIFEST)},
        blobs=blobs,
        config=descriptor_of(b"{}", mediatypes.OCI_EMPTY),
        layers=(),
        diff_ids=(),
    )


def tag_of(image: BuiltImage, suffix: str = ".sig") -> str:
    return f"sha256-{image.digest.encoded}{suffix}"
