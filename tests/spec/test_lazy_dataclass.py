"""Our dataclasses behave as the standard library's: each claim is checked against a class that `dataclasses` made."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

import ociexport
from ociexport.spec import lazy_dataclass


def _classes(made_by: Any) -> tuple[Any, Any, Any]:
    """Return a frozen class, a class derived from it and a mutable one with keyword parameters only."""

    @made_by.dataclass(frozen=True, slots=True)
    class Base:
        """A base."""

        name: str
        secret: str = made_by.field(default="s", repr=False)
        labels: dict[str, str] = made_by.field(default_factory=dict, hash=False)
        note: str = made_by.field(default="", compare=False, repr=False)

        def __post_init__(self) -> None:
            if not self.name:
                raise ValueError("name: expected text")

    @made_by.dataclass(frozen=True, slots=True)
    class Derived(Base):
        """Derived from a base."""

        size: int = 3

        def __str__(self) -> str:
            return f"{self.name} {self.size}"

    @made_by.dataclass(slots=True, kw_only=True)
    class Mutable:
        """A mutable class; a field without default may stand behind one with a default."""

        count: int = 0
        rest: list[int]

    return Base, Derived, Mutable


OURS = _classes(lazy_dataclass)
THEIRS = _classes(dataclasses)
PAIRS = list(zip(OURS, THEIRS, strict=True))

CALLS: list[tuple[int, tuple[object, ...], dict[str, object]]] = [
    (0, ("a",), {}),
    (0, ("a", "b"), {"labels": {"x": "y"}}),
    (0, (), {"name": "a"}),
    (0, (), {}),
    (0, ("",), {}),
    (0, ("a", "b", {}, "n", 4), {}),
    (0, ("a",), {"note": "n"}),
    (0, ("a",), {"nam": "b"}),
    (0, ("a",), {"name": "b"}),
    (1, ("a",), {}),
    (1, ("a", "b", {}, "n", 4), {}),
    (2, (), {"rest": [1]}),
    (2, (), {}),
    (2, ([1],), {}),
]


def _outcome(action: Any) -> object:
    try:
        return action()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(("kind", "values", "named"), CALLS)
def test_an_instance_is_made_shown_and_hashed_as_by_dataclasses(
    kind: int, values: tuple[object, ...], named: dict[str, object]
) -> None:
    ours, theirs = PAIRS[kind]
    for look in (repr, str, hash, dataclasses.asdict, dataclasses.astuple):
        mine, standard = (_outcome(lambda cls=cls, look=look: look(cls(*values, **named))) for cls in (ours, theirs))
        assert mine == standard, look


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_class_tells_of_its_fields_as_a_class_of_dataclasses(ours: Any, theirs: Any) -> None:
    def told(cls: Any) -> object:
        fields = dataclasses.fields(cls)
        shown = [(one.name, one.type, one.repr, one.hash, one.init) for one in fields]
        params = {name: getattr(cls.__dataclass_params__, name) for name in ("init", "repr", "eq", "order", "frozen")}
        return shown, params, inspect.signature(cls).parameters.keys(), cls.__slots__, cls.__doc__, cls.__qualname__

    assert dataclasses.is_dataclass(ours)
    assert told(ours) == told(theirs)


def test_equality_is_by_class_and_values() -> None:
    base, derived, mutable = OURS
    assert base("a") == base("a")
    assert base("a") != base("b")
    assert base("a") != derived("a")
    assert base("a") == base("a", note="n")
    assert hash(base("a")) == hash(base("a", note="n"))
    assert mutable(rest=[1]) == mutable(rest=[1])
    assert len({base("a"), base("a"), base("b")}) == 2


def test_frozen_refuses_changes_and_unknown_names_have_no_place() -> None:
    base, _, mutable = OURS
    with pytest.raises(dataclasses.FrozenInstanceError):
        base("a").name = "b"
    with pytest.raises(dataclasses.FrozenInstanceError):
        del base("a").name
    changed = mutable(rest=[])
    changed.count = 4
    assert changed.count == 4
    with pytest.raises(AttributeError):
        changed.other = 1


@pytest.mark.parametrize("replace", [lazy_dataclass.replace, dataclasses.replace])
def test_replace_changes_what_is_named_and_checks_the_new_values(replace: Any) -> None:
    _, derived, _ = OURS
    first = derived("a", "b", {"c": "d"}, "n", 5)
    assert replace(first, size=6) == derived("a", "b", {"c": "d"}, "n", 6)
    with pytest.raises(ValueError, match="expected text"):
        replace(first, name="")
    with pytest.raises(TypeError):
        replace(first, nam="x")


def test_a_mutable_default_is_made_for_each_instance() -> None:
    base, _, _ = OURS
    assert base("a").labels is not base("a").labels


def test_our_values_survive_pickle_and_copy() -> None:
    digest = ociexport.Digest.of(b"x")
    descriptor = ociexport.Descriptor("text/plain", digest, 1, annotations={"a": "b"})
    for copied in (pickle.loads(pickle.dumps(descriptor)), copy.copy(descriptor), copy.deepcopy(descriptor)):
        assert copied == descriptor
        assert copied.annotations == {"a": "b"}


def test_every_public_value_class_is_a_dataclass_for_the_standard_library() -> None:
    seen = 0
    for module in pkgutil.walk_packages(ociexport.__path__, "ociexport."):
        if module.name.endswith("__main__"):
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            if isinstance(cls, type) and cls.__module__ == module.name and "_lazy_fields" in vars(cls):
                names = [one.name for one in dataclasses.fields(cls)]
                assert list(inspect.signature(cls).parameters) == names, cls
                seen += 1
    assert seen > 90


def test_making_our_classes_loads_neither_dataclasses_nor_inspect() -> None:
    code = "import sys, ociexport; ociexport.Digest; print({'dataclasses', 'inspect'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
