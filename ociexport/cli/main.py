"""The command `ociexport`: finds the module of the command, runs it, turns errors into one line and an exit code.

A command's module is imported only when that command runs: ``ociexport --version`` loads neither requests nor isal.
Each has ``SUMMARY``, ``add_arguments(parser)`` and ``run(options) -> int``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import ociexport

# name: one line of help. The module is ociexport.cli.<name>.
COMMANDS = {
    "pull": "fetch images from a registry into an OCI layout",
    "unpack": "apply an image's layers to a new root filesystem",
    "serve": "serve an OCI layout as a read-only registry",
    "login": "try credentials at a registry, and keep them",
    "logout": "forget the credentials for a registry",
    "auth": "explain which credentials an image would be pulled with",
}


class _Parser(argparse.ArgumentParser):
    """Tells what it can't parse as all errors are told: in one line, and a hint."""

    def error(self, message: str) -> NoReturn:
        from ociexport.errors import UsageError  # noqa: PLC0415 - only an error needs it

        raise UsageError(message, hint=f"see {self.prog} --help")


class _Terminated(BaseException):
    """SIGTERM arrived; not an Exception, so that only clean-up code sees it on its way out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name; None for the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        options = _parse_command_line(words)
        code = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as error:
        return int(error.code or 0)
    except _Terminated:
        return _report_end("terminated", 143)
    except KeyboardInterrupt:
        return _report_end("interrupted", 130)
    except (ociexport.OciexportError, OSError) as error:
        from ociexport.cli.reporting import report_error  # noqa: PLC0415 - only an error needs it

        return report_error(error)
    return code


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _parse_command_line(words: list[str]) -> argparse.Namespace:
    """Return the options, with the command's ``run``; only the named command's module is loaded."""
    parser = _Parser(
        prog="ociexport", description="Container images on disk, verified, with no daemon.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"ociexport {ociexport.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        if name == wanted:
            module = importlib.import_module(f"ociexport.cli.{name}")
            command.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser.parse_args(words)


def _report_end(how: str, code: int) -> int:
    print(f"ociexport: error: {how}", file=sys.stderr)
    return code
