"""README: its help texts are what ``--help`` prints; ``python -m tests.test_readme`` writes them anew."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ociexport.cli.commandline import COMMANDS
from tests.system_parts import OCIEXPORT

_README = Path(__file__).parent.parent / "README.md"
_BEGIN, _END = "<!-- help texts, written by python -m tests.test_readme -->\n", "<!-- end of help texts -->\n"


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
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    commands = ["--help", *(f"{name} --help" for name in COMMANDS)]
    blocks = "\n".join(f"```text\n$ ociexport {words}\n{help_text(words)}```\n" for words in commands)
    return f"{before}{_BEGIN}\n{blocks}\n{_END}{after}"


def test_help_texts_are_the_programs() -> None:
    """STYLE: the README's help text is compared with ``--help``."""
    text = _README.read_text()
    assert rewritten(text) == text, "run python -m tests.test_readme"


if __name__ == "__main__":
    _README.write_text(rewritten(_README.read_text()))
