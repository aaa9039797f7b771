"""docker_schema1: only the signed payload of an old manifest counts, and it must match the document.

Spec: distribution docs/spec/manifest-v2-1.md; moby's pull_v2.go for docker's conversion.
"""

from __future__ import annotations

import base64
import contextlib
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.spec.digested_bytes import digested_bytes, is_schema1
from ociexport.spec.docker_schema1 import parse_schema1
from tests.support.memory_source import member
from tests.support.schema1_images import build_schema1, sign, v1_id

A, B = [member("a", b"1")], [member("b", b"2")]
IMAGE = build_schema1([A, None, B])


def broken(raw: bytes) -> str:
    with pytest.raises(InvalidImageError) as caught:
        parse_schema1(raw, None)
    return str(caught.value).removeprefix(f"manifest {Digest.of(raw)}: ")


def test_digest_is_of_what_was_signed() -> None:
    manifest = parse_schema1(IMAGE.raw, IMAGE.media_type)
    assert manifest.digest == Digest.of(IMAGE.payload) == IMAGE.digest
    assert digested_bytes(IMAGE.raw, IMAGE.media_type) == IMAGE.payload
    assert manifest.raw == IMAGE.raw
    assert manifest.media_type == mediatypes.DOCKER_SCHEMA1_SIGNED


def test_digest_of_an_unsigned_one_is_of_all_of_it() -> None:
    image = build_schema1([A], signed=False)
    manifest = parse_schema1(image.raw, image.media_type)
    assert manifest.digest == Digest.of(image.raw)
    assert manifest.media_type == mediatypes.DOCKER_SCHEMA1


def test_layers_come_lowest_first_without_those_of_empty_steps() -> None:
    manifest = parse_schema1(IMAGE.raw, IMAGE.media_type)
    assert manifest.layers == tuple(map(Digest.of, IMAGE.layers))
    assert [(step.document.id, step.document.is_empty) for step in manifest.steps] == [
        (v1_id(1), False),
        (v1_id(2), True),
        (v1_id(3), False),
    ]


@pytest.mark.parametrize("media_type", [None, "", "application/json", "text/plain; charset=utf-8", IMAGE.media_type])
def test_it_is_known_whatever_it_is_served_as(media_type: str | None) -> None:
    """manifest-v2-1.md: application/json is accepted for schema 1; some registries send text/plain."""
    assert is_schema1(IMAGE.raw, media_type)


@pytest.mark.parametrize(
    ("raw", "media_type"),
    [
        (b'{"schemaVersion": 2, "layers": []}', None),
        (b'{"schemaVersion": "1"}', None),
        (b"<html>schemaVersion</html>", "text/html"),
        (b'{"schemaVersion": 1, broken', "application/json"),
        (IMAGE.raw, mediatypes.OCI_MANIFEST),
    ],
)
def test_others_are_not_taken_for_it(raw: bytes, media_type: str | None) -> None:
    assert not is_schema1(raw, media_type)
    assert digested_bytes(raw, media_type) is raw


def test_layer_that_comes_twice_in_a_row_is_taken_once() -> None:
    """The specification's own example has a repeated layer; docker takes the older one."""

    def repeat(manifest: dict[str, Any]) -> None:
        for key in ("fsLayers", "history"):
            manifest[key].insert(0, manifest[key][0])

    image = build_schema1([A, B], edit=repeat)
    assert parse_schema1(image.raw, None).layers == tuple(map(Digest.of, image.layers))


def with_history(edit: Callable[[list[dict[str, Any]]], object]) -> bytes:
    return build_schema1([A, B], edit_documents=edit).raw


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda documents: documents[1].update(parent=v1_id(9)),
            f"history: layer 2 of 2: parent: expected {v1_id(1)}, got '{v1_id(9)}'",
        ),
        (
            lambda documents: documents[0].update(parent=v1_id(2)),
            f"history: layer 1 of 2: parent: expected none, got '{v1_id(2)}'",
        ),
        (
            lambda documents: documents[1].pop("parent"),
            f"history: layer 2 of 2: parent: expected {v1_id(1)}, got 'none'",
        ),
        (
            lambda documents: documents[0].update(id="../../etc/passwd"),
            "history: layer 1 of 2: id: expected 64 hexadecimal digits, got '../../etc/passwd'",
        ),
        (
            lambda documents: documents[1].pop("id"),
            "history: layer 2 of 2: id: expected 64 hexadecimal digits, got ''",
        ),
        (
            lambda documents: documents[0].update(throwaway="yes"),
            "history[1]: v1Compatibility: throwaway: expected a boolean, got a string",
        ),
        (
            lambda documents: documents[1].update(container_config={"Cmd": [1]}),
            "history[0]: v1Compatibility: container_config: Cmd[0]: expected a string, got an integer",
        ),
    ],
)
def test_chain_that_does_not_hold_is_refused(edit: Callable[[list[dict[str, Any]]], object], message: str) -> None:
    assert broken(with_history(edit)) == message


def test_circle_is_refused() -> None:
    def close(documents: list[dict[str, Any]]) -> None:
        documents[2].update(id=v1_id(1))

    raw = build_schema1([A, B, A], edit_documents=close).raw
    assert broken(raw) == f"history: layer 3 of 3: id: expected a unique ID, got {v1_id(1)} again"


def test_lowest_layer_of_windows_may_have_a_parent() -> None:
    """The parent is one of Microsoft's base images, which a manifest does not contain."""
    image = build_schema1([A], top={"os": "windows", "parent": v1_id(9)})
    assert len(parse_schema1(image.raw, None).layers) == 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda manifest: manifest["history"].pop(),
            "expected as many entries of history as of fsLayers, and at least one, got 1 and 2",
        ),
        (
            lambda manifest: manifest.update(history=[], fsLayers=[]),
            "expected as many entries of history as of fsLayers, and at least one, got 0 and 0",
        ),
        (
            lambda manifest: manifest["fsLayers"][0].update(blobSum="sha256:../x"),
            "fsLayers[0]: blobSum: expected 64 lower-case hexadecimal digits after 'sha256:', got '../x'",
        ),
        (
            lambda manifest: manifest["history"][0].update(v1Compatibility="[]"),
            "history[0]: v1Compatibility: expected a JSON object, got a list",
        ),
        (lambda manifest: manifest.update(fsLayers={}), "fsLayers: expected a list, got an object"),
        (
            lambda manifest: manifest.update(history=manifest["history"] * 513, fsLayers=manifest["fsLayers"] * 513),
            "expected at most 1024 layers, got 1026",
        ),
        (lambda manifest: manifest.update(schemaVersion=2), "schemaVersion: expected 1, got 2"),
    ],
)
def test_manifest_that_breaks_the_specification_is_refused(
    edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    assert broken(build_schema1([A, B], edit=edit).raw) == message


# The signed payload.


def protected(raw: bytes) -> dict[str, Any]:
    (signature,) = json.loads(raw)["signatures"]
    return dict(json.loads(base64.urlsafe_b64decode(signature["protected"] + "==")))


def test_what_is_beside_what_was_signed_is_refused() -> None:
    """A reader of the document, rather than the payload, would see layers that the digest does not cover."""
    other = build_schema1([B]).payload
    tail = base64.urlsafe_b64encode(IMAGE.payload).decode().rstrip("=")
    raw = sign(other, formatLength=0, formatTail=tail)
    assert parse_digest_of(raw) is None
    assert broken(raw) == "signatures: expected a signed payload that matches the document, got a different one"


def parse_digest_of(raw: bytes) -> Digest | None:
    with contextlib.suppress(InvalidImageError):
        return Digest.of(digested_bytes(raw, None))
    return None


@pytest.mark.parametrize("length", [-1, len(IMAGE.raw) * 2, 10**30])
def test_length_that_is_none_is_refused(length: int) -> None:
    raw = sign(IMAGE.payload, formatLength=length)
    assert broken(raw) == (
        f"signatures[0]: protected: formatLength: expected 0 to {len(raw)}, the document's length, got {length}"
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"formatTail": "?"}, "signatures[0]: protected: formatTail: expected base64"),
        ({"formatTail": 7}, "signatures[0]: protected: formatTail: expected a string, got an integer"),
        ({"formatLength": "7"}, "signatures[0]: protected: formatLength: expected an integer, got a string"),
    ],
)
def test_header_that_is_none_is_refused(header: dict[str, object], message: str) -> None:
    assert broken(sign(IMAGE.payload, **header)) == message


def test_what_was_signed_must_be_a_document() -> None:
    raw = sign(IMAGE.payload, formatLength=7)
    assert broken(raw).startswith("signatures: expected a JSON document, got ")


def test_signatures_must_be_of_one_document() -> None:
    document = json.loads(IMAGE.raw)
    (signature,) = document["signatures"]
    other = json.loads(sign(build_schema1([A]).payload))["signatures"][0]
    assert protected(IMAGE.raw)["formatTail"] == protected(sign(build_schema1([A]).payload))["formatTail"]
    document["signatures"] = [signature, other]
    raw = IMAGE.raw.replace(
        json.dumps(signature).encode(), json.dumps(signature).encode() + b", " + json.dumps(other).encode()
    )
    assert broken(raw) == "signatures: expected signatures of one document, got signatures of several"


def test_many_signatures_of_different_parts_take_no_memory() -> None:
    """Each of thousands of signatures could name some megabytes of the document, more than any machine's memory."""
    signature = json.loads(IMAGE.raw)["signatures"][0]
    headers = [json.dumps({"formatLength": number, "formatTail": ""}) for number in range(1_000_000, 1_000_200)]
    signatures = [
        {**signature, "protected": base64.urlsafe_b64encode(header.encode()).decode().rstrip("=")} for header in headers
    ]
    raw = json.dumps({"schemaVersion": 1, "padding": "x" * 1_000_000, "signatures": signatures}).encode()
    tracemalloc.start()
    try:
        message = broken(raw)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message == "signatures: expected signatures of one document, got signatures of several"
    assert most_bytes < 20_000_000


@given(st.binary() | st.integers(0, len(IMAGE.raw)).map(lambda cut: IMAGE.raw[:cut] + IMAGE.raw[cut + 1 :]))
def test_no_foreign_exception(raw: bytes) -> None:
    with contextlib.suppress(InvalidImageError):
        parse_schema1(raw, None)
    with contextlib.suppress(InvalidImageError):
        digested_bytes(raw, None)
