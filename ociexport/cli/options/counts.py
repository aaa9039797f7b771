"""Parses whole numbers and sizes given as options."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable

from ociexport.errors import quoted
from ociexport.spec.numerals import MAX_SIZE, number_up_to

# Media are sold by decimal units, `4.7GB`; `4G` is 1024 times 1024 times 1024 times four, as is `4GiB`.
_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]{1,9}))?(?:([KMGT])(iB|B)?)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def count_from(least: int) -> Callable[[str], int]:
    """Return the parser of an option's whole number, which must be at least ``least``: 0 or 1."""
    return functools.partial(_parse_count, least)


def parse_size(text: str) -> int:
    """Return an option's size in bytes, which is above 0.

    >>> parse_size("2048"), parse_size("4G"), parse_size("4GiB"), parse_size("4.7GB")
    (2048, 4294967296, 4294967296, 4700000000)
    """
    if (found := _SIZE.fullmatch(text)) is not None:
        whole, fraction, unit, ending = found.groups(default="")
        size: int = number_up_to(whole + fraction, MAX_SIZE) or 0
        size *= (1000 if ending.upper() == "B" else 1024) ** _POWERS[unit.upper()]
        size //= 10 ** len(fraction)
        if size:
            return min(size, MAX_SIZE)
    units = "" if text.isdigit() else ", such as 512M or 2G"
    raise argparse.ArgumentTypeError(f"expected a number above 0{units}, got {quoted(text)}")


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
