"""TagSelection: which tags of a repository a list asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ociexport.errors import UsageError, quoted
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.transfer.lists.versions import Version, VersionRange

_MAX_PATTERN_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class TagSelection:
    """Which tags of a repository are taken: those that all given conditions hold for. Without any, all tags.

    Args:
        allowed: patterns of `re`; a tag that any of them matches somewhere is taken. Empty for every tag.
        denied: patterns; a tag that any of them matches is left out.
        semver: a range that the tag, as a version, is in; see `VersionRange`.
        newest: how many of the highest versions are taken; None for all.
    """

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    semver: str | None = None
    newest: int | None = None

    def __post_init__(self) -> None:
        for pattern in (*self.allowed, *self.denied):
            _compiled(pattern)
        if self.semver is not None:
            VersionRange.parse(self.semver)

    def choose(self, tags: Iterable[str]) -> list[str]:
        """Return the tags that are taken, in the order of ``tags``; by version, highest first, if versions decide.

        A tag that is no version is left out where versions decide. So is one with a prerelease or a variant
        (``3.20-alpine``), unless ``semver`` or a pattern asks for it. Of two spellings of one version (1.2, 1.2.0),
        ``newest`` takes the longer one.
        """
        allowed, denied = list(map(_compiled, self.allowed)), list(map(_compiled, self.denied))
        kept = [
            tag
            for tag in tags
            if (not allowed or any(pattern.search(tag) for pattern in allowed))
            and not any(pattern.search(tag) for pattern in denied)
        ]
        if self.semver is None and self.newest is None:
            return kept
        versions = [(version, tag) for tag in kept if (version := Version.parse(tag)) is not None]
        if self.semver is not None:
            wanted = VersionRange.parse(self.semver)
            versions = [(version, tag) for version, tag in versions if wanted.holds(version)]
        elif not self.allowed:
            versions = [(version, tag) for version, tag in versions if not version.prerelease]
        versions.sort(key=lambda pair: (pair[0], len(pair[1])), reverse=True)
        if self.newest is None:
            return [tag for _, tag in versions]
        longest = dict(reversed(versions))
        return list(reversed(longest.values()))[: self.newest]

    def __str__(self) -> str:
        words = [f"tags=re:{pattern}" for pattern in self.allowed]
        words += [f"not tags=re:{pattern}" for pattern in self.denied]
        words += [f"semver={self.semver}"] if self.semver is not None else []
        words += [f"newest={self.newest}"] if self.newest is not None else []
        return " ".join(words) or "all tags"


def _compiled(pattern: str) -> re.Pattern[str]:
    if len(pattern) > _MAX_PATTERN_CHARACTERS:
        raise UsageError(
            f"tags: expected a pattern of at most {_MAX_PATTERN_CHARACTERS} characters, got {len(pattern)}"
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"tags: expected a regular expression, got {quoted(pattern)}: {error}") from error
