"""docs/guide/limits.md lists each option that raises a limit, with its default."""

from __future__ import annotations

import argparse
import re

from ociexport.cli.options.limits import add_limit_arguments
from tests.support.document_blocks import PROJECT

_ROW = re.compile(r"^\| [^|]+ \| (?:([\d,]+)[^|]*?( million)?(?: ([KMGT])iB)?|[^|]+) \| `(--[\w-]+)` \|$", re.M)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def test_each_option_is_listed_with_its_default() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_limit_arguments(parser)
    shown = {
        option: int(number.replace(",", "")) * (1_000_000 if million else 1) * _UNITS[unit]
        for number, million, unit, option in _ROW.findall((PROJECT / "docs/guide/limits.md").read_text())
    }
    assert shown == {action.option_strings[-1]: action.default for action in parser._actions}
