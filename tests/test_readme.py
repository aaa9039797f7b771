"""README: its help texts are what ``--help`` prints; ``python -m tests.test_readme`` writes them anew."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from ociexport.cli.main import COMMANDS
from tests.system_parts import OCIEXPORT

_README = Path(__file__).parent.parent / "README.md"
_BLOCK_PATTERN = re.compile(r"```text\n\$ ociexport (?P<words>[a-z -]*--help)\n(?P<help>.*?)```\n", re.DOTALL)


def help_text(words: str) -> str:
    result = subprocess.run(
        [*OCIEXPORT, *words.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=_README.parent,
        env={**os.environ, "COLUMNS": "100"},
    )
    return result.stdout


def rewritten(text: str) -> str:
    return _BLOCK_PATTERN.sub(
        lambda match: f"```text\n$ ociexport {match['words']}\n{help_text(match['words'])}```\n", text
    )


def test_help_texts_are_the_programs() -> None:
    """STYLE: the README's help text is compared with ``--help``."""
    text = _README.read_text()
    assert rewritten(text) == text, "run python -m tests.test_readme"


def test_every_command_has_its_help_text() -> None:
    shown = {match["words"].removesuffix("--help").strip() for match in _BLOCK_PATTERN.finditer(_README.read_text())}
    assert shown >= {"", *COMMANDS}


if __name__ == "__main__":
    _README.write_text(rewritten(_README.read_text()))
