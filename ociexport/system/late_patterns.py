"""Regular expressions that are compiled when they are first used.

Modules compile their patterns while they are imported. A pull imported 140 of them and used 40; compiling the others
took a tenth of its time. So in the command's own process `re.compile` returns an object that stands for the pattern,
if the body of a module or of a class calls it. Calls within functions compile at once, as ever.
"""

from __future__ import annotations

import copyreg
import re
import sys
from typing import Any

_IN_A_FUNCTION = 0x1  # CO_OPTIMIZED: code of a function, not the body of a module or of a class

_compile = re.compile


class _LatePattern:
    """Stands for a pattern: has its attributes and methods, and is one for `isinstance` and the functions of `re`."""

    def __init__(self, pattern: Any, flags: Any) -> None:
        self._source = pattern, flags

    @property  # type: ignore[misc] # `isinstance` asks for it, and so `re.sub` takes this object for a pattern
    def __class__(self) -> type:
        return re.Pattern

    def __getattr__(self, name: str) -> Any:
        if name == "_compiled":
            value: Any = _compile(*self._source)
        elif name == "_source":  # only if the constructor was not called
            raise AttributeError(name)
        else:
            value = getattr(self._compiled, name)
        # The next use finds the method here. If two threads compile at the same time, both results are right.
        vars(self)[name] = value
        return value

    def __eq__(self, other: object) -> bool:
        return bool(self._compiled == (other._compiled if type(other) is _LatePattern else other))

    def __hash__(self) -> int:
        return hash(self._compiled)

    def __repr__(self) -> str:
        return repr(self._compiled)

    def __copy__(self) -> Any:
        return self._compiled

    def __deepcopy__(self, memo: object) -> Any:
        return self._compiled

    def __reduce_ex__(self, protocol: object) -> Any:
        return copyreg.dispatch_table[re.Pattern](self._compiled)


def compile_patterns_late() -> None:
    """From now on the patterns of modules that are imported are compiled when they are first used."""
    re.compile = _compile_late


def _compile_late(pattern: Any, flags: Any = 0) -> Any:
    code = sys._getframe(1).f_code
    makes_class = code.co_name == "__init_subclass__"  # as `string.Template` does
    if (code.co_flags & _IN_A_FUNCTION and not makes_class) or isinstance(pattern, re.Pattern):
        return _compile(pattern, flags)
    return _LatePattern(pattern, flags)
