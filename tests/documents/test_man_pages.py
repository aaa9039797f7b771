"""The manual pages in man/ are generated from the commands' options; ``python -m tests.documents.test_man_pages``
rewrites them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from argparse_manpage.manpage import Manpage

import ociexport
from ociexport.cli.commandline import COMMANDS, EXAMPLES, new_parser
from ociexport.cli.topics import TOPICS
from tests.support.system_parts import require

_DIRECTORY = Path(__file__).parent.parent.parent / "man"


def pages() -> dict[str, str]:
    """Return the text of each page, by its file's name."""
    os.environ["COLUMNS"] = "80"
    parser, commands = new_parser(COMMANDS)
    made = {"ociexport.1": _page("ociexport", "container images on disk, verified, with no daemon", _main_body(parser))}
    for name, command in commands.items():
        made[f"ociexport-{name}.1"] = _page(f"ociexport-{name}", COMMANDS[name], _body_of(command, EXAMPLES[name]))
    return made


def _page(title: str, summary: str, body: str) -> str:
    return (
        f'.TH {title.upper()} 1 "" "ociexport {ociexport.__version__}" "ociexport manual"\n'
        f".SH NAME\n{title} \\- {_escaped(summary)}\n{body}"
    )


def _body_of(command: object, example: str) -> str:
    """Return the page below NAME: the library's text, without its own header and footer."""
    text = str(Manpage(command, format="single-commands-section"))
    body = text[text.index(".SH SYNOPSIS") :].rstrip()
    return f"{body}\n.SH EXAMPLE\n.nf\n{_escaped(example)}\n.fi\n{_SEE_ALSO}"


def _main_body(parser: object) -> str:
    commands = "".join(
        f".TP\n\\fBociexport\\-{name}\\fR(1)\n{_escaped(summary)}\n" for name, summary in COMMANDS.items()
    )
    topics = "".join(
        f".SH {topic.upper().replace('-', ' ')}\n.nf\n{_escaped(text)}.fi\n" for topic, text in TOPICS.items()
    )
    return (
        ".SH SYNOPSIS\n\\fBociexport\\fR \\fICOMMAND\\fR ...\n"
        f".SH COMMANDS\n{commands}{topics}.SH SEE ALSO\nskopeo(1), umoci(1), podman(1)\n"
    )


_SEE_ALSO = ".SH SEE ALSO\n\\fBociexport\\fR(1)\n"


def _escaped(text: str) -> str:
    """Return ``text`` escaped for roff: hyphens stay hyphens, and no line begins like a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


@pytest.mark.parametrize("name", ["ociexport.1", *(f"ociexport-{command}.1" for command in COMMANDS)])
def test_page_is_made_from_the_options(name: str) -> None:
    assert (_DIRECTORY / name).read_text() == pages()[name], "run python -m tests.documents.test_man_pages"


def test_there_are_no_other_pages() -> None:
    assert {path.name for path in _DIRECTORY.glob("*.1")} == pages().keys()


@pytest.mark.system
@pytest.mark.parametrize("name", ["ociexport.1", *(f"ociexport-{command}.1" for command in COMMANDS)])
def test_man_has_nothing_to_complain_of(name: str) -> None:
    require("man")
    ended = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", _DIRECTORY / name],
        capture_output=True,
        text=True,
        env={**os.environ, "MANROFFSEQ": "", "LC_ALL": "C.UTF-8", "MANWIDTH": "80"},
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


if __name__ == "__main__":
    _DIRECTORY.mkdir(exist_ok=True)
    for path in _DIRECTORY.glob("*.1"):
        path.unlink()
    for name, text in pages().items():
        (_DIRECTORY / name).write_text(text)
