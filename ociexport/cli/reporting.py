"""How an error is told: one line, a hint where the user can act, and the exit code."""

from __future__ import annotations

import os
import sys

from ociexport.cli.exit_codes import exit_code_of
from ociexport.errors import MAX_QUOTED_CHARACTERS, escaped

# Linux takes no longer path in a call; an image may have them, and they are made by descriptor.
_PATH_MAX = 4096


def report_error(error: BaseException) -> int:
    """Tell ``error`` on standard error; returns the code that the command is to end with."""
    print(f"ociexport: error: {one_line(error)}", file=sys.stderr)
    hint = _hint_of(error)
    if hint:
        print(f"hint: {escaped(hint)}", file=sys.stderr)
    return exit_code_of(error)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line; an `OSError`'s with the file's name first."""
    if isinstance(error, OSError) and error.strerror:
        names = [_shown(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        if _is_directory_gone(error):
            names.insert(0, "the working directory")
        text = ": ".join([*names, error.strerror])
    elif isinstance(error, UnicodeEncodeError):
        text = f"{error.object!a}: expected a name that the locale can write, got one beyond {error.encoding}"
    elif isinstance(error, MemoryError):
        text = "not enough memory"
    else:
        text = str(error) or type(error).__name__
    return escaped(" ".join(text.split("\n")))


def _hint_of(error: BaseException) -> str | None:
    if _is_directory_gone(error):
        return "somebody removed it; cd to one that is there"
    if isinstance(error, UnicodeEncodeError):
        return "PYTHONUTF8=1 makes names UTF-8 whatever the locale"
    return getattr(error, "hint", None)


def _shown(name: str | bytes) -> str:
    """Return a file's name; of one that no call would take, both ends."""
    text = os.fsdecode(name)
    return text if len(text) <= _PATH_MAX else f"{text[:MAX_QUOTED_CHARACTERS]}…{text[-MAX_QUOTED_CHARACTERS:]}"


def _is_directory_gone(error: BaseException) -> bool:
    """Whether something is not there because the working directory is not."""
    if not isinstance(error, FileNotFoundError) or os.path.isabs(os.fspath(error.filename or "")):
        return False
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
