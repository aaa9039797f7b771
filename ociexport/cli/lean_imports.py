"""How the command imports other code without what it does not use; a program with the library imports all as ever."""

from __future__ import annotations

from ociexport.system.late_patterns import compile_patterns_late
from ociexport.system.ownership import owns_process


def make_imports_lean() -> None:
    """From now on patterns are compiled late."""
    if owns_process():
        compile_patterns_late()
