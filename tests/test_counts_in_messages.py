"""Messages: one layer is "1 layer", and never "1 layers" or "1 layer(s)"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ociexport
from ociexport.errors import counted

_PACKAGE = Path(ociexport.__file__).parent
# A word with "s" after an inserted value, with up to two words between them: "{…} free inodes".
_PLURAL_NEXT = re.compile(r" (?:[a-z][\w-]* ){0,2}?(\w+s)\b")
# No plurals of counted things.
_OTHER_WORDS = frozenset(
    "is has was does becomes says lists directs removes belongs this as its tokens times ms ns s".split()  # noqa: SIM905
)
# Messages in which the number can't be 1, or is part of an estimate.
_NEVER_ONE = {("rootfs/disk/preflight.py", " files"), ("rootfs/disk/preflight.py", " inodes")}


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (0, "layer", "0 layers"),
        (1, "layer", "1 layer"),
        (2, "layer", "2 layers"),
        (1, "entry", "1 entry"),
        (3, "entry", "3 entries"),
        (4, "directory", "4 directories"),
        (2, "key", "2 keys"),
        (2, "diff_id", "2 diff_ids"),
        (1, "compressed byte", "1 compressed byte"),
        (12, "compressed byte", "12 compressed bytes"),
    ],
)
def test_noun_follows_its_number(count: int, noun: str, expected: str) -> None:
    assert counted(count, noun) == expected


@given(st.integers(min_value=0), st.sampled_from(["layer", "entry", "blob", "day", "free inode"]))
def test_only_one_is_singular(count: int, noun: str) -> None:
    assert (counted(count, noun) == f"{count} {noun}") == (count == 1)


def test_every_count_in_a_message_fits_its_noun() -> None:
    """Issue 16, What a person sees: "`1 layers` is `1 layer`", in every message."""
    found = [place for path in sorted(_PACKAGE.rglob("*.py")) for place in _misfits(path)]
    assert found == [], "use ociexport.errors.counted"


def test_a_misfit_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        'f"{len(layers)} layers"\nf"{n} free inodes"\nf"{n} file(s)"\n"%d blobs" % n\nf"{MAX_LINES} lines, {name} is"\n'
    )
    assert [line for _, line, _ in _misfits(tmp_path / "a.py", tmp_path)] == [1, 2, 3, 4]


def _misfits(path: Path, root: Path = _PACKAGE) -> Iterator[tuple[str, int, str]]:
    """Yield each inserted number that is followed by a plural, whatever the number is."""
    place = str(path.relative_to(root))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if match := re.search(r"\w+\(e?s\)|%d \w+s\b", node.value):
                yield place, node.lineno, match[0]
        elif isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
                    continue
                match = _PLURAL_NEXT.match(str(text.value))
                if match is None or match[1] in _OTHER_WORDS or (place, match[0]) in _NEVER_ONE:
                    continue
                shown = ast.unparse(value.value)
                # A constant is known: the writer of the message saw its value.
                if not (shown.startswith("counted(") or shown.rpartition(".")[2].isupper()):
                    yield place, node.lineno, match[0]
