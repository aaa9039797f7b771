"""How an error is told: one line, a hint where the user can act, and the exit code."""

from __future__ import annotations

import os
import sys

from ociexport.cli.exit_codes import exit_code_of
from ociexport.errors import escaped


def report_error(error: BaseException) -> int:
    """Tell ``error`` on standard error; returns the code that the command is to end with."""
    print(f"ociexport: error: {one_line(error)}", file=sys.stderr)
    hint = getattr(error, "hint", None)
    if hint:
        print(f"hint: {escaped(hint)}", file=sys.stderr)
    return exit_code_of(error)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line; an `OSError`'s with the file's name first."""
    if isinstance(error, OSError) and error.strerror:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        text = ": ".join([*names, error.strerror])
    else:
        text = str(error) or type(error).__name__
    return escaped(" ".join(text.split("\n")))
