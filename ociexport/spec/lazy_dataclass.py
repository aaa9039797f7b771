"""`dataclass`, `field` and `replace` as the standard library has them, for classes that are made ten times as fast.

`dataclasses` compiles six functions for each class, and imports `inspect`: with forty classes that was a fifth of the
time of a small command. Here only ``__init__`` is compiled; the other methods are shared. The classes behave as
``@dataclasses.dataclass(slots=True)`` makes them, and are dataclasses for `dataclasses.fields`, `dataclasses.asdict`
and `dataclasses.replace` too: what these functions ask a class for is made when they ask. Type checkers see the
standard library's functions.

Unlike there, ``order``, ``ClassVar``, ``InitVar`` and ``default=`` together with ``init=False`` are not known.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass, field, replace
    from typing import Any, NoReturn

__all__ = ["dataclass", "field", "replace"]

_MISSING: Any = object()


class _Field:
    """What a class body says of one field."""

    __slots__ = ("compare", "default", "default_factory", "hash", "repr")

    def __init__(self, default: Any, default_factory: Any, has_repr: bool, has_hash: bool, is_compared: bool) -> None:
        self.default = default
        self.default_factory = default_factory
        self.repr = has_repr
        self.hash = has_hash
        self.compare = is_compared


if not TYPE_CHECKING:

    def dataclass(*, frozen=False, slots=True, kw_only=False):
        """Return a decorator that makes a class body's annotated names its fields; ``slots`` must stay true."""
        if not slots:
            raise TypeError("slots: expected True")
        return lambda cls: _make(cls, frozen, kw_only)

    def field(  # its words are those of dataclasses
        *,
        default=_MISSING,
        default_factory=_MISSING,
        repr=True,
        hash=True,
        compare=True,
    ):
        """Return a field's default, and whether ``repr()``, ``hash()`` and ``==`` look at it."""
        return _Field(default, default_factory, repr, hash, compare)

    def replace(instance, /, **changes):
        """Return a copy of ``instance`` with some fields changed."""
        for name in type(instance).__match_args__:
            if name not in changes:
                changes[name] = getattr(instance, name)
        return type(instance)(**changes)


def _make(cls: type, frozen: bool, kw_only: bool) -> type:
    fields: dict[str, _Field] = {}
    for base in reversed(cls.__mro__[1:]):
        fields |= base.__dict__.get("_lazy_fields", {})
    inherited = len(fields)
    namespace = dict(cls.__dict__)
    for name in namespace.get("__annotations__", {}):
        default = namespace.pop(name, _MISSING)
        fields[name] = default if isinstance(default, _Field) else _Field(default, _MISSING, True, True, True)
    names = tuple(fields)
    namespace.pop("__dict__", None)
    namespace.pop("__weakref__", None)
    namespace |= {
        "__slots__": names[inherited:],
        "__match_args__": names,
        "_lazy_fields": fields,
        "__dataclass_fields__": _OfStandard("__dataclass_fields__", frozen, kw_only),
        "__dataclass_params__": _OfStandard("__dataclass_params__", frozen, kw_only),
    }
    shared: dict[str, Any] = {
        "__repr__": _repr,
        "__eq__": _equality(tuple(name for name in names if fields[name].compare)),
        "__getstate__": _get_state,
        "__setstate__": _set_state,
    }
    if frozen:
        shared |= {"__setattr__": _refuse_change, "__delattr__": _refuse_change}
        shared["__hash__"] = _hash_of(tuple(name for name in names if fields[name].hash and fields[name].compare))
    else:
        shared["__hash__"] = None
    for name, method in shared.items():
        # A class body with __eq__ and without __hash__ has the entry None, and is hashed all the same if it is frozen.
        if name not in namespace or (name == "__hash__" and namespace[name] is None):
            namespace[name] = method
    made = type(cls)(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    made.__init__ = _compile_init(made, fields, kw_only)  # type: ignore[misc]
    return made


def _compile_init(cls: type, fields: dict[str, _Field], kw_only: bool) -> Callable[..., None]:
    """Return ``__init__`` with a parameter for each field; it sets slots, because a frozen class refuses changes."""
    known: dict[str, Any] = {"_MISSING": _MISSING}
    parameters = ["self", *(["*"] if kw_only else ())]
    lines = []
    for name, one in fields.items():
        known[f"_set_{name}"] = getattr(cls, name).__set__
        value = name
        if one.default_factory is not _MISSING:
            known[f"_make_{name}"] = one.default_factory
            parameters.append(f"{name}=_MISSING")
            value = f"_make_{name}() if {name} is _MISSING else {name}"
        elif one.default is not _MISSING:
            known[f"_default_{name}"] = one.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        lines.append(f" _set_{name}(self, {value})")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), known)  # noqa: S102 - as dataclasses does
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    return init


def _values(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return a function that returns the tuple of the named attributes."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _equality(names: tuple[str, ...]) -> Callable[[Any, object], bool]:
    values = _values(names)

    def __eq__(self: Any, other: object) -> bool:  # noqa: N807 - it becomes the method
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hash_of(names: tuple[str, ...]) -> Callable[[Any], int]:
    values = _values(names)

    def __hash__(self: Any) -> int:  # noqa: N807 - it becomes the method
        return hash(values(self))

    return __hash__


def _repr(self: Any) -> str:
    shown = (f"{name}={getattr(self, name)!r}" for name, one in self._lazy_fields.items() if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__match_args__]


def _set_state(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)


def _refuse_change(self: Any, name: str, value: object = None) -> NoReturn:
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 - start-up: only a mistake needs it

    raise FrozenInstanceError(f"cannot assign to or delete field {name!r}")


class _OfStandard:
    """An attribute that the standard library gives to its dataclasses: made by it when it is first asked for."""

    def __init__(self, attribute: str, frozen: bool, kw_only: bool) -> None:
        self._attribute = attribute
        self._kept: dict[type, Any] = {}
        self._options = {"frozen": frozen, "kw_only": kw_only}

    def __get__(self, instance: object, owner: type) -> Any:
        if owner not in self._kept:
            import dataclasses  # noqa: PLC0415 - start-up: this module exists to do without it

            fields = []
            for name, one in owner._lazy_fields.items():  # type: ignore[attr-defined]
                how = {"repr": one.repr, "hash": None if one.hash else False, "compare": one.compare}
                if one.default_factory is not _MISSING:
                    made = dataclasses.field(default_factory=one.default_factory, **how)
                elif one.default is not _MISSING:
                    made = dataclasses.field(default=one.default, **how)
                else:
                    made = dataclasses.field(**how)
                fields.append((name, _annotation(owner, name), made))
            standard = dataclasses.make_dataclass(owner.__name__, fields, slots=True, **self._options)  # type: ignore[arg-type]
            self._kept[owner] = vars(standard)[self._attribute]
        return self._kept[owner]


def _annotation(owner: type, name: str) -> Any:
    return next(own[name] for own in (vars(cls).get("__annotations__", {}) for cls in owner.__mro__) if name in own)
