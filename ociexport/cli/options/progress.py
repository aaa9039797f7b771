"""The options about progress: bars on a terminal, plain lines elsewhere, only warnings with ``--quiet``; and events."""

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
    """Add the options to ``parser``."""
    parser.add_argument("--no-progress", action="store_true", help="log plain lines instead of bars on a terminal")
    parser.add_argument(
        "--events",
        metavar="FD|FILE",
        help="log events as lines of JSON to an open file descriptor or a file",
    )


def open_events(options: argparse.Namespace) -> None:
    """Replace the name in ``options.events``, if given, by an open event log; call it before any other work.

    Raises:
        UsageError: the file is in the tree that the command works on, or is a stream of another user.
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
    """Return the receiver of the command's progress."""
    shown = _shown_progress(options)
    # A command without this option does nothing that takes long.
    events = getattr(options, "events", None)
    if events is None:
        return shown
    from ociexport.system.progress.events import EventProgress  # noqa: PLC0415 - start-up: few ask for events

    return EventProgress(events, shown)


def _shown_progress(options: argparse.Namespace) -> Progress:
    # --verbose takes precedence, because --quiet may come from the configuration.
    if options.quiet and not getattr(options, "verbose", False):
        return PlainProgress(quiet=True)
    if getattr(options, "no_progress", False):
        return PlainProgress(heartbeat_seconds=None)
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return PlainProgress()
    return BarProgress()


def _events_to(text: str) -> EventLines:
    from ociexport.system.progress.events import EventLines  # noqa: PLC0415 - start-up: as above

    # The limit is beyond any possible descriptor.
    if (number := number_up_to(text, 10**9)) is not None:
        try:
            # The descriptor belongs to the caller, who may go on writing to it: it is not closed.
            descriptor = open(number, "wb", buffering=0, closefd=False)  # noqa: SIM115
        except OSError as error:
            raise UsageError(
                f"--events {quoted(text)}: expected a file descriptor that is open for writing, got {error.strerror}",
                hint="for example --events 3 3>events.json",
            ) from error
        return EventLines(descriptor)
    file = begin_file(text)  # stays open as long as the process
    atexit.register(file.close)  # an interpreter that ends normally would warn of the open file
    return EventLines(file)
