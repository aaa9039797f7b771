"""json_fields: untrusted JSON gives checked values or an `InvalidImageError`, never another exception."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import InvalidImageError
from ociexport.spec.json_fields import JsonObject, parse_json_object

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "doc: expected a JSON document, got nothing (Expecting value: line 1 column 1 (char 0))"),
        (b" \n", "doc: expected a JSON document, got nothing (Expecting value: line 2 column 1 (char 2))"),
        (b"[1]", "doc: expected a JSON object, got a list"),
        (b'"x"', "doc: expected a JSON object, got a string"),
        (b"null", "doc: expected a JSON object, got nothing"),
    ],
)
def test_what_is_no_object_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        parse_json_object(raw, where="doc")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"<!DOCTYPE html><html><title>Log in</title></html>", "HTML document"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "gzip compressed data"),
    ],
)
def test_unexpected_content_is_called_by_its_kind(raw: bytes, kind: str) -> None:
    with pytest.raises(InvalidImageError, match=f"expected a JSON document, got {kind}"):
        parse_json_object(raw, where="doc")


def test_bottomless_document_is_refused() -> None:
    with pytest.raises(InvalidImageError, match=r"\(nested too deep\)$"):
        parse_json_object(b'{"a":' * 100_000, where="doc")


def test_number_of_any_length_is_no_crash() -> None:
    with pytest.raises(InvalidImageError, match=r"^doc: expected a JSON document"):
        parse_json_object(b'{"size":' + b"9" * 5000 + b"}", where="doc")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_number_that_json_has_not_is_refused(number: str) -> None:
    """RFC 8259 6; encoding/json. An old image's config is written again, and would not be valid JSON with them."""
    with pytest.raises(InvalidImageError) as caught:
        parse_json_object(b'{"a":' + number.encode() + b"}", where="doc")
    assert str(caught.value).endswith(f"({number} is not a JSON number, or is too large for one)")


def test_half_a_surrogate_pair_reads_as_go_reads_it() -> None:
    """encoding/json: invalid surrogates become U+FFFD; unchanged, they could not be written to index.json."""
    item = parse_json_object(rb'{"a": "x\ud800", "\udfff": {"b": ["\uD83D\uDE00"]}}', where="")
    assert item.text("a") == "x\ufffd"
    assert item.object("\ufffd").texts("b") == ("\U0001f600",)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda item: item.text("absent"), "doc: absent: expected a string, got nothing"),
        (lambda item: item.text("null"), "doc: null: expected a string, got nothing"),
        (lambda item: item.text("number"), "doc: number: expected a string, got an integer"),
        (lambda item: item.integer("true"), "doc: true: expected an integer, got a boolean"),
        (lambda item: item.integer("float"), "doc: float: expected an integer, got a number"),
        (lambda item: item.boolean("number"), "doc: number: expected a boolean, got an integer"),
        (lambda item: item.texts("numbers"), "doc: numbers[1]: expected a string, got an integer"),
        (lambda item: item.texts("text"), "doc: text: expected a list, got a string"),
        (lambda item: item.text_map("object"), "doc: object['b']: expected a string, got an integer"),
        (lambda item: item.object("text"), "doc: text: expected an object, got a string"),
        (lambda item: item.object("object").text("b"), "doc: object: b: expected a string, got an integer"),
        (lambda item: list(item.objects("numbers")), "doc: numbers[0]: expected an object, got a string"),
        (lambda item: item.keys_of("numbers"), "doc: numbers: expected an object, got a list"),
    ],
)
def test_wrong_types_are_told_with_their_place(read: Any, message: str) -> None:
    members = {"null": None, "number": 7, "true": True, "float": 1.0, "text": "x"}
    item = JsonObject({**members, "numbers": ["a", 1], "object": {"b": 1}}, "doc")
    with pytest.raises(InvalidImageError) as caught:
        read(item)
    assert str(caught.value) == message


def test_null_counts_as_absent() -> None:
    """Go writes an empty slice or map as null."""
    item = JsonObject({"a": None}, "doc")
    assert "a" not in item
    assert item.texts("a") == ()
    assert item.text_map("a") == {}
    assert item.keys_of("a") == ()
    assert item.optional_object("a") is None
    assert item.optional_text("a") is None
    assert item.boolean("a") is False
    assert list(item.objects("a")) == []


@given(st.binary())
def test_any_bytes_are_an_object_or_an_invalid_image(raw: bytes) -> None:
    with contextlib.suppress(InvalidImageError):
        parse_json_object(raw, where="doc")


@given(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4))
def test_every_getter_returns_its_type_or_says_invalid_image(members: dict[str, Any]) -> None:
    item = parse_json_object(json.dumps(members).encode(), where="doc")
    for key in [*members, "absent"]:
        for getter in ("text", "integer", "boolean", "texts", "text_map", "keys_of", "object", "optional_text"):
            try:
                getattr(item, getter)(key)
            except InvalidImageError:
                continue
