"""Parses whole numbers given as options."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

from ociexport.errors import quoted
from ociexport.spec.numerals import MAX_SIZE, number_up_to


def count_from(least: int) -> Callable[[str], int]:
    """Return the parser of an option's whole number, which must be at least ``least``: 0 or 1."""
    return functools.partial(_parse_count, least)


def _parse_count(least: int, text: str) -> int:
    number = number_up_to(text, MAX_SIZE)
    if number is None or number < least:
        raise argparse.ArgumentTypeError(f"expected a number {'above 0' if least else 'from 0 on'}, got {quoted(text)}")
    return number
