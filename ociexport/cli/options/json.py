"""The option ``--json``, the same for every command that has it.

A command prints one object, in UTF-8, when it is done. ``jsonVersion`` grows when a member changes its meaning or is
removed; members may be added at any time. Names of members are in camelCase, as in the image specifications; digests
are ``algorithm:hex``, sizes are in bytes, times are RFC 3339.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping

_JSON_VERSION = 1
_END_OF_EMPTY_LIST = "[]\n}\n"
# A byte that is not UTF-8, as `os.fsdecode` represents it.
_OTHER_BYTE = re.compile("[\udc80-\udcff]")


def add_json_argument(parser: argparse._ActionsContainer) -> None:
    """Add the option to ``parser``."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def print_json(command: str, members: Mapping[str, object]) -> None:
    """Print the result of ``command`` on standard output."""
    sys.stdout.write(to_json_text(command, members))


def to_json_text(command: str, members: Mapping[str, object]) -> str:
    """Return the result of ``command`` as it is printed, with a newline at its end.

    In a file name that is not UTF-8, the invalid bytes are written as ``\\xNN``. Python represents them as lone
    surrogates, which strict JSON parsers refuse.
    """
    return _text_of({"jsonVersion": _JSON_VERSION, "command": command, **members}) + "\n"


def print_json_list(command: str, members: Mapping[str, object], name: str, items: Iterable[object]) -> None:
    """Print the result of ``command`` as `print_json` does; its last member is a list, written item by item.

    A listing may have millions of items, and each takes some kilobytes as objects and text.
    """
    sys.stdout.write(to_json_text(command, {**members, name: []}).removesuffix(_END_OF_EMPTY_LIST) + "[")
    before, end = "\n", "]\n}\n"
    for item in items:
        # A JSON string holds no raw newline, so each newline here is between lines of the indentation.
        indented = _text_of(item).replace("\n", "\n    ")
        sys.stdout.write(f"{before}    {indented}")
        before, end = ",\n", "\n  ]\n}\n"
    sys.stdout.write(end)


def _text_of(value: object) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return json.dumps(json.loads(_OTHER_BYTE.sub(_escaped_byte, text)), indent=2)


def _escaped_byte(match: re.Match[str]) -> str:
    return f"\\\\x{ord(match[0]) - 0xDC00:02x}"
