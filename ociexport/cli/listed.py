"""Commands that work on a list of images: one image that fails does not end the list.

`for_each` is the whole of it for a command that does one image at a time. A command that does several at once, such as
``pull``, makes a `ListRun`, and reports each failure to it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Self

from ociexport.cli.errors import one_line, report_error
from ociexport.cli.exit_codes import OK, worst_of
from ociexport.cli.options.lists import verify_reads_input_once
from ociexport.cli.options.registry import registry_options_from
from ociexport.cli.process import OUTPUT_NAME
from ociexport.errors import OciexportError, UsageError, counted, escaped
from ociexport.images.choose import PlatformChoice
from ociexport.spec.reference import ImageReference
from ociexport.system.files import is_stream, new_file
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.lists.entries import Findings, ImageList, ListEntry, each_image_once
from ociexport.transfer.lists.expand import expand_list
from ociexport.transfer.lists.lines import to_line
from ociexport.transfer.lists.read import read_list
from ociexport.transfer.sources.list_names import list_layout_images
from ociexport.transfer.sources.names import ArchiveName, LayoutName, RegistryName, parse_source_name
from ociexport.transfer.sources.open import SourceOpener

if TYPE_CHECKING:
    from ociexport.registry.options import RegistryOptions

_HEAD = "# Images that failed, written by ociexport; this file is a list for --list.\n"


class ListRun:
    """The images of a list while a command works on them; a context, which writes ``failed.txt`` if it is interrupted.

    Args:
        options: with ``--list`` and the options beside it; a ``dry_run`` leaves ``failed.txt`` as it is.
        progress: gets what was not understood in the list.
        registry: how the list's URL and its registries are reached; None for what ``options`` say.
        opener: of the command; lists layouts and archives, each once.
        is_in_place: whether the images are taken from one layout or archive, by their names.
        platforms: what an image is taken for that the list names without a platform; None if each command decides.

    Attributes:
        entries: the images; tags that the list asks for are looked up.
        unreadable: the entries whose tags or images could not be listed, each with its error, which was reported.
        code: the exit code, that of the worst failure so far; see `worst_of`.

    Raises:
        UsageError, OSError, RegistryError: the list can't be read.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        progress: Progress,
        *,
        registry: RegistryOptions | None = None,
        opener: SourceOpener | None = None,
        is_in_place: bool = False,
        platforms: PlatformChoice | None = None,
    ) -> None:
        self._progress = progress
        self._is_in_place = is_in_place
        self._file: str | None = None if getattr(options, "dry_run", False) else options.failed
        self._failures: list[tuple[ListEntry, str, int]] = []
        self.unreadable: list[tuple[ListEntry, OciexportError | OSError]] = []
        self._not_done: dict[int, ListEntry] = {}
        self._is_ended = False
        registry = registry or registry_options_from(options)
        verify_reads_input_once(options.list, "--list")
        wanted: list[ListEntry] = []
        for name in options.list:
            found = read_list(name, profiles=options.profile, registry=registry, progress=progress)
            for line in found.warnings:
                progress.warn(escaped(line))
            here = _wanted(found, options, progress)
            if not here:
                progress.warn(f"{escaped(found.file)}: names no image")
            wanted += here
        images = Findings()  # a tag that a pattern chooses may be listed by itself too, or in another list
        for entry, error in expand_list(wanted, registry, progress, opener):
            if error is None:
                images.add(entry)
            else:
                self.unreadable.append((entry, error))
                self.fail(entry, error)
        self.entries = each_image_once(images.entries, platforms)
        self._not_done = {id(entry): entry for entry in self.entries}
        self._count = len(self.entries) + len(self._failures)

    @property
    def code(self) -> int:
        """The exit code so far."""
        return worst_of(code for _, _, code in self._failures)

    def fail(self, entry: ListEntry, error: OciexportError | OSError) -> None:
        """Report an image that failed, by its name if the error has another."""
        message = one_line(error)
        is_named = escaped(entry.image) in message
        code = report_error(error, message=message if is_named else f"image {escaped(entry.image)}: {message}")
        self._failures.append((entry, message, code))
        self.done(entry)

    def note(self, entry: ListEntry, code: int) -> None:
        """Take the exit code of an image whose failure was reported; `OK` is none."""
        if code != OK:
            self._failures.append((entry, f"exit code {code}", code))
        self.done(entry)

    def done(self, *entries: ListEntry) -> None:
        """Take images that need no further work."""
        for entry in entries:
            self._not_done.pop(id(entry), None)

    def end(self) -> int:
        """Write the list of images that failed, say how many there are, and return the exit code of the worst.

        Without any, a list that an earlier run left is removed.
        """
        if not self._failures:
            self._is_ended = True
            if self._file is not None:
                _remove_own(self._file)
            return OK
        self._is_ended = True
        code = self.code
        where = f"; {escaped(self._file)} lists them" if self._file is not None else ""
        try:
            self._write()
        except OSError as error:  # the images' own failures are still what the user must know
            code, where = worst_of((code, report_error(error))), "; they are listed nowhere"
        self._progress.say(f"{len(self._failures)} of {counted(self._count, 'image')} failed{where}")
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the list of images that failed or were not done, unless the run came to its end or was a mistake."""
        if kind is None or self._is_ended or self._file is None or issubclass(kind, UsageError):
            return
        try:
            self._write()
        except (OSError, OciexportError) as error:
            self._progress.warn(f"the images that were not done are listed nowhere: {escaped(one_line(error))}")
            return
        failed, left = len(self._failures), counted(len(self._not_done), "image")
        self._progress.say(f"{left} not done, {failed} failed; {escaped(self._file)} lists them")

    def _write(self) -> None:
        """Write the list of images that failed, and of those that are not done."""
        if self._file is None:
            return
        lines = [_HEAD]
        for entry, message, code in self._failures:
            lines += self._commented(entry, f"exit code {code}: {message}")
        for entry in self._not_done.values():
            lines += self._commented(entry, "not done")
        with new_file(self._file) as file:
            file.write("".join(lines).encode("utf-8", "surrogateescape"))

    def _commented(self, entry: ListEntry, message: str) -> tuple[str, str]:
        """Return a comment that says what happened to an image, and the line that names the image."""
        line = to_line(unlocked(entry, is_in_place=self._is_in_place))
        return escaped(f"# {'; '.join(entry.why)}: {message}") + "\n", line + "\n"


def for_each(
    options: argparse.Namespace, progress: Progress, do: Callable[[ListEntry], int], *, is_in_place: bool = False
) -> int:
    """Call ``do`` with each image of the list, and return the exit code of the worst.

    Args:
        do: works on one image and returns an exit code, or raises.
        is_in_place: as `ListRun` has it.

    Raises:
        as `ListRun` does.
    """
    with ListRun(options, progress, is_in_place=is_in_place) as run:
        for entry in run.entries:
            try:
                run.note(entry, do(entry))
            except (OciexportError, OSError) as error:
                if isinstance(error, OSError) and error.filename == OUTPUT_NAME:
                    raise  # not this image's failure: nothing can be printed
                run.fail(entry, error)
        return run.end()


def verify_no_options_of_one_image(options: argparse.Namespace) -> None:
    """Return if none of the options is given that concern the tree of one image.

    Raises:
        UsageError: one is given.
    """
    for flag in ("--to-tar", "--receipt", "--run-files", "--owners", "--userns"):
        if getattr(options, flag.removeprefix("--").replace("-", "_")):
            raise UsageError(f"{flag}: expected one image beside it, got a list")


def unlocked(entry: ListEntry, *, is_in_place: bool = False) -> ListEntry:
    """Return an entry of a plain list for the same image; one of a lock file names its digest then.

    So does an image of a layout or an archive with a name that no line can have, which no user typed.

    Args:
        is_in_place: whether it is the digest that a layout lists, which may lack the published index.
    """
    image = pinned_source(entry, is_in_place=is_in_place)
    name = parse_source_name(image)
    if isinstance(name, LayoutName | ArchiveName) and name.image is not None and not name.image.isprintable():
        with suppress(OciexportError, OSError), closing(SourceOpener()) as opener:
            for listed, called in list_layout_images(name, opener):
                if name.image in (called.full, called.tag):
                    image = f"{image.removesuffix(name.image)}@{listed.digest}"
                    break
    return ListEntry(image, entry.why, entry.is_sure, entry.platforms, entry.selection)


def pinned_source(entry: ListEntry, *, is_in_place: bool = False) -> str:
    """Return the source to open; of an image in a registry, with the digest that a lock file recorded.

    Args:
        is_in_place: as `unlocked` has it.
    """
    if entry.locked is not None:
        name = parse_source_name(entry.image)
        if isinstance(name, RegistryName):
            digest = entry.locked.listed if is_in_place else entry.locked.digest
            return str(name.reference.with_digest(digest))
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
