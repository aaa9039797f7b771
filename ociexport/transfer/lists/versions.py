"""Versions in tags, and the ranges of versions that a list asks for: ``>=1.2 <2``, ``^1.2``, ``~1.2.3``, ``1.x``.

Spec: semver.org 2.0.0, "Precedence"; the ranges are those of Masterminds/semver, which skopeo and Helm use.
"""

from __future__ import annotations

import functools
import re

from ociexport.errors import UsageError, quoted
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.numerals import number_in

_VERSION = re.compile(r"[vV]?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?(?:-([0-9A-Za-z.-]+))?")
_TERM = re.compile(r"(=|==|!=|>|<|>=|=>|<=|=<|~|~>|\^)?\s*[vV]?([0-9xX*]+(?:\.[0-9xX*]+){0,2})(-[0-9A-Za-z.-]+)?")
_HYPHEN = re.compile(r"(\S+)\s+-\s+(\S+)")
_ANY = frozenset("xX*")
# An operator may be apart from its version: ">= 1.2".
_APART = re.compile(r"([=!<>~^])\s+(?=[0-9vVxX*])")


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A version; missing numbers count as 0, as in Masterminds/semver.

    Args:
        numbers: major, minor, patch.
        prerelease: the part after ``-``; empty for a release. In a tag it is often a variant: ``3.20-alpine``.
    """

    numbers: tuple[int, int, int]
    prerelease: str = ""

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """Return the version that ``text`` is, with or without ``v``; None if it is none."""
        found = _VERSION.fullmatch(text)
        if found is None:
            return None
        numbers = [number_in(part or "0") for part in found.groups()[:3]]
        major, minor, patch = numbers
        if major is None or minor is None or patch is None:
            return None
        return cls((major, minor, patch), found[4] or "")

    def __lt__(self, other: Version) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[object, ...]:
        parts = [self._part_order(part) for part in self.prerelease.split(".")] if self.prerelease else []
        return (self.numbers, not self.prerelease, parts)

    @staticmethod
    def _part_order(part: str) -> tuple[bool, int, str]:
        number = number_in(part)
        return (number is None, number or 0, "" if number is not None else part)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """One term of a range.

    Args:
        least: the first version in it; None for no lower end.
        end: the first version beyond it; None for no upper end.
        negated: whether the versions outside are meant.
        takes_prereleases: whether the term itself has a prerelease.
    """

    least: Version | None
    end: Version | None
    takes_prereleases: bool
    negated: bool = False
    excludes_least: bool = False
    includes_end: bool = False

    def holds(self, version: Version) -> bool:
        is_in = self.least is None or self.least < version or (self.least == version and not self.excludes_least)
        is_in = is_in and (self.end is None or version < self.end or (version == self.end and self.includes_end))
        return is_in != self.negated


@dataclass(frozen=True, slots=True)
class VersionRange:
    """A range of versions: terms that all hold, alternatives apart by ``||``.

    A version with a prerelease is in the range only if one of the terms has one too: ``>=1.2-0``.
    """

    text: str
    alternatives: tuple[tuple[_Bounds, ...], ...]

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Return ``text`` parsed.

        Raises:
            UsageError: it is no range of versions.
        """
        alternatives = []
        for part in text.split("||"):
            spaced = _HYPHEN.sub(r">=\1 <=\2", part.replace(",", " "))
            terms = _APART.sub(r"\1", spaced).split()
            if not terms:
                raise _range_error(text)
            alternatives.append(tuple(_bounds_of(term, text) for term in terms))
        return cls(text, tuple(alternatives))

    def holds(self, version: Version) -> bool:
        """Whether ``version`` is in the range."""
        return any(
            all(term.holds(version) for term in terms)
            and (not version.prerelease or any(term.takes_prereleases for term in terms))
            for terms in self.alternatives
        )


def _bounds_of(term: str, text: str) -> _Bounds:
    found = _TERM.fullmatch(term)
    if found is None:
        raise _range_error(text)
    operator, parts, prerelease = found[1] or "", found[2].split("."), (found[3] or "")[1:]
    given: list[int] = []
    for part in parts:
        if part in _ANY:
            break
        number = number_in(part)
        if number is None:
            raise _range_error(text)
        given.append(number)
    if not given:
        return _Bounds(None, None, False, negated=operator == "!=")
    low = Version(_filled(given), prerelease)
    # The first version after those that the given numbers begin: 2.0.0 for 1, 1.3.0 for 1.2.
    after = low if len(given) == 3 else Version(_next(given, len(given)))
    is_exact = len(given) == 3
    takes = bool(prerelease)
    if operator in ("", "=", "==", "!="):
        return _Bounds(low, after, takes, negated=operator == "!=", includes_end=is_exact)
    if operator == ">":
        return _Bounds(low if is_exact else after, None, takes, excludes_least=is_exact)
    if operator in (">=", "=>"):
        return _Bounds(low, None, takes)
    if operator == "<":
        return _Bounds(None, low, takes)
    if operator in ("<=", "=<"):
        return _Bounds(None, after, takes, includes_end=is_exact)
    if operator == "^":
        place = next((place for place, number in enumerate(given, 1) if number), len(given))
        return _Bounds(low, Version(_next(given, place)), takes)
    return _Bounds(low, Version(_next(given, min(2, len(given)))), takes)


def _filled(numbers: list[int]) -> tuple[int, int, int]:
    major, minor, patch = (*numbers, 0, 0)[:3]
    return major, minor, patch


def _next(numbers: list[int], place: int) -> tuple[int, int, int]:
    return _filled([*numbers[: place - 1], numbers[place - 1] + 1])


def _range_error(text: str) -> UsageError:
    return UsageError(f"semver: expected a range such as '>=1.2 <2', got {quoted(text)}")
