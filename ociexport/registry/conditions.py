"""Conditional and range requests: the entity tags and ranges that a client names, for `serve`.

Spec: RFC 9110 8.8.3, "ETag", 13, "Conditional Requests", 14, "Range Requests".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ociexport.spec.digest import Digest
from ociexport.spec.numerals import MAX_SIZE, number_up_to

_RANGE_PATTERN = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
# RFC 9110 8.8.3: one entity tag of a list.
_ENTITY_TAG_PATTERN = re.compile(r'(W/)?("[^"]*")')


def identifying_headers(digest: Digest) -> dict[str, str]:
    """Return the headers that identify content: a digest is the strongest possible entity tag."""
    return {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}


def lists_tag(values: Sequence[str], entity_tag: str, *, is_weak_equal: bool) -> bool:
    """Whether ``*`` or ``entity_tag`` is in the lists of an If-Match or If-None-Match header."""
    return any(
        value.strip() == "*"
        or any(tag == entity_tag and (is_weak_equal or not weak) for weak, tag in _ENTITY_TAG_PATTERN.findall(value))
        for value in values
    )


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the range that a Range header requests: its first byte, and the byte after its last.

    Returns:
        None if there is no header, or one that a server may ignore (several ranges, other units): then the whole blob
        is sent. An empty range if the blob has none of the requested bytes, or the range ends before it begins: a
        server may ignore that too, but the conformance suite wants it refused.

    Spec: RFC 9110 14.1.2, "Byte Ranges", 14.2, "Range"; distribution-spec's conformance suite, "Blob get range".
    """
    match = _RANGE_PATTERN.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = (number_up_to(text, MAX_SIZE) for text in match.groups())
    if first is None:
        return max(0, size - (last or 0)), size
    if last is not None and last < first:
        return size, size
    return first, min(last + 1, size) if last is not None else size
