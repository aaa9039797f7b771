"""Which tags a list takes: by pattern, by version, the newest. Source: issue 18, "Selection"."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ociexport.errors import UsageError
from ociexport.transfer.lists.selection import TagSelection
from ociexport.transfer.lists.versions import Version, VersionRange

TAGS = [
    "latest",
    "1",
    "1.1",
    "1.2",
    "1.2.0",
    "1.2.3",
    "v1.9",
    "1.10.1",
    "2.0.0-rc.1",
    "2",
    "2.1",
    "3.20-alpine",
    "edge",
]


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (TagSelection(), TAGS),
        (TagSelection(allowed=("^1\\.1",)), ["1.1", "1.10.1"]),
        (TagSelection(allowed=("alpine", "edge")), ["3.20-alpine", "edge"]),
        (TagSelection(allowed=("^1",), denied=("\\.",)), ["1"]),
        (TagSelection(semver=">=1.2 <2"), ["1.10.1", "v1.9", "1.2.3", "1.2.0", "1.2"]),
        (TagSelection(semver=">=1.2 <2", newest=3), ["1.10.1", "v1.9", "1.2.3"]),
        (TagSelection(semver="1.2", newest=3), ["1.2.3", "1.2.0"]),
        (TagSelection(newest=2), ["2.1", "2"]),
        (TagSelection(newest=100), ["2.1", "2", "1.10.1", "v1.9", "1.2.3", "1.2.0", "1.1", "1"]),
        (TagSelection(allowed=("-alpine$",), newest=1), ["3.20-alpine"]),
        (TagSelection(semver=">=2.0.0-0 <2.1"), ["2", "2.0.0-rc.1"]),
    ],
)
def test_chosen_tags(selection: TagSelection, chosen: list[str]) -> None:
    assert selection.choose(TAGS) == chosen


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.2 <2", "1.2.0 1.99.9", "1.1.9 2.0.0"),
        (">= 1.2, < 2", "1.2.0 1.99.9", "1.1.9 2.0.0"),
        ("^1.2.3", "1.2.3 1.9.0", "1.2.2 2.0.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2"),
        ("^0.0.3", "0.0.3", "0.0.4"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3.0"),
        ("~1", "1.0.0 1.9.0", "2.0.0"),
        ("1.x", "1.0.0 1.9.9", "2.0.0 0.9.0"),
        ("1.2.*", "1.2.0 1.2.9", "1.3.0"),
        ("*", "0.0.1 9.9.9", "1.0.0-rc1"),
        ("1.2 - 1.4", "1.2.0 1.4.9", "1.5.0 1.1.0"),
        ("<1 || >=3", "0.9.0 3.0.0", "1.0.0 2.9.9"),
        ("!=1.2.3", "1.2.4", "1.2.3"),
        (">1.2", "1.3.0", "1.2.9"),
        ("<=1.2", "1.2.9", "1.3.0"),
        ("=1.2.3", "1.2.3", "1.2.4"),
    ],
)
def test_ranges(text: str, inside: str, outside: str) -> None:
    """Masterminds/semver, "Basic Comparisons", "Wildcards", "Tilde", "Caret"."""
    wanted = VersionRange.parse(text)
    found = {one: wanted.holds(version) for one in f"{inside} {outside}".split() if (version := Version.parse(one))}
    assert found == {**dict.fromkeys(inside.split(), True), **dict.fromkeys(outside.split(), False)}


def test_order_of_versions() -> None:
    """semver.org, "Precedence"."""
    ordered = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1 1.10.0"
    versions = [version for text in ordered.split() if (version := Version.parse(text))]
    assert sorted(versions, reverse=True) == versions[::-1]


@given(st.text(max_size=30))
def test_any_text_is_a_range_or_one_error(text: str) -> None:
    with suppress(UsageError):
        VersionRange.parse(text).holds(Version((1, 2, 3)))
    Version.parse(text)
