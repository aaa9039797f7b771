"""Patterns that are compiled when first used behave as patterns; a program that uses the library is not affected."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from ociexport.system import late_patterns

MODULE = "import re\nTEXT = re.compile(r'(?P<x>a+)|b', re.IGNORECASE)\nBYTES = re.compile(rb'a+')\n"
IN_A_CLASS = "import re\nclass Holder:\n    TEXT = re.compile('a')\n"
IN_A_FUNCTION = "import re\ndef make():\n    return re.compile('a')\nTEXT = make()\n"


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Return a function that runs a module's source and returns its members."""
    monkeypatch.setattr(re, "compile", re.compile)  # undone at the end
    late_patterns.compile_patterns_late()

    def run(source: str) -> dict[str, Any]:
        members: dict[str, Any] = {"__name__": "late"}
        exec(source, members)
        return members

    return run


def is_late(pattern: object) -> bool:
    """Whether ``pattern`` is not compiled yet."""
    return type(pattern) is not re.Pattern and "_compiled" not in vars(pattern)


PATTERN = re.compile(r"(?P<x>a+)|b", re.IGNORECASE)
USES: dict[str, Callable[[Any], Any]] = {
    "match": lambda pattern: pattern.match("Aab").span(),
    "fullmatch": lambda pattern: pattern.fullmatch("Aab"),
    "search": lambda pattern: pattern.search("--aa")["x"],
    "findall": lambda pattern: pattern.findall("aabA"),
    "split": lambda pattern: pattern.split("1a2b3"),
    "sub": lambda pattern: pattern.sub("-", "1a2b3", count=1),
    "scanner": lambda pattern: pattern.scanner("a").match().span(),
    "attributes": lambda pattern: (pattern.pattern, pattern.flags, pattern.groups, dict(pattern.groupindex)),
    "re.sub": lambda pattern: re.sub(pattern, "-", "1a2b3"),
    "re.split": lambda pattern: re.split(pattern, "1a2b3", maxsplit=1),
    "re.compile": lambda pattern: re.compile(pattern).pattern,
    "isinstance": lambda pattern: isinstance(pattern, re.Pattern),
    "repr": repr,
    "hash": hash,
    "==": lambda pattern: (pattern == PATTERN, pattern == "a", pattern != PATTERN, {PATTERN} == {pattern}),
    "copy": lambda pattern: copy.copy(pattern) == PATTERN,
    "deepcopy": lambda pattern: copy.deepcopy([pattern]) == [PATTERN],
    "pickle": lambda pattern: pickle.loads(pickle.dumps(pattern)) == PATTERN,
}


@pytest.mark.parametrize("use", USES)
def test_late_pattern_behaves_as_a_pattern(use: str, late: Callable[[str], dict[str, Any]]) -> None:
    pattern = late(MODULE)["TEXT"]
    assert is_late(pattern)
    for _ in range(2):
        assert USES[use](pattern) == USES[use](PATTERN)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pattern: pattern.match(b"a"),
        lambda pattern: pattern.no_such_member,
        lambda pattern: re.compile(pattern, re.DOTALL),
        lambda pattern: re.findall(pattern, cast("str", b"a")),
    ],
)
def test_wrong_use_raises_the_same_error(wrong: Callable[[Any], Any], late: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)) as expected:
        wrong(PATTERN)
    with pytest.raises(expected.type, match=re.escape(str(expected.value))):
        wrong(late(MODULE)["TEXT"])


def test_bytes_and_classes_are_late_and_functions_are_not(late: Callable[[str], dict[str, Any]]) -> None:
    assert is_late(late(MODULE)["BYTES"])
    assert late(MODULE)["BYTES"].match(b"aa").span() == (0, 2)
    holder = late(IN_A_CLASS)["Holder"]
    assert is_late(holder.TEXT)
    assert holder().TEXT.match("a")
    assert type(late(IN_A_FUNCTION)["TEXT"]) is re.Pattern


def test_threads_may_use_a_pattern_at_once(late: Callable[[str], dict[str, Any]]) -> None:
    pattern = late(MODULE)["TEXT"]
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(pattern.match("aaa").span())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(0, 3)] * 8


def test_a_program_that_uses_the_library_compiles_at_once() -> None:
    """Calling the command's function from a program changes nothing either."""
    script = (
        "import re; real = re.compile\n"
        "import ociexport; ociexport.pull; ociexport.unpack\n"
        "from ociexport.cli.main import main; main(['pull', '--help'])\n"
        "assert re.compile is real; import gettext, argparse; assert argparse._ is gettext.gettext"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.DEVNULL)
