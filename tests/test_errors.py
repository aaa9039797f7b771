"""errors: one tree, messages with their place, and nothing from outside that a terminal would obey."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ociexport
from ociexport.errors import (
    MAX_QUOTED_CHARACTERS,
    DigestMismatchError,
    InvalidImageError,
    OciexportError,
    escaped,
    locating,
    quoted,
)


def _all_error_classes() -> set[type[BaseException]]:
    names = [info.name for info in pkgutil.walk_packages(ociexport.__path__, "ociexport.")]
    modules = [importlib.import_module(name) for name in names if name != "ociexport.__main__"]
    return {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__.startswith("ociexport")
    }


def test_every_error_derives_from_the_base() -> None:
    """The base is true. What ends a process on a signal is no error; the others become one of ours."""
    others = {kind.__name__ for kind in _all_error_classes() if not issubclass(kind, OciexportError)}
    assert others <= {
        "Terminated",
        "StalledError",
        "ProxyRefusalError",
        "ForbiddenAddressError",
        "KeptConnectionClosedError",
        "MalformedAnswerError",
    }


def test_place_grows_on_the_way_out() -> None:
    with pytest.raises(InvalidImageError) as caught, locating("manifest sha256:aa"), locating("layers[2]"):
        raise InvalidImageError("expected an integer, got a string", where="size")
    assert str(caught.value) == "manifest sha256:aa: layers[2]: size: expected an integer, got a string"
    assert caught.value.where == "manifest sha256:aa: layers[2]: size"


def test_error_without_a_place_is_its_message() -> None:
    assert str(DigestMismatchError("digest mismatch")) == "digest mismatch"


def test_other_errors_pass_locating_untouched() -> None:
    with pytest.raises(OciexportError, match=r"^as it was$"), locating("place"):
        raise OciexportError("as it was")


@pytest.mark.parametrize(
    ("untrusted", "shown"),
    [
        ("plain", "'plain'"),
        ("line\nbreak", r"'line\nbreak'"),
        ("\x1b[31mred", r"'\x1b[31mred'"),
        ("\u202egnp.exe", r"'\u202egnp.exe'"),
        ("\udc80\udcff", r"'\x80\xff'"),
        ("\ud800", r"'\ud800'"),
        ("ümlaut", "'ümlaut'"),
        (-1, "-1"),
        ("x" * 201, "'" + "x" * 200 + "…'"),
    ],
)
def test_quoted_shows_what_a_terminal_would_obey(untrusted: object, shown: str) -> None:
    assert quoted(untrusted) == shown


@given(st.text(max_size=400))
def test_quoted_is_one_bounded_printable_line(untrusted: str) -> None:
    shown = quoted(untrusted)
    assert shown.isprintable()
    assert len(shown) <= MAX_QUOTED_CHARACTERS + 3


@given(st.text())
def test_escaping_twice_changes_nothing(text: str) -> None:
    assert escaped(escaped(text)) == escaped(text)
