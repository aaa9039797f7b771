"""Modules that take the place of others during an import, so that what only other programs need is not imported.

A library imports at its start what some of its users will need. In the command's own process a stand-in is found
instead. It imports the module itself when one of its members is used. Code that is imported later finds the module.
"""

from __future__ import annotations

import importlib
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class LateModule(ModuleType):
    """A module that is imported when one of its members is first used.

    Args:
        functions: its functions that are named in ``from name import function``; they import it when they are called.
    """

    def __init__(self, name: str, *functions: str) -> None:
        super().__init__(name)
        for function in functions:
            vars(self)[function] = self._late(function)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._itself(), name)

    def _late(self, function: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return getattr(self._itself(), function)(*arguments, **options)

        return call

    def _itself(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:  # it is needed while the stand-in is still there
            sys.modules.pop(self.__name__, None)
        return importlib.import_module(self.__name__)


def stand_in(name: str, **members: object) -> ModuleType:
    """Return a module that has only ``members``."""
    module = ModuleType(name)
    vars(module).update(members)
    return module


@contextmanager
def annotations_unread() -> Iterator[None]:
    """Let classes be defined meanwhile whose annotations nobody reads: `typing` does not compile them.

    `typing.NamedTuple` compiles each annotation that is a text, only to say that a wrong one is wrong. urllib3 has
    fifty. The first use of `compile` costs a millisecond of its own.
    """
    # A name in the module hides the built-in function.
    typing.compile = lambda *_: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        vars(typing).pop("compile", None)  # another thread may have done it


@contextmanager
def standing_in(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Let imports find ``modules`` instead of those of their names, except where one was imported already.

    Args:
        modules: None for a module that can't be found at all.
    """
    placed = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(placed)  # type: ignore[arg-type] # None says that a module is not there
    try:
        yield
    finally:
        for name, module in placed.items():
            if sys.modules.get(name) is module:
                sys.modules.pop(name, None)
