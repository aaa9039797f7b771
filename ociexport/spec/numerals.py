"""Whole numbers in untrusted text, of any length.

Python's own `int` raises ValueError for more than some 4,300 digits. It also accepts signs, underscores, blanks and
digits of other scripts, and returns numbers too large for a `float`. Sizes, ids and times in untrusted text are parsed
here instead; `tests/spec/test_numerals.py` checks it.
"""

from __future__ import annotations

# The largest size in bytes: of a file, and of Go's int64 in documents.
MAX_SIZE = 2**63 - 1


def number_in(text: str, most: int = MAX_SIZE) -> int | None:
    """Return ``text``, which is ASCII digits, as a number; None for other text, and for more than ``most``.

    >>> number_in("00000000004294967296"), number_in("9" * 5000), number_in("+1")
    (4294967296, None, None)
    """
    number = number_up_to(text, most + 1)
    return number if number is not None and number <= most else None


def number_up_to(text: str, most: int) -> int | None:
    """Return ``text``, which is ASCII digits, as a number of at most ``most``; None for other text.

    >>> number_up_to("9" * 5000, 60), number_up_to("0017", 60), number_up_to("x", 60)
    (60, 17, None)
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return most if len(digits) > len(str(most)) else min(int(digits or "0"), most)
