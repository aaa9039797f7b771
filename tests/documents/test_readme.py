"""README.md and docs/guide/guide.md show commands that work, and man/README.md shows what ``--help`` prints.

``python -m tests.documents.test_readme`` rewrites the help texts in man/README.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ociexport
from ociexport.cli.commandline import COMMANDS
from tests.support.document_blocks import PROJECT, Block, blocks_of, workplace
from tests.support.system_parts import OCIEXPORT, require

# The help texts that each document shows.
_DOCUMENTS = {PROJECT / "man" / "README.md": ["--help", *(f"{name} --help" for name in COMMANDS)]}
DOCUMENTS = [
    path
    for place in (".", "docs/about", "docs/developing", "docs/guide", "man")
    for path in sorted((PROJECT / place).glob("*.md"))
]
_BEGIN, _END = "<!-- help texts, written by python -m tests.documents.test_readme -->\n", "<!-- end of help texts -->\n"


def help_text(words: str) -> str:
    result = subprocess.run(
        [*OCIEXPORT, *words.split()],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
        env={**os.environ, "COLUMNS": "100"},
    )
    return result.stdout


def rewritten(document: Path) -> str:
    before, _, rest = document.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    blocks = "\n".join(f"```text\n$ ociexport {words}\n{help_text(words)}```\n" for words in _DOCUMENTS[document])
    return f"{before}{_BEGIN}\n{blocks}\n{_END}{after}"


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_help_texts_are_the_programs(document: Path) -> None:
    """STYLE: the documents' help texts are compared with ``--help``."""
    assert rewritten(document) == document.read_text(), "run python -m tests.documents.test_readme"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_to_what_is_there(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_readme_leads_to_every_document() -> None:
    text = (PROJECT / "README.md").read_text()
    assert [path.name for path in DOCUMENTS if f"({path.relative_to(PROJECT)})" not in text] == ["README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_tests_that_are_named_exist(document: Path) -> None:
    """Documents name the tests of their promises."""
    text = document.read_text()
    files = "".join(path.read_text() for path in (PROJECT / "tests").rglob("*.py"))
    functions = set(re.findall(r"^def (test_\w+)", files, flags=re.M))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if name not in functions] == []
    assert [name for name in re.findall(r"`(tests/[\w./]+)`", text) if not (PROJECT / name).exists()] == []


@pytest.mark.system
def test_commands_of_readme_and_guide_work(tmp_path: Path) -> None:
    """Run one after the other by root, in one directory."""
    require("bash", "busybox", "chroot", "sqfstar", root=True)
    with workplace(tmp_path) as place:
        for block in [*blocks_of("README.md", "sh"), *blocks_of("docs/guide/guide.md", "sh")]:
            if block.heading != "Install":
                place.run(block)


@pytest.mark.system
@pytest.mark.slow
def test_installation_of_readme_works(tmp_path: Path) -> None:
    """Without its dependencies, so only the build tools are downloaded."""
    require("bash", "make", "python3")
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("Makefile", "MANIFEST.in", "LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(PROJECT / name, clone)
    for name in ("ociexport", "man"):
        shutil.copytree(PROJECT / name, clone / name)
    with workplace(tmp_path, PIP_NO_DEPS="1") as place:
        (block,) = blocks_of("README.md", "sh", heading="Install")
        shown = Block(
            block.document, block.heading, "sh", f"{block.text}hash -r\nociexport --version\ntype ociexport\n"
        )
        printed = place.run(shown, directory=clone)
    assert f"ociexport {ociexport.__version__}" in printed


if __name__ == "__main__":
    for path in _DOCUMENTS:
        path.write_text(rewritten(path))
