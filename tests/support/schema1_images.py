"""Images of Docker's schema 1, signed as docker signed them: the signature is inside the document.

    image = build_schema1([[member("a")], None, [member("b")]])      # None is a step without a layer
    image.serve(registry, "library/old", "1")                        # -> its reference

No program checks the signature itself, so it is a fake.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from tests.support.fake_registry import FakeRegistry
from tests.support.memory_source import Member, tar_of

# The layer that docker stored for a step without one.
EMPTY_LAYER = gzip.compress(bytes(1024), mtime=0)

Json = dict[str, Any]


@dataclass(frozen=True)
class Schema1Image:
    """A manifest of schema 1 and its layers.

    Args:
        raw: the served document.
        payload: the signed part, which the digest covers.
        blobs: layers by their digests, including those of steps without a layer.
        layers: of the image, lowest first, as stored.
    """

    raw: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    media_type: str
    blobs: dict[Digest, bytes] = field(repr=False)
    layers: tuple[bytes, ...] = field(repr=False)

    @property
    def digest(self) -> Digest:
        return Digest.of(self.payload)

    def serve(
        self, registry: FakeRegistry, repository: str, tag: str | None = "1", media_type: str | None = None
    ) -> str:
        """Put the image into ``registry``; return its reference."""
        for digest, raw in self.blobs.items():
            registry.add_blob(raw, digest)
        for selector in (tag, str(self.digest)):
            if selector is not None:
                registry.manifests[repository, selector] = (self.raw, media_type or self.media_type)
        registry.digests[Digest.of(self.raw)] = self.digest
        return f"{registry.host}/{repository}" + (f":{tag}" if tag is not None else f"@{self.digest}")


def v1_id(number: int) -> str:
    """Return the ID of step ``number``, counted from 1."""
    return f"{number:064x}"


def v1_documents(steps: Sequence[object | None], top: Json | None = None) -> list[Json]:
    """Return the JSON of each step, lowest first; the topmost has the config."""
    documents: list[Json] = []
    for number, step in enumerate(steps, start=1):
        document: Json = {"id": v1_id(number), "created": f"2016-01-0{number % 9 + 1}T00:00:00Z"}
        if number > 1:
            document["parent"] = v1_id(number - 1)
        document["container_config"] = {"Cmd": ["/bin/sh", "-c", f"#(nop) step {number} <&>"]}
        if step is None:
            document["throwaway"] = True
        documents.append(document)
    documents[-1] = {
        "architecture": "amd64",
        "author": "somebody",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": None},
        "docker_version": "1.9.1",
        "os": "linux",
        "Size": 7,
        **documents[-1],
        **(top or {}),
    }
    return documents


def build_schema1(
    steps: Sequence[bytes | Iterable[Member] | None],
    *,
    signed: bool = True,
    compressed: bool = True,
    top: Json | None = None,
    edit: Callable[[Json], object] = lambda manifest: None,
    edit_documents: Callable[[list[Json]], object] = lambda documents: None,
) -> Schema1Image:
    """Return an image.

    Args:
        steps: tars or members of them, lowest first; None for a step without a layer.
        top: members of the topmost step's JSON.
        edit: changes the manifest before it is signed.
        edit_documents: changes the JSON of the steps, lowest first.
    """
    tars = [None if step is None else step if isinstance(step, bytes) else tar_of(step) for step in steps]
    stored = [EMPTY_LAYER if tar is None else gzip.compress(tar, 1, mtime=0) if compressed else tar for tar in tars]
    documents = v1_documents(tars, top)
    edit_documents(documents)
    manifest: Json = {
        "schemaVersion": 1,
        "name": "library/old",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": str(Digest.of(blob))} for blob in reversed(stored)],
        "history": [
            {"v1Compatibility": json.dumps(document, separators=(",", ":"), ensure_ascii=False)}
            for document in reversed(documents)
        ],
    }
    edit(manifest)
    payload = json.dumps(manifest, indent=3).encode()
    return Schema1Image(
        raw=sign(payload) if signed else payload,
        payload=payload,
        media_type=mediatypes.DOCKER_SCHEMA1_SIGNED if signed else mediatypes.DOCKER_SCHEMA1,
        blobs={Digest.of(blob): blob for blob in stored},
        layers=tuple(blob for blob, tar in zip(stored, tars, strict=True) if tar is not None),
    )


def sign(payload: bytes, **header: object) -> bytes:
    """Return ``payload`` with an embedded signature in libtrust's form; ``header`` changes the signature's header."""
    tail = b"\n}"
    protected = {"formatLength": len(payload) - len(tail), "formatTail": _base64(tail), **header}
    signature = {
        "header": {"jwk": {"crv": "P-256", "kid": "ABCD:EFGH", "kty": "EC", "x": "eA", "y": "eQ"}, "alg": "ES256"},
        "signature": _base64(bytes(64)),
        "protected": _base64(json.dumps(protected).encode()),
    }
    return payload[: -len(tail)] + b',\n   "signatures": [' + json.dumps(signature).encode() + b"]\n}"


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
