"""The option ``--json``, the same for every command that has it.

A command prints one object, in UTF-8, when it is done. ``jsonVersion`` grows when a member changes its meaning or goes;
members may be added at any time. Members are in camelCase, as the specifications of images have theirs; digests are
``algorithm:hex``, sizes bytes, times RFC 3339.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping

_JSON_VERSION = 1
_END_OF_EMPTY_LIST = "[]\n}\n"
# A byte that is no UTF-8, as `os.fsdecode` has it.
_OTHER_BYTE = re.compile("[\udc80-\udcff]")


def add_json_argument(parser: argparse._ActionsContainer) -> None:
    """Give ``parser`` the option."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def print_json(command: str, members: Mapping[str, object]) -> None:
    """Print the result of ``command`` on standard output."""
    sys.stdout.write(to_json_text(command, members))


def to_json_text(command: str, members: Mapping[str, object]) -> str:
    """Return the result of ``command`` as it is printed, with the line's end.

    A name of a file that is no UTF-8 has its other bytes as ``\\xNN``: half of a surrogate pair, as which Python has
    them, is what strict readers of JSON refuse.
    """
    return _text_of({"jsonVersion": _JSON_VERSION, "command": command, **members}) + "\n"


def print_json_list(command: str, members: Mapping[str, object], name: str, items: Iterable[object]) -> None:
    """Print the result of ``command`` as `print_json` does; its last member is a list, written item by item.

    A listing may have millions of them, and as objects and text each takes some kilobytes.
    """
    sys.stdout.write(to_json_text(command, {**members, name: []}).removesuffix(_END_OF_EMPTY_LIST) + "[")
    before, end = "\n", "]\n}\n"
    for item in items:
        # No text within JSON has the end of a line.
        indented = _text_of(item).replace("\n", "\n    ")
        sys.stdout.write(f"{before}    {indented}")
        before, end = ",\n", "\n  ]\n}\n"
    sys.stdout.write(end)


def _text_of(value: object) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return json.dumps(json.loads(_OTHER_BYTE.sub(_escaped_byte, text)), indent=2)


def _escaped_byte(match: re.Match[str]) -> str:
    return f"\\\\x{ord(match[0]) - 0xDC00:02x}"
