"""Commands that work on a list of images: one image that fails does not end the list.

`for_each` is the whole of it for a command that does one image at a time. A command that does several at once, such as
``pull``, makes a `ListRun`, and reports each failure to it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ociexport.cli.errors import one_line, report_error
from ociexport.cli.exit_codes import OK, worst_of
from ociexport.cli.options.registry import registry_options_from
from ociexport.errors import OciexportError, counted, escaped
from ociexport.images.choose import PlatformChoice
from ociexport.spec.reference import ImageReference
from ociexport.system.files import is_stream, new_file
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.lists.entries import Findings, ImageList, ListEntry
from ociexport.transfer.lists.expand import expand_list
from ociexport.transfer.lists.lines import to_line
from ociexport.transfer.lists.read import read_list
from ociexport.transfer.sources.list_names import list_local_images
from ociexport.transfer.sources.names import ArchiveName, LayoutName, RegistryName, parse_source_name

if TYPE_CHECKING:
    from ociexport.transfer.sources.open import SourceOpener

_HEAD = "# Images that failed, written by ociexport; this file is a list for --list.\n"


class ListRun:
    """The images of a list while a command works on them.

    Args:
        options: with ``--list`` and the options beside it.
        progress: gets what was not understood in the list.
        opener: of the command; lists layouts and archives, each once.

    Attributes:
        entries: the images; tags that the list asks for are looked up.
        code: the exit code, that of the worst failure so far; see `worst_of`.

    Raises:
        UsageError, OSError, RegistryError: the list can't be read.
    """

    def __init__(self, options: argparse.Namespace, progress: Progress, *, opener: SourceOpener | None = None) -> None:
        self._progress = progress
        self._file: str = options.failed
        self._failures: list[tuple[ListEntry, str, int]] = []
        self._count = 0
        registry = registry_options_from(options)
        found = read_list(options.list, profiles=options.profile, registry=registry, progress=progress)
        for line in found.warnings:
            progress.warn(escaped(line))
        images = Findings()  # a tag that a pattern chooses may be listed by itself too
        for entry, error in expand_list(_wanted(found, options, progress), registry, progress, opener):
            if error is None:
                images.add(entry)
            else:
                self.fail(entry, error)
        self.entries = list(images.entries)
        self._count = len(self.entries) + len(self._failures)
        if not self._count:
            progress.warn(f"{escaped(found.file)}: names no image")

    @property
    def code(self) -> int:
        """The exit code so far."""
        return worst_of(code for _, _, code in self._failures)

    def fail(self, entry: ListEntry, error: OciexportError | OSError) -> None:
        """Report an image that failed."""
        code = report_error(error)
        self._failures.append((entry, one_line(error), code))

    def note(self, entry: ListEntry, code: int) -> None:
        """Take the exit code of an image whose failure was reported; `OK` is none."""
        if code != OK:
            self._failures.append((entry, f"exit code {code}", code))

    def end(self) -> int:
        """Write the list of images that failed, say how many there are, and return the exit code.

        Without any, a list that an earlier run left is removed.
        """
        if not self._failures:
            _remove_own(self._file)
            return OK
        lines = [_HEAD]
        for entry, message, code in self._failures:
            lines.append(escaped(f"# {'; '.join(entry.why)}: exit code {code}: {message}") + "\n")
            lines.append(to_line(unlocked(entry)) + "\n")
        with new_file(self._file) as file:
            file.write("".join(lines).encode("utf-8", "surrogateescape"))
        self._progress.say(
            f"{len(self._failures)} of {counted(self._count, 'image')} failed; {escaped(self._file)} lists them"
        )
        return self.code


def for_each(options: argparse.Namespace, progress: Progress, do: Callable[[ListEntry], int]) -> int:
    """Call ``do`` with each image of the list, and return the exit code of the worst.

    Args:
        do: works on one image and returns an exit code, or raises.

    Raises:
        as `ListRun` does.
    """
    run = ListRun(options, progress)
    for entry in run.entries:
        try:
            run.note(entry, do(entry))
        except (OciexportError, OSError) as error:
            run.fail(entry, error)
    return run.end()


def unlocked(entry: ListEntry) -> ListEntry:
    """Return an entry of a plain list for the same image; one of a lock file names its digest then.

    So does an image of a layout or an archive with a name that no line can have, which no user typed.
    """
    image = pinned_source(entry)
    name = parse_source_name(image)
    if isinstance(name, LayoutName | ArchiveName) and name.image is not None and not name.image.isprintable():
        with suppress(OciexportError, OSError):
            for listed, called in list_local_images(name):
                if name.image in (called.full, called.tag):
                    image = f"{image.removesuffix(name.image)}@{listed.digest}"
                    break
    return ListEntry(image, entry.why, entry.is_sure, entry.platforms, entry.selection)


def pinned_source(entry: ListEntry) -> str:
    """Return the source to open; of an image in a registry, with the digest that a lock file recorded."""
    if entry.locked is not None:
        name = parse_source_name(entry.image)
        if isinstance(name, RegistryName):
            return str(name.reference.with_digest(entry.locked.digest))
    return entry.image


def own_platforms(entry: ListEntry, options: argparse.Namespace) -> PlatformChoice | None:
    """Return the platforms that the list asks for; None if those of the command line, or the default, apply.

    A line's own platform takes precedence over the command line's, which is for all lines. A lock file has every
    platform that was locked, and the command line chooses among them.
    """
    is_given = bool(options.platform or getattr(options, "all", False))
    return None if is_given and entry.locked is not None else entry.platforms


def name_in_layout(entry: ListEntry) -> str:
    """Return the name under which a layout lists the image."""
    if entry.locked is not None:
        return entry.locked.name
    name = parse_source_name(entry.image)
    return str(name.reference) if isinstance(name, RegistryName) else name.image or entry.image


def directory_names(entries: Sequence[ListEntry]) -> list[str]:
    """Return a name of a directory for each entry: its reference with ``+`` for the characters between its parts."""
    names = []
    for entry in entries:
        name = name_in_layout(entry)
        with suppress(OciexportError):
            name = str(ImageReference.parse(name))
        names.append(escaped(name).replace("/", "+").replace(":", "+").replace("@", "+").lstrip(".") or "+")
    return names


def _wanted(found: ImageList, options: argparse.Namespace, progress: Progress) -> Sequence[ListEntry]:
    if options.maybes:
        return found.entries
    if found.maybes:
        progress.warn(
            f"{escaped(found.file)}: {counted(len(found.maybes), 'maybe')} left out; "
            "ociexport images --why shows them, --maybes takes them"
        )
    return found.sure


def _remove_own(path: str) -> None:
    """Remove a list of failed images that an earlier run wrote; any other file stays."""
    if is_stream(path):
        return
    with suppress(OSError):
        with open(path, "rb") as file:
            is_own = file.readline() == _HEAD.encode()
        if is_own:
            os.unlink(path)
