"""`ociexport completion`: a script for a shell, made from the commands' own options."""

from __future__ import annotations

import argparse
import sys

from ociexport.cli.exit_codes import OK
from ociexport.errors import OciexportError

_SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    parser.add_argument("shell", choices=_SHELLS, help="whose script is wanted")


def run(options: argparse.Namespace) -> int:
    """Print the script.

    Raises:
        OciexportError: the library that makes it is not installed.
    """
    try:
        import shtab  # noqa: PLC0415 - nothing else needs it
    except ImportError as error:
        raise OciexportError(
            "completion: expected the library shtab, it is not installed", hint="pip install 'ociexport[completion]'"
        ) from error
    # It has the commands, and so is below this module.
    from ociexport.cli.commandline import COMMANDS, new_parser  # noqa: PLC0415

    parser, _ = new_parser(COMMANDS)
    sys.stdout.write(shtab.complete(parser, options.shell) + "\n")
    return OK
