"""How progress is shown: bars on a terminal, plain lines elsewhere, warnings only with ``--quiet``; and as events."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from typing import TYPE_CHECKING

from ociexport.errors import UsageError, quoted
from ociexport.spec.numerals import number_up_to
from ociexport.system.files import begin_file
from ociexport.system.host_paths import real_path, verify_outside
from ociexport.system.progress.display import BarProgress, PlainProgress
from ociexport.system.progress.protocol import Progress

if TYPE_CHECKING:
    from ociexport.system.progress.events import EventLines


def add_progress_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options."""
    parser.add_argument("--no-progress", action="store_true", help="plain lines, also on a terminal, for what is done")
    parser.add_argument(
        "--events",
        metavar="FD|FILE",
        help="write what happens as lines of JSON to an open file descriptor or a file",
    )


def open_events(options: argparse.Namespace) -> None:
    """Make of ``options.events``, where it is given, the lines that are written there; before all else is done.

    Raises:
        UsageError: it is in the tree that the command is about, or a stream of another user.
        OSError: the file can't be written.
    """
    if getattr(options, "events", None) is None:
        return
    rootfs = getattr(options, "rootfs", None)
    if rootfs is not None and not _is_descriptor(options.events):
        verify_outside(options.events, real_path(rootfs), "--events")
    options.events = _events_to(options.events)


def _is_descriptor(text: str) -> bool:
    return number_up_to(text, 0) is not None


def progress_from(options: argparse.Namespace) -> Progress:
    """Return what the command tells its progress to."""
    shown = _shown_progress(options)
    # A command without these options has nothing that takes long.
    events = getattr(options, "events", None)
    if events is None:
        return shown
    from ociexport.system.progress.events import EventProgress  # noqa: PLC0415 - start-up: few ask for events

    return EventProgress(events, shown)


def _shown_progress(options: argparse.Namespace) -> Progress:
    # Who asks for more gets it, also where the configuration has asked for less.
    if options.quiet and not getattr(options, "verbose", False):
        return PlainProgress(quiet=True)
    if getattr(options, "no_progress", False):
        return PlainProgress(heartbeat_seconds=None)
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return PlainProgress()
    return BarProgress()


def _events_to(text: str) -> EventLines:
    from ociexport.system.progress.events import EventLines  # noqa: PLC0415 - start-up: as above

    # No process has so many.
    if (number := number_up_to(text, 10**9)) is not None:
        try:
            # It is the caller's, who may go on writing to it.
            descriptor = open(number, "wb", buffering=0, closefd=False)  # noqa: SIM115
        except OSError as error:
            raise UsageError(
                f"--events {quoted(text)}: expected a file descriptor that is open for writing, got {error.strerror}",
                hint="for example --events 3 3>events.json",
            ) from error
        return EventLines(descriptor)
    file = begin_file(text)  # open as long as the process
    atexit.register(file.close)  # where the interpreter comes to an end by itself, with warnings of what is open
    return EventLines(file)
