"""All commands see a manifest that its index holds in ``data``, whether or not it is stored elsewhere too.

image-spec 1.1 descriptor.md, "data".
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from ociexport import verify
from ociexport.errors import InvalidImageError
from ociexport.rootfs.unpack import unpack
from ociexport.spec.digest import Digest
from ociexport.verification.garbage import collect_garbage
from ociexport.verification.repair import repair
from tests.images.test_signature_gate import FORMS, IMAGE, listed_embedded, without_embedded
from tests.support.damaged_layout import DamagedLayout
from tests.support.fake_registry import FakeRegistry
from tests.support.image_builder import AMD64, build_index, descriptor_of

# An entry without a type is a flaw of its own for verify.
EMBEDDED = [form for form in FORMS if "embedded" in form and "no type" not in form]


def embedded_in(form: str) -> set[Digest]:
    return set(FORMS[form].documents) - set(without_embedded(FORMS[form]).documents)


@pytest.fixture(params=EMBEDDED)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> DamagedLayout:
    """A layout without the documents that are embedded."""
    return DamagedLayout(tmp_path / "layout").write(one=without_embedded(FORMS[request.param]))


def test_verify_sees_what_unpack_sees(layout: DamagedLayout, tmp_path: Path) -> None:
    unpack(f"{layout.path}:one", tmp_path / "rootfs", platform=AMD64)
    assert (tmp_path / "rootfs" / "file").read_bytes() == b"content"
    assert verify(layout.path, deep=True).is_right
    assert not verify(layout.path, strict=True).is_right
    layout.spoil(IMAGE.layers[0].digest, "other")
    assert [one.kind.value for one in verify(layout.path).findings if one.is_wrong] == ["digest"]


def test_what_is_only_embedded_is_told(layout: DamagedLayout) -> None:
    told = [str(one) for one in verify(layout.path).findings]
    assert told
    assert all(line.endswith("not stored as a blob, but embedded in the index that references it") for line in told)


def test_gc_keeps_what_an_embedded_manifest_names(layout: DamagedLayout) -> None:
    before = set(layout.path.rglob("*"))
    assert collect_garbage(layout.path).dropped == ()
    assert {path for path in layout.path.rglob("*") if path.is_file()} <= before


@pytest.mark.parametrize("form", EMBEDDED)
def test_damaged_blob_is_told_although_the_document_is_embedded(tmp_path: Path, form: str) -> None:
    layout = DamagedLayout(tmp_path / "layout").write(one=FORMS[form])
    for digest in embedded_in(form):
        layout.spoil(digest, "other")
        found = [(one.kind.value, one.digest) for one in verify(layout.path).findings if one.is_wrong]
        assert found == [("digest", digest)]
        result = repair(layout.path)
        assert ([one.origin for one in result.repaired], result.is_right) == (["the document that names it"], True)


def test_outermost_document_may_be_embedded_too(registry: FakeRegistry, tmp_path: Path) -> None:
    source = listed_embedded(IMAGE, {}, registry, tmp_path)
    unpack(source, tmp_path / "rootfs", platform=AMD64)
    assert verify(tmp_path / "stored").is_right
    index = json.loads((tmp_path / "stored" / "index.json").read_bytes())
    index["manifests"][0]["data"] = "e30="
    (tmp_path / "stored" / "index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidImageError, match="data: expected the"):
        unpack(source, tmp_path / "other", platform=AMD64)


def test_listed_blob_of_unknown_type_must_be_stored(tmp_path: Path) -> None:
    raw = b"of a kind that is still to come"
    entry = descriptor_of(raw, "application/vnd.example.thing").to_json()
    entry["data"] = base64.b64encode(raw).decode()
    index = build_index([IMAGE], edit_index=lambda item: item["manifests"].append(entry))
    layout = DamagedLayout(tmp_path / "layout").write(one=index)
    assert [one.kind.value for one in verify(layout.path).findings if one.is_wrong] == ["missing"]
    result = repair(layout.path)
    assert ([one.origin for one in result.repaired], result.is_right) == (["the document that names it"], True)
