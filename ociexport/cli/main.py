"""The command `ociexport`: loads the module of a command, runs it, and turns errors into one line and an exit code.

A command imports only what it needs: ``ociexport --version`` loads neither requests nor isal nor argparse.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress

import ociexport.errors
from ociexport.cli.exit_codes import HUNG_UP, INTERRUPTED, READER_GONE, TERMINATED
from ociexport.cli.interruption import Terminated, raise_at_signals, stop_looking, tells_warnings
from ociexport.cli.process import OUTPUT_NAME, give_up_output, prepare_streams
from ociexport.errors import OciexportError
from ociexport.system.ownership import own_process
from ociexport.system.version import __version__

# Type checkers take it for true. The one of `typing` would cost `ociexport --version` a tenth of its time.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import NoReturn

    from ociexport.system.progress.events import EventLines

# Python looks for garbage cycles after every 700 new objects; start-up makes a hundred thousand objects that stay.
# Looking less often makes start-up a tenth faster. The garbage that waits is small: cycles hold no bytes objects.
_OBJECTS_BETWEEN_COLLECTIONS = 100_000


def run() -> NoReturn:
    """Run the command line of this process, and end the process.

    It skips the interpreter's own clean-up, which frees every object and takes a twentieth of a second after a pull or
    an unpack. That is safe: when `main` returns, all files are closed, and the system frees the memory. With Python's
    warnings or development mode on, the interpreter ends normally and reports what it finds, unless a signal ended the
    command: threads may still be at work, and an interrupted one may have opened what nobody was there to close.
    """
    own_process()
    code = main()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # too late: the work is done and reported
        signal.signal(number, signal.SIG_IGN)
    if tells_warnings() and code not in (INTERRUPTED, TERMINATED, HUNG_UP):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # `main` has reported what could not be written
            stream.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name; None for the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    options: Namespace | None = None
    error: BaseException | None = None
    try:
        raise_at_signals()
        # We must be able to open the files that we make, so the umask may only restrict others.
        os.umask(os.umask(0o077) & 0o077)
        prepare_streams()
        options = _parse(words)
        if getattr(options, "events", None) is not None:
            _open_events(options)
        for image in _images_of(options):
            _warn_of_path(image)
        code = int(options.run(options)) if options is not None else 0
        sys.stdout.flush()
    except (OciexportError, OSError, MemoryError, UnicodeError, KeyboardInterrupt, Terminated) as raised:
        error = raised
        try:
            code = _report(error, options)
        except (KeyboardInterrupt, Terminated) as late:  # while the module that reports errors was loaded
            code = _report(late)
    stop_looking()
    events = getattr(options, "events", None)
    # A str if the file could not be opened.
    return code if events is None or isinstance(events, str) else _end_events(events, code, error)


def _open_events(options: Namespace | None) -> None:
    from ociexport.cli.options.progress import open_events  # noqa: PLC0415 - start-up: few ask for events

    if options is not None:
        open_events(options)


def _end_events(events: EventLines, code: int, error: BaseException | None) -> int:
    """Write the last event and return the exit code, which is not 0 if the event could not be written."""
    from ociexport.cli.errors import one_line  # noqa: PLC0415 - start-up: few ask for events

    try:
        events.write("ended", {"exitCode": code, **({"message": one_line(error)} if error is not None else {})})
    except OSError as raised:
        return code or _report(raised)
    return code


def _parse(words: list[str]) -> Namespace | None:
    """Return the options of a command; None if ``words`` only asked for a text, which was printed."""
    if words == ["--version"]:
        print(f"ociexport {__version__}")
        return None
    from ociexport.cli.lean_imports import make_imports_lean  # noqa: PLC0415 - start-up: as below

    make_imports_lean()
    from ociexport.cli.commandline import parse_command_line  # noqa: PLC0415 - start-up: --version does without a third

    try:
        return parse_command_line(words)
    except SystemExit:
        return None


def _report(error: BaseException, options: Namespace | None = None) -> int:
    """Print why the command ended and return its exit code."""
    if isinstance(error, OSError) and error.filename in (OUTPUT_NAME, "/dev/stdout"):
        give_up_output()
        if isinstance(error, BrokenPipeError):
            # The reader, such as `head`, has closed the pipe.
            return READER_GONE
    if isinstance(error, Terminated):
        return _report_end(*(("hung up", HUNG_UP) if error.number == signal.SIGHUP else ("terminated", TERMINATED)))
    if isinstance(error, KeyboardInterrupt):
        return _report_end("interrupted", INTERRUPTED)
    from ociexport.cli.errors import path_hint_of, proof_of, report_error  # noqa: PLC0415 - start-up: only an error needs it

    images = _images_of(options)
    if len(images) != 1:
        return report_error(error)
    command, out = getattr(options, "command", ""), getattr(options, "out", None)
    proof = proof_of(command, images[0], error, out if isinstance(out, str) else None)
    return report_error(error, proof, path_hint_of(error, images[0]))


def _images_of(options: Namespace | None) -> list[str]:
    """Return the images that the command line names."""
    images = getattr(options, "images", None) or [getattr(options, "source", None)]
    return [image for image in images if isinstance(image, str)]


def _warn_of_path(image: str) -> None:
    """Warn if an image is taken from a registry although the working directory has images of the same name."""
    from ociexport.transfer.sources.names import path_meant_by  # noqa: PLC0415 - start-up: not every command has an image

    path = path_meant_by(image)
    if path is not None:
        shown, path = ociexport.errors.printable(image), ociexport.errors.printable(path)
        print(f"ociexport: warning: {shown} is an image in a registry; the one here is {path}", file=sys.stderr)


def _report_end(how: str, code: int) -> int:
    # A second Ctrl-C ends the process at once, while the interpreter is still cleaning up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(f"ociexport: error: {how}", file=sys.stderr)
    return code
