"""Plain lists: one image a line, options after it, comments behind ``#``.

docker.io/library/alpine:3.20
registry.example/team/app:1  platform=linux/amd64,linux/arm64
alpine  tags=re:^3\\.  semver=">=3.18 <4"  newest=3     # three tags
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ociexport.errors import OciexportError, UsageError, quoted
from ociexport.images.choose import PlatformChoice
from ociexport.spec.numerals import number_in
from ociexport.transfer.lists.entries import ALL_PLATFORMS, Findings, ListEntry, choice_of
from ociexport.transfer.lists.nodes import Place
from ociexport.transfer.lists.selection import TagSelection
from ociexport.transfer.sources.names import RegistryName, parse_source_name

# A word; a part of it may be in quotes, where blanks and # count for nothing.
_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")
_QUOTED = re.compile(r""""([^"]*)"|'([^']*)'""")
_PLAIN_WORD = re.compile(r"""[^\s"'#][^\s"']*""")
_OPTION = re.compile(r"([a-z-]+)=(.*)", re.DOTALL)
_PATTERN, _NOT_PATTERN = "re:", "!re:"
# A second one would take the place of the first; tags= may be repeated.
_ONCE = frozenset({"platform", "semver", "newest"})
_MAX_NEWEST = 100_000
_EXPECTED = "platform=, tags=re:…, tags=!re:…, tags=all, semver= or newest="


def read_lines(text: str, place: Place, findings: Findings) -> None:
    """Add the images of a plain list.

    Raises:
        UsageError: a line does not parse; it is named.
    """
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = list(_words(line))
            if words:
                findings.add(_entry_of(words, place.at(number)))
        except OciexportError as error:
            raise UsageError(f"{place.at(number)}: {error}", hint=error.hint) from error


def _words(line: str) -> Iterator[str]:
    rest = line.strip()
    while rest and not rest.startswith("#"):
        word = _WORD.match(rest)
        if word is None:
            raise UsageError(f"expected a closing quote, got {quoted(rest)}")
        after = rest[word.end() :]
        if after and not after[0].isspace():
            raise UsageError(f"expected a closing quote, got {quoted(after)}")
        yield _QUOTED.sub(lambda found: found[1] if found[1] is not None else found[2], word[0])
        rest = after.lstrip()


def _entry_of(words: list[str], why: str) -> ListEntry:
    image, *options = words
    name = parse_source_name(image)
    platforms: PlatformChoice | None = None
    allowed: list[str] = []
    denied: list[str] = []
    semver: str | None = None
    newest: int | None = None
    selects = False
    seen: set[str] = set()
    for option in options:
        found = _OPTION.fullmatch(option)
        key, value = (found[1], found[2]) if found else ("", "")
        if key in seen:
            raise UsageError(f"expected {key}= once, got it twice")
        seen |= {key} & _ONCE
        if key == "platform":
            platforms = choice_of([value])
            continue
        selects = True
        if key == "tags" and value.startswith(_PATTERN):
            allowed.append(value.removeprefix(_PATTERN))
        elif key == "tags" and value.startswith(_NOT_PATTERN):
            denied.append(value.removeprefix(_NOT_PATTERN))
        elif key == "semver":
            semver = value
        elif key == "newest":
            newest = number_in(value, _MAX_NEWEST)
            if not newest:
                raise UsageError(f"newest: expected a number above 0, got {quoted(value)}")
        elif (key, value) != ("tags", "all"):
            raise UsageError(f"expected {_EXPECTED} after the image, got {quoted(option)}")
    if not selects:
        return ListEntry(image, (why,), platforms=platforms)
    if not isinstance(name, RegistryName) or "@" in image or ":" in image.rpartition("/")[2]:
        raise UsageError(f"expected a repository without a tag before tags=, semver= and newest=, got {quoted(image)}")
    return ListEntry(image, (why,), True, platforms, TagSelection(tuple(allowed), tuple(denied), semver, newest))


def to_line(entry: ListEntry) -> str:
    """Return the line of a plain list that names the same; without the reasons."""
    words = [entry.image]
    if entry.platforms is not None:
        words.append(f"platform={','.join(map(str, entry.platforms.platforms)) or ALL_PLATFORMS}")
    if (selection := entry.selection) is not None:
        words += [f"tags={_PATTERN}{pattern}" for pattern in selection.allowed]
        words += [f"tags={_NOT_PATTERN}{pattern}" for pattern in selection.denied]
        words += [f"semver={selection.semver}"] if selection.semver is not None else []
        words += [f"newest={selection.newest}"] if selection.newest is not None else []
        words += ["tags=all"] if selection == TagSelection() else []
    return " ".join(map(_in_quotes, words))


def _in_quotes(word: str) -> str:
    """Return a word as it is typed; blanks and quotes are put in quotes."""
    if _PLAIN_WORD.fullmatch(word):
        return word
    key, equals, value = word.partition("=")
    return key + equals + '"' + value.replace('"', '"\'"\'"') + '"'
