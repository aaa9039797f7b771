"""The command `ociexport`: finds the module of the command, runs it, turns errors into one line and an exit code.

What a command does not need is not imported: ``ociexport --version`` loads neither requests nor isal, nor argparse.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TYPE_CHECKING

import ociexport

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from types import FrameType
    from typing import NoReturn


class _Terminated(BaseException):
    """SIGTERM arrived; not an Exception, so that only clean-up code sees it on its way out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name; None for the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _raise_terminated)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files go out as the bytes that they are.
        sys.stdout.reconfigure(errors="surrogateescape")
    if words == ["--version"]:
        print(f"ociexport {ociexport.__version__}")
        return 0
    options: Namespace | None = None
    error: BaseException | None = None
    try:
        from ociexport.cli.commandline import parse_command_line  # noqa: PLC0415 - a third of the start-up

        options = parse_command_line(words)
        code = int(options.run(options))
        sys.stdout.flush()
    except SystemExit as ended:
        return int(ended.code or 0)
    except (ociexport.OciexportError, OSError, KeyboardInterrupt, _Terminated) as raised:
        error = raised
        code = _report(error)
    events = getattr(options, "events", None)
    if events is not None:
        from ociexport.cli.reporting import one_line  # noqa: PLC0415 - few ask for events

        events.write("ended", {"exitCode": code, **({"message": one_line(error)} if error is not None else {})})
    return code


def _report(error: BaseException) -> int:
    """Tell why the command ended; returns its exit code."""
    if isinstance(error, BrokenPipeError):
        # The reader of our output has gone, as `head` does; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, _Terminated):
        return _report_end("terminated", 143)
    if isinstance(error, KeyboardInterrupt):
        return _report_end("interrupted", 130)
    from ociexport.cli.reporting import report_error  # noqa: PLC0415 - only an error needs it

    return report_error(error)


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated("terminated")


def _report_end(how: str, code: int) -> int:
    print(f"ociexport: error: {how}", file=sys.stderr)
    return code
