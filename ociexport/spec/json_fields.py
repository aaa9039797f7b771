"""Typed access to the fields of an untrusted JSON document.

Documents are parsed here once, at the edge, and become frozen values; no raw dict travels inward.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ociexport.errors import InvalidImageError, LimitExceededError, describe_content, quoted

# Half of a surrogate pair is not a character and can't be encoded again. It is read as U+FFFD, as in Go.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_MAX_INTEGER_CHARACTERS = 308
# Every escape, so that an escaped backslash before a "u" is skipped; a whole pair matches as one escape.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)

# A value takes up to a hundred bytes of memory, while an empty list is three bytes of JSON. An index.json of 25,000
# images, or a list of 400,000 tags, has fewer values.
MAX_JSON_VALUES = 500_000
_VALUE_MARKS = (b",", b":", b"[", b"{")
# One character beyond the BMP, such as an emoji, makes every character of its string take four bytes of memory.
_MAX_TEXT_BYTES = 128 * 1024 * 1024
_BEYOND_BMP = re.compile(rb"[\xf0-\xf4]")


def parse_json(raw: bytes, *, where: str) -> Any:
    """Return ``raw`` parsed as JSON; all untrusted JSON is parsed here.

    Raises:
        InvalidImageError: not UTF-8, not JSON, or nested too deep.
        LimitExceededError: it would take too much memory; nothing of it was parsed.
    """
    _verify_memory(raw, where)
    try:
        text = _without_lone_surrogates(raw).decode("utf-8")
        return json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidImageError(f"expected a JSON document, got {_kind_of(raw)} ({reason})", where=where) from error


def parse_json_object(raw: bytes, *, where: str) -> JsonObject:
    """Return ``raw`` parsed as a JSON object.

    Raises:
        InvalidImageError: not UTF-8, not JSON, nested too deep, or not an object.
        LimitExceededError: it would take too much memory; nothing of it was parsed.
    """
    value = parse_json(raw, where=where)
    if not isinstance(value, dict):
        raise InvalidImageError(f"expected a JSON object, got {type_name(value)}", where=where)
    return JsonObject(value, where)


def parse_json_as(member: str, raw: bytes, *, where: str) -> JsonObject:
    """Return an object whose member ``member`` is the parsed ``raw``, for a document that is not itself an object.

    Raises:
        InvalidImageError, LimitExceededError: as in `parse_json`.
    """
    return JsonObject({member: parse_json(raw, where=where)}, where)


def count_json_values(raw: bytes) -> int:
    """Return an upper bound on the number of values and names in the JSON ``raw``."""
    return sum(map(raw.count, _VALUE_MARKS))


def _verify_memory(raw: bytes, where: str) -> None:
    """Return if parsing ``raw`` takes no more memory than the limits.

    Raises:
        LimitExceededError: it has too many values, or too much text of wide characters.
    """
    if count_json_values(raw) > MAX_JSON_VALUES and _has_too_many_values(raw):
        raise LimitExceededError(f"JSON: expected at most {MAX_JSON_VALUES} values, got more", where=where)
    width = 1 if raw.isascii() else 4 if _BEYOND_BMP.search(raw) else 2
    escaped = 4 if _SURROGATE_ESCAPE.search(raw) else 2 if b"\\u" in raw else 1
    # The text as a whole, and then the strings in it.
    text_bytes = len(raw) * (width + max(width, escaped))
    if text_bytes > _MAX_TEXT_BYTES:
        raise LimitExceededError(
            f"JSON: expected at most {_MAX_TEXT_BYTES} bytes of memory for its text, got {text_bytes}", where=where
        )


def _has_too_many_values(raw: bytes) -> bool:
    """Whether ``raw`` has too many values, not counting commas and brackets within strings."""
    # A backslash outside a string is an error that ends the parsing there.
    plain = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    count = position = strings = 0
    while count <= MAX_JSON_VALUES and strings <= MAX_JSON_VALUES:
        start = plain.find(b'"', position)
        outside_end = start if start >= 0 else len(plain)
        count += sum(plain.count(mark, position, outside_end) for mark in _VALUE_MARKS)
        end = plain.find(b'"', start + 1) if start >= 0 else -1
        if end < 0:
            return count > MAX_JSON_VALUES
        position = end + 1
        strings += 1
    return True


def _without_lone_surrogates(raw: bytes) -> bytes | bytearray:
    """Return ``raw`` with each half of a surrogate pair replaced by U+FFFD, whose escape has the same length."""
    if not _SURROGATE_ESCAPE.search(raw):
        return raw
    replaced = bytearray(raw)
    for escape in _ESCAPE.finditer(raw):
        if escape[1] is not None:
            replaced[escape.start() : escape.end()] = rb"\ufffd"
    return replaced


def _finite(text: str) -> float:
    """Return a number; refuse ``NaN`` and such, which are not JSON, and numbers too large for a float, as Go does.

    A converted document is written again, and would not be valid JSON with them.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a JSON number, or is too large for one")
    return number


def _integer(text: str) -> int:
    """Return an integer; refuse one that is too large for a float, as `_finite` does."""
    if len(text) > _MAX_INTEGER_CHARACTERS:
        raise ValueError(f"{text[:20]}… is too large for a JSON number")
    return int(text)


class JsonObject:
    """One JSON object and its place; each getter returns a checked type or raises `InvalidImageError`.

    A ``null`` member counts as absent, since Go writes an empty slice or map as ``null``.
    """

    def __init__(self, members: Mapping[str, Any], where: str) -> None:
        self._members = members
        self.where = where

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of all members, in their order."""
        return tuple(self._members)

    @property
    def members(self) -> Mapping[str, Any]:
        """All members, unchecked, for a caller that handles the object as a whole."""
        return self._members

    def __contains__(self, key: str) -> bool:
        return self._members.get(key) is not None

    def text(self, key: str) -> str:
        """Return the string under ``key``, which is required."""
        return str(self._typed(key, str, "a string"))

    def optional_text(self, key: str) -> str | None:
        """Return the string under ``key``; None where it is absent or empty."""
        return (self.text(key) or None) if key in self else None

    def integer(self, key: str) -> int:
        """Return the integer under ``key``, which is required."""
        value = self._typed(key, int, "an integer")
        if isinstance(value, bool):
            raise self.error(key, "expected an integer, got a boolean")
        return int(value)

    def boolean(self, key: str) -> bool:
        """Return the boolean under ``key``; False where it is absent."""
        return self._typed(key, bool, "a boolean") if key in self else False

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the list of strings under ``key``; empty where it is absent."""
        items = self._typed(key, list, "a list") if key in self else []
        for number, item in enumerate(items):
            if not isinstance(item, str):
                raise self.error(f"{key}[{number}]", f"expected a string, got {type_name(item)}")
        return tuple(items)

    def text_lists(self, key: str) -> tuple[tuple[str, ...], ...]:
        """Return the lists of strings under ``key``; a string stands for a list of one, at either depth."""
        value = self._members.get(key)
        items = value if isinstance(value, list) else [] if value is None else [value]
        lists = [item if isinstance(item, list) else [item] for item in items]
        for number, texts in enumerate(lists):
            for text in texts:
                if not isinstance(text, str):
                    raise self.error(f"{key}[{number}]", f"expected a string, got {type_name(text)}")
        return tuple(map(tuple, lists))

    def text_map(self, key: str) -> dict[str, str]:
        """Return the map of strings to strings under ``key``; empty where it is absent."""
        members = self._typed(key, dict, "an object") if key in self else {}
        for name, item in members.items():
            if not isinstance(item, str):
                raise self.error(f"{key}[{quoted(name)}]", f"expected a string, got {type_name(item)}")
        return dict(members)

    def keys_of(self, key: str) -> tuple[str, ...]:
        """Return the names in the object under ``key``, which is how Go writes a set; empty where it is absent."""
        return tuple(self._typed(key, dict, "an object")) if key in self else ()

    def object(self, key: str) -> JsonObject:
        """Return the object under ``key``, which is required."""
        return JsonObject(self._typed(key, dict, "an object"), self._place_of(key))

    def optional_object(self, key: str) -> JsonObject | None:
        """Return the object under ``key``; None where it is absent."""
        return self.object(key) if key in self else None

    def objects(self, key: str) -> Iterator[JsonObject]:
        """Yield the objects in the list under ``key``; none where it is absent."""
        items = self._typed(key, list, "a list") if key in self else []
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise self.error(f"{key}[{number}]", f"expected an object, got {type_name(item)}")
            yield JsonObject(item, self._place_of(f"{key}[{number}]"))

    def error(self, key: str, message: str) -> InvalidImageError:
        """Return an error about the member ``key``; the caller raises it."""
        return InvalidImageError(message, where=self._place_of(key))

    def _place_of(self, key: str) -> str:
        return f"{self.where}: {key}" if self.where else key

    def _typed(self, key: str, kind: type, expected: str) -> Any:
        value = self._members.get(key)
        if value is None or not isinstance(value, kind):
            raise self.error(key, f"expected {expected}, got {type_name(value)}")
        return value


def _kind_of(raw: bytes) -> str:
    """Return the format of unexpected bytes: ``HTML document`` helps more than a parser's column number."""
    if not raw.strip():
        return "nothing"
    return describe_content(raw)


def type_name(value: object) -> str:
    """Return JSON's name for the type of ``value``, with its article."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
