"""CONTRIBUTING.md: the files that it lists for each change exist."""

from __future__ import annotations

import re

import pytest

from tests.support.document_blocks import PROJECT

_TEXT = (PROJECT / "CONTRIBUTING.md").read_text()
_ROWS = re.findall(r"^\| (an? [^|]+) \| ([^|]+) \|$", _TEXT, flags=re.M)


def test_the_map_has_what_newcomers_look_for() -> None:
    wanted = {"a source of images", "a command", "an option that several commands have", "a retry rule", "a tar oddity"}
    assert wanted <= {what for what, _ in _ROWS}


@pytest.mark.parametrize(("what", "touched"), _ROWS, ids=[what for what, _ in _ROWS])
def test_files_that_a_change_touches_are_there(what: str, touched: str) -> None:
    names = re.findall(r"`((?:\w+/)*\w*[/.]\w*)`", touched)
    assert names != []
    places = [PROJECT if name.startswith(("tests/", "docs/", "man/")) else PROJECT / "ociexport" for name in names]
    assert [name for name, place in zip(names, places, strict=True) if not (place / name).exists()] == []
