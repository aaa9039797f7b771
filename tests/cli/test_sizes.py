"""Sizes given as options: units of 1024, and of 1000 with a B behind the letter alone."""

from __future__ import annotations

import argparse

import pytest

from ociexport.cli.options.counts import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("2048", 2048),
        ("4G", 4 << 30),
        ("4GiB", 4 << 30),
        ("4gib", 4 << 30),
        ("700M", 700 << 20),
        ("4.7GB", 4_700_000_000),
        ("1.5K", 1536),
        ("1.000000001KiB", 1024),
        ("25MB", 25_000_000),
        ("2T", 2 << 40),
        ("9" * 50 + "T", 2**63 - 1),
    ],
)
def test_size_is_in_units_of_1024_or_with_a_b_of_1000(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0G", "-1", "G", "4 G", "4X", "4.G", ".5G", "0.1", "4GB5", "４G", "1e9", "5B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"^expected a number above 0, such as 512M or 2G, got "):
        parse_size(text)


def test_zero_is_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"^expected a number above 0, got '0'$"):
        parse_size("0")
