"""Which images of a layout are kept: those in a list of names, or the newest of each repository."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from ociexport.errors import InvalidReferenceError, UsageError, counted, quoted
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.reference import ImageReference, as_path
from ociexport.storage.index import REF_NAME_ANNOTATION
from ociexport.verification.listed import ListedEntry
from ociexport.verification.parts import created_of, newest

# A list of a hundred thousand names; more is probably another file.
MAX_LIST_BYTES = 16 * 1024 * 1024
_HUB_PREFIXES = ("docker.io/library/", "docker.io/")
_REGISTRY_PREFIX = "docker://"
_PLATFORM_PREFIX = "platform="


@dataclass(frozen=True, slots=True)
class Kept:
    """A choice among the entries of a layout.

    Args:
        kept: the chosen entries, without those that are only about others.
        dropped: the entries not wanted any more; None for all others.
        notes: what the user should know about the choice.
    """

    kept: tuple[ListedEntry, ...]
    dropped: tuple[ListedEntry, ...] | None
    notes: tuple[str, ...]


class Keep(Protocol):
    """A rule that says which images are kept."""

    def choose(self, entries: Sequence[ListedEntry]) -> Kept:
        """Return the choice among the entries of a layout."""


class KeepNamed:
    """Keeps the images in a list; see `parse_keep_list` for its form.

    Args:
        names: names and patterns.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))

    def choose(self, entries: Sequence[ListedEntry]) -> Kept:
        """Return the entries that a name or a pattern fits; a name that fits none is noted."""
        literal = {name: _spellings_of(name) for name in self.names if "*" not in name}
        patterns = {name: _pattern_of(name) for name in self.names if "*" in name}
        used: set[str] = set()
        by_spelling: dict[str, list[str]] = {}
        for name, spellings in literal.items():
            for spelling in spellings:
                by_spelling.setdefault(spelling, []).append(name)
        kept = []
        for entry in entries:
            forms = _forms_of(entry)
            fitting = [name for form in forms for name in by_spelling.get(form, ())]
            fitting += [name for name, pattern in patterns.items() if any(map(pattern.fullmatch, forms))]
            used.update(fitting)
            if fitting:
                kept.append(entry)
        notes = tuple(f"{quoted(name)}: no image has this name" for name in self.names if name not in used)
        return Kept(tuple(kept), None, notes)


class KeepNewest:
    """Keeps the newest images of each repository, by the time when they were created.

    Several names of the same image count once, and so do the platforms that a layout lists one by one under one name.
    Images whose names have no repository are taken for one repository.

    Args:
        count: of images of each repository.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def choose(self, entries: Sequence[ListedEntry]) -> Kept:
        """Return all entries but those of older images. An image that does not tell its time is kept, and noted."""
        repositories: dict[str, dict[str, list[ListedEntry]]] = {}
        for entry in entries:
            if not entry.is_companion:
                names = repositories.setdefault(_repository_of(entry), {})
                names.setdefault(entry.shown_name, []).append(entry)
        dropped: list[ListedEntry] = []
        notes: list[str] = []
        for names in repositories.values():
            if len(names) <= self._count:
                continue
            dated: list[tuple[datetime, int, list[ListedEntry]]] = []
            for position, (name, listed) in enumerate(names.items()):
                time = newest(created_of(entry) for entry in listed)
                if time is None:
                    notes.append(f"{quoted(name)}: kept, since it does not tell when it was created")
                else:
                    dated.append((time, position, listed))
            # Of two images of the same time, the one that was listed later is the newer one.
            dated.sort(key=lambda one: one[:2], reverse=True)
            dropped += self._older(listed for _, _, listed in dated)
        gone = set(map(id, dropped))
        kept = tuple(entry for entry in entries if id(entry) not in gone and not entry.is_companion)
        return Kept(kept, tuple(dropped), tuple(notes))

    def _older(self, newest_first: Iterable[list[ListedEntry]]) -> list[ListedEntry]:
        kept: set[frozenset[object]] = set()
        older = []
        for listed in newest_first:
            image = frozenset(entry.descriptor.digest for entry in listed)
            if image in kept or len(kept) < self._count:
                kept.add(image)
            else:
                older += listed
        return older


def parse_keep_list(text: str, place: str) -> KeepNamed:
    """Return the rule that a list states: one image on a line; ``#`` begins a comment.

    A name is a reference as ``pull`` takes it, a tag, or ``@`` and a digest; ``*`` in it stands for any characters.
    The list may be one of ``pull``: ``platform=…`` after a name is accepted, and the whole image is kept.

    Args:
        place: the name of the list in messages.

    Raises:
        UsageError: a line has another form, or there is none.
    """
    names = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        words = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].split()
        for word in words[1:]:
            if not word.startswith(_PLATFORM_PREFIX):
                raise UsageError(f"{place}: line {number}: expected one image, got {quoted(word)} after it")
        if words:
            names.append(words[0].removeprefix(_REGISTRY_PREFIX))
    if not names:
        raise UsageError(f"{place}: expected the images to keep, one on a line, got none; nothing was removed")
    return KeepNamed(names)


def verify_keeps_any(kept: Kept, entries: Sequence[ListedEntry], path: str) -> None:
    """Return if the choice keeps an image, or there is none.

    Raises:
        UsageError: every image would be removed; the list is probably for another layout.
    """
    if entries and not kept.kept:
        raise UsageError(
            f"{path}: expected at least one image to keep, got none of {counted(len(entries), 'image')}; "
            "nothing was removed",
            hint=f"ociexport tags {as_path(path)} lists the names",
        )


def _spellings_of(name: str) -> tuple[str, ...]:
    """Return the forms of names that a listed image may have to be the one called ``name``."""
    if "@" in name:
        return (f"@{name.rpartition('@')[2]}",)  # as for a source, only the digest counts
    with suppress(InvalidReferenceError):
        return (name, str(ImageReference.parse(name)))
    return (name,)


def _pattern_of(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, re.split(r"\*+", name))), re.DOTALL)


def _forms_of(entry: ListedEntry) -> tuple[str, ...]:
    """Return the ways to write an image's name."""
    full = entry.name.full
    written = (full, entry.name.tag, entry.descriptor.annotations.get(REF_NAME_ANNOTATION))
    short = [full.removeprefix(prefix) for prefix in _HUB_PREFIXES] if full is not None else []
    return tuple(dict.fromkeys(form for form in (*written, *short, f"@{entry.descriptor.digest}") if form))


def _repository_of(entry: ListedEntry) -> str:
    full = entry.name.full
    if full is None:
        return ""
    with suppress(InvalidReferenceError):
        return ImageReference.parse(full).name
    return full.rpartition(":")[0]
