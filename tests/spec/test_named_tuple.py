"""Our named tuples behave as those of typing; only making their classes is faster."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from collections.abc import Callable
from typing import Any

import pytest

from ociexport.spec.named_tuple import NamedTuple


class Quick(NamedTuple):
    """What it is."""

    a: int
    b: str | None = None
    c: tuple[str, ...] = ()

    @property
    def twice(self) -> int:
        """A property."""
        return self.a * 2

    @classmethod
    def parse(cls, text: str) -> Quick:
        """A class method."""
        return cls(int(text))

    def __str__(self) -> str:
        return f"a={self.a}"


class Standard(typing.NamedTuple):
    """What it is."""

    a: int
    b: str | None = None
    c: tuple[str, ...] = ()

    @property
    def twice(self) -> int:
        """A property."""
        return self.a * 2

    @classmethod
    def parse(cls, text: str) -> Standard:
        """A class method."""
        return cls(int(text))

    def __str__(self) -> str:
        return f"a={self.a}"


USES: dict[str, Callable[[Any], Any]] = {
    "repr": lambda cls: repr(cls(1, "x")).replace(cls.__name__, ""),
    "str": lambda cls: str(cls(1)),
    "equality": lambda cls: (cls(1) == cls(1), cls(1) == (1, None, ()), cls(1) == cls(2), hash(cls(1))),
    "order": lambda cls: sorted([cls(2), cls(1)]),
    "unpacking": lambda cls: [*cls(1, c=("x",))],
    "_replace": lambda cls: cls(1)._replace(b="y"),
    "_asdict": lambda cls: cls(1)._asdict(),
    "_make": lambda cls: cls._make([1, "x", ()]),
    "_fields": lambda cls: (cls._fields, cls._field_defaults, cls.__match_args__),
    "annotations": typing.get_type_hints,
    "members": lambda cls: (cls(4).twice, cls.parse("3"), cls.__doc__, cls.twice.__doc__),
    "names": lambda cls: (cls.__module__, cls.__qualname__ == cls.__name__, cls.__bases__, cls.__mro__[1:]),
    "signature": lambda cls: [(one.name, one.default, one.kind) for one in inspect.signature(cls).parameters.values()],
    "pickle": lambda cls: pickle.loads(pickle.dumps(cls(1, "x"))) == cls(1, "x"),
    "copy": lambda cls: (copy.copy(cls(1)), type(copy.deepcopy(cls(1))) is cls),
    "slots": lambda cls: hasattr(cls(1), "__dict__"),
}
ERRORS: dict[str, Callable[[Any], Any]] = {
    "too few": lambda cls: cls(),
    "too many": lambda cls: cls(1, 2, 3, 4),
    "unknown": lambda cls: cls(1, d=2),
    "assignment": lambda cls: setattr(cls(1), "a", 2),
    "another attribute": lambda cls: setattr(cls(1), "d", 2),
    "unknown in _replace": lambda cls: cls(1)._replace(d=2),
}


@pytest.mark.parametrize("use", USES)
def test_used_as_the_standard_one(use: str) -> None:
    assert USES[use](Quick) == USES[use](Standard)


@pytest.mark.parametrize("error", ERRORS)
def test_the_same_errors(error: str) -> None:
    with pytest.raises((TypeError, AttributeError, ValueError)) as standard:
        ERRORS[error](Standard)
    with pytest.raises(standard.type) as quick:
        ERRORS[error](Quick)
    assert str(quick.value).replace("Quick", "Standard") == str(standard.value)


def test_a_field_with_a_default_comes_last() -> None:
    with pytest.raises(TypeError):

        class Wrong(NamedTuple):
            a: int = 1
            b: str  # type: ignore[misc]
