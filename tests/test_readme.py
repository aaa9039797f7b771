"""The help texts in README.md and man/ are what ``--help`` prints; ``python -m tests.test_readme`` writes them anew."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ociexport.cli.commandline import COMMANDS
from tests.system_parts import OCIEXPORT

_PROJECT = Path(__file__).parent.parent
# Which document has whose help.
_DOCUMENTS = {
    _PROJECT / "README.md": ["--help"],
    _PROJECT / "man" / "README.md": [f"{name} --help" for name in COMMANDS],
}
_BEGIN, _END = "<!-- help texts, written by python -m tests.test_readme -->\n", "<!-- end of help texts -->\n"


def help_text(words: str) -> str:
    result = subprocess.run(
        [*OCIEXPORT, *words.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=_PROJECT,
        env={**os.environ, "COLUMNS": "100"},
    )
    return result.stdout


def rewritten(document: Path) -> str:
    before, _, rest = document.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    blocks = "\n".join(f"```text\n$ ociexport {words}\n{help_text(words)}```\n" for words in _DOCUMENTS[document])
    return f"{before}{_BEGIN}\n{blocks}\n{_END}{after}"


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(_PROJECT)))
def test_help_texts_are_the_programs(document: Path) -> None:
    """STYLE: the README's help text is compared with ``--help``."""
    assert rewritten(document) == document.read_text(), "run python -m tests.test_readme"


if __name__ == "__main__":
    for path in _DOCUMENTS:
        path.write_text(rewritten(path))
