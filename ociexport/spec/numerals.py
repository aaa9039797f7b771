"""Whole numbers in text from outside, of any length: Python's own `int` refuses more than some 4,300 digits.

It raises a ValueError then, takes signs, underscores, blanks and other scripts' digits, and makes numbers that no
`float` holds. What outside text says of a size, an id or a time goes through here; `tests/spec/test_numerals.py` holds
it.
"""

from __future__ import annotations

# What a size in bytes may be: a file's, and Go's in documents.
MAX_SIZE = 2**63 - 1


def number_in(text: str, most: int = MAX_SIZE) -> int | None:
    """Return the number that ``text`` says in ASCII digits; None for other text, and for more than ``most``.

    >>> number_in("00000000004294967296"), number_in("9" * 5000), number_in("+1")
    (4294967296, None, None)
    """
    number = number_up_to(text, most + 1)
    return number if number is not None and number <= most else None


def number_up_to(text: str, most: int) -> int | None:
    """Return the number that ``text`` says in ASCII digits, ``most`` for all above; None for other text.

    >>> number_up_to("9" * 5000, 60), number_up_to("0017", 60), number_up_to("x", 60)
    (60, 17, None)
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return most if len(digits) > len(str(most)) else min(int(digits or "0"), most)
