"""The choice of the paths to unpack: ``--include`` and ``--exclude``."""

from __future__ import annotations

import re

from ociexport.errors import UsageError, quoted
from ociexport.layers.paths import ImagePath
from ociexport.spec.lazy_dataclass import dataclass

_SPECIAL = re.compile(rb"[*?\[]")


@dataclass(frozen=True, slots=True)
class PathSelection:
    """A choice of paths by shell patterns, matched against the names in the layers; links are not followed.

    ``*`` and ``?`` match within one name, ``**`` matches across slashes, ``[…]`` is a set. A pattern that matches a
    directory matches everything in it. Without includes everything is included. An exclude takes precedence over an
    include.

    Args:
        includes: patterns of the paths to take, compiled; empty for all.
        excludes: patterns of the paths to leave out, compiled.
        parents: the directories above the included paths.
    """

    includes: tuple[re.Pattern[bytes], ...]
    excludes: tuple[re.Pattern[bytes], ...]
    parents: frozenset[bytes]

    @classmethod
    def parse(cls, includes: tuple[str, ...], excludes: tuple[str, ...]) -> PathSelection | None:
        """Return the patterns as a choice of paths; None, which means all paths, if there are no patterns.

        Raises:
            UsageError: a pattern is empty, or a set in it has no closing bracket.
        """
        if not includes and not excludes:
            return None
        parents: set[bytes] = set()
        for pattern in includes:
            parents.update(_fixed_parents(_stripped(pattern)))
        return cls(tuple(map(_compile, includes)), tuple(map(_compile, excludes)), frozenset(parents))

    def takes(self, path: ImagePath) -> bool:
        """Whether ``path`` is to be unpacked; so are the directories above included paths."""
        if any(pattern.match(path) for pattern in self.excludes):
            return False
        return not self.includes or path in self.parents or any(pattern.match(path) for pattern in self.includes)


def _stripped(pattern: str) -> bytes:
    stripped = pattern.removeprefix("./").strip("/")
    if not stripped:
        raise UsageError(f"pattern {quoted(pattern)}: expected a path in the image")
    return stripped.encode("utf-8", "surrogateescape")


def _fixed_parents(pattern: bytes) -> set[bytes]:
    """Return the root and the directories above every match of ``pattern``, up to the first part with a wildcard."""
    parts = pattern.split(b"/")[:-1]
    parents = {b""}
    for number, part in enumerate(parts, start=1):
        if _SPECIAL.search(part):
            break
        parents.add(b"/".join(parts[:number]))
    return parents


def _compile(pattern: str) -> re.Pattern[bytes]:
    text = _stripped(pattern)
    # The regular expressions between one "**" and the next.
    parts = [b""]
    position = 0
    while position < len(text):
        sign = text[position : position + 1]
        if text.startswith(b"**", position):
            parts.append(b"")
            position += 2
            continue
        if sign == b"[":
            end = text.find(b"]", position + 2)
            if end < 0:
                raise UsageError(f"pattern {quoted(pattern)}: expected a ']' after '['")
            members = text[position + 1 : end]
            negation = b"^" if members[:1] in (b"!", b"^") else b""
            members = members[len(negation) :]
            parts[-1] += b"(?!/)[" + negation + re.sub(rb"([\\\[\]^&~|])", rb"\\\1", members) + b"]"
            position = end + 1
            continue
        parts[-1] += {b"*": b"[^/]*?", b"?": b"[^/]"}.get(sign) or re.escape(sign)
        position += 1
    try:
        # The first match of a part serves as well as any later one, so atomic groups prevent backtracking, which would
        # take very long on the paths of thousands of names that an image may have.
        parts[-1] += rb"(?:/|\Z)"
        following = b"".join(b"(?>.*?%b)" % part for part in parts[1:])
        return re.compile(parts[0] + following, re.DOTALL)
    except re.error as error:
        raise UsageError(f"pattern {quoted(pattern)}: {error}") from error
