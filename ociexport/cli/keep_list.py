"""The images that ``prune --keep`` names: a list of any format that ``--list`` takes, or names and patterns."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from ociexport.cli.listed import name_in_layout
from ociexport.cli.options.lists import verify_reads_input_once
from ociexport.errors import NotFoundError, OciexportError, UsageError, counted, escaped, printable, quoted
from ociexport.spec.digest import Digest
from ociexport.spec.reference import ImageReference, is_path
from ociexport.storage.index import ListedImage
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.lists.entries import ListEntry
from ociexport.transfer.lists.parse import decoded, is_plain_list, parse_list
from ociexport.transfer.lists.read import STANDARD_INPUT, is_list_url
from ociexport.transfer.sources.names import RegistryName, has_transport, parse_source_name
from ociexport.verification.keep import MAX_LIST_BYTES, KeepNamed, parse_keep_list

# A line that chooses among the tags of a repository.
_SELECTION = re.compile(r"\s*[^\s#][^\s]*\s[^#]*?(?<=\s)(?:tags|semver|newest)=")


def read_keep_list(options: argparse.Namespace, progress: Progress) -> KeepNamed:
    """Return the rule that the lists of ``--keep`` state.

    All that a list names is kept, also what only reads like an image: a name too many does no harm. Tags that the
    list asks for are looked up in the layout. Where it names a digest that the layout does not list, as after a pull
    of one platform, the name without the digest counts.

    Raises:
        UsageError: one is no list of images, or names none, or standard input is named twice.
        OSError, RegistryError: one can't be read.
    """
    verify_reads_input_once(options.keep, "--keep")
    names = _Names(_images_in(options.layout))
    return KeepNamed(name for keep in options.keep for name in _names_in(keep, names, options.profile, progress))


def _names_in(keep: str, names: _Names, profiles: Sequence[str], progress: Progress) -> Sequence[str]:
    place = "standard input" if keep == STANDARD_INPUT else printable(keep)
    raw = _read(keep, place, progress)
    try:
        text = decoded(raw)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        got = quoted(os.fsdecode(raw[error.start : error.end]))
        raise UsageError(f"{place}: line {line}: expected UTF-8, got {got}") from error
    if is_plain_list(text):
        return names.of_lines(text, place)
    is_file = keep != STANDARD_INPUT and not is_list_url(keep)
    directory = (os.path.dirname(keep) or ".") if is_file else None
    found = parse_list(raw, keep if is_file else place, directory=directory, profiles=profiles)
    for warning in found.warnings:
        progress.warn(escaped(warning))
    kept = [name for entry in found.entries for name in names.of_entry(entry)]
    if not kept:
        raise UsageError(f"{place}: expected the images to keep, got none; nothing was removed")
    return kept


def _read(keep: str, place: str, progress: Progress) -> bytes:
    if is_list_url(keep):
        from ociexport.registry.web_document import fetch_web_document  # noqa: PLC0415 - start-up: few lists are at a URL

        return fetch_web_document(keep, MAX_LIST_BYTES, None, progress)
    if keep == STANDARD_INPUT:
        raw = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
    else:
        with open(keep, "rb") as file:
            raw = file.read(MAX_LIST_BYTES + 1)
    if len(raw) > MAX_LIST_BYTES:
        raise UsageError(f"{place}: expected at most {counted(MAX_LIST_BYTES, 'byte')}, got more")
    return raw


def _images_in(path: str) -> Sequence[ListedImage]:
    try:
        return ImageLayout(path).read_images()
    except NotFoundError:
        return ()  # `prune` says so


class _Names:
    """Turns what a list says into names of images in one layout."""

    def __init__(self, images: Iterable[ListedImage]) -> None:
        self._digests: set[Digest] = set()
        self._tags: dict[str, list[str]] = {}
        for descriptor, name in images:
            self._digests.add(descriptor.digest)
            with suppress(OciexportError):
                reference = ImageReference.parse(name.full or "")
                if reference.tag is not None:
                    self._tags.setdefault(reference.name, []).append(reference.tag)

    def of_lines(self, text: str, place: str) -> list[str]:
        """Return the names in a plain list; it may have patterns, and choose among tags as a list of pull does.

        Raises:
            UsageError: a line has another form, or there is none.
        """
        names: list[str] = []
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if _SELECTION.match(line):
                lines[number] = ""
                found = parse_list(("\n" * number + line).encode(), place)
                names += [name for entry in found.entries for name in self.of_entry(entry)]
        rest = "\n".join(lines)
        if not names or any(line.partition("#")[0].strip() for line in lines):
            names += [each for name in parse_keep_list(rest, place).names for each in self._spelt(name)]
        return names

    def of_entry(self, entry: ListEntry) -> Iterator[str]:
        """Yield the names of an entry; one that fits no image if the layout has none, so that it is noted."""
        if entry.selection is not None:
            source = parse_source_name(entry.image)
            name = source.reference.name if isinstance(source, RegistryName) else entry.image
            chosen = entry.selection.choose(dict.fromkeys(self._tags.get(name, ())))
            yield from [f"{name}:{tag}" for tag in chosen] or [f"{name} {entry.selection}"]
            return
        if entry.locked is not None and entry.locked.listed in self._digests:
            yield f"@{entry.locked.listed}"
            return
        yield from self._spelt(name_in_layout(entry))

    def _spelt(self, name: str) -> Iterator[str]:
        """Yield a name as the layout may list it: with the digest, or else with the tag, or of any digest."""
        if is_path(name) or has_transport(name):
            source = parse_source_name(name)
            name = (str(source.reference) if isinstance(source, RegistryName) else source.image) or name
        before, at, text = name.rpartition("@")
        try:
            digest = Digest.parse(text) if at and before and "*" not in name else None
            if digest is None or digest in self._digests:
                yield name
                return
            reference = ImageReference.parse(name)
        except OciexportError:
            yield name
            return
        yield f"{reference.name}:{reference.tag}" if reference.tag is not None else f"{reference.name}@*"
