"""Parses whole numbers and sizes given as options."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable

from ociexport.errors import quoted
from ociexport.spec.numerals import MAX_SIZE, number_up_to

_SIZE = re.compile(r"([0-9]+)(?:([KMGT])(?:iB)?)?", re.IGNORECASE)
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def count_from(least: int) -> Callable[[str], int]:
    """Return the parser of an option's whole number, which must be at least ``least``: 0 or 1."""
    return functools.partial(_parse_count, least)


def parse_size(text: str) -> int:
    """Return an option's size in bytes, which is above 0: ``2147483648``, ``2G`` or ``2GiB``."""
    found = _SIZE.fullmatch(text)
    number = number_up_to(found[1], MAX_SIZE) if found else None
    if found is None or not number:
        units = "" if text.isdigit() else ", such as 512M or 2G"
        raise argparse.ArgumentTypeError(f"expected a number above 0{units}, got {quoted(text)}")
    return min(number * _UNITS.get((found[2] or "").upper(), 1), MAX_SIZE)


def add_memory_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-memory`` to a command that decompresses layers, and does not keep the names in them."""
    parser.add_argument_group("limits").add_argument(
        "--max-memory",
        metavar="SIZE",
        type=parse_size,
        help="bytes of memory for the window of a zstd layer (default: what is available, at most 2G)",
    )


def _parse_count(least: int, text: str) -> int:
    number = number_up_to(text, MAX_SIZE)
    if number is None or number < least:
        raise argparse.ArgumentTypeError(f"expected a number {'above 0' if least else 'from 0 on'}, got {quoted(text)}")
    return number
