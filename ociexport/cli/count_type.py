"""Whole numbers as options take them."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

from ociexport.errors import quoted

# Python refuses to read numbers of some thousand digits; no limit or count has more than these.
_MAX_DIGITS = 19


def count_from(least: int) -> Callable[[str], int]:
    """Return what reads an option's whole number, which is 0 or 1 at least."""
    return functools.partial(_parse_count, least)


def _parse_count(least: int, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text[:_MAX_DIGITS]) < least:
        raise argparse.ArgumentTypeError(f"expected a number {'above 0' if least else 'from 0 on'}, got {quoted(text)}")
    return int(text[:_MAX_DIGITS])
