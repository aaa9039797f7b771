"""The option ``--json``, the same for every command that has it.

A command prints one object, in UTF-8, when it is done. ``jsonVersion`` grows when a member changes its meaning or is
removed; members may be added at any time. Names of members are in camelCase, as in the image specifications; digests
are ``algorithm:hex``, sizes are in bytes, times are RFC 3339.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping

from ociexport.errors import with_bytes_shown

_JSON_VERSION = 1
_END_OF_EMPTY_LIST = "[]\n}\n"


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
    return json.dumps(_shown(value), indent=2)


def _shown(value: object) -> object:
    """Return ``value`` with the bytes in its texts shown."""
    if isinstance(value, str):
        return with_bytes_shown(value)
    if isinstance(value, Mapping):
        return {_shown(name): _shown(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value
