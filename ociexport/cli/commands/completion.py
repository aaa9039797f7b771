"""`ociexport completion`: print a completion script for a shell, made from the options of all commands."""

from __future__ import annotations

import argparse
import sys

from ociexport.cli.commandline import COMMANDS, new_parser
from ociexport.cli.exit_codes import OK
from ociexport.cli.topics import TOPICS
from ociexport.errors import OciexportError

_SHELLS = ("bash", "zsh", "fish")
# Metavars of arguments that are files or directories.
_FILES = frozenset({"FILE", "FILE|-", "FD|FILE", "PATH", "IMAGE", "SRC", "REPOSITORY", "BUNDLE", "HAVE"})
_DIRECTORIES = frozenset({"DIR", "FAR", "LAYOUT", "ROOTFS"})
# Frequent values of other arguments.
_WORDS: dict[str | tuple[str, ...] | None, tuple[str, ...]] = {
    "OS/ARCH[/VARIANT]": ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/riscv64", "linux/s390x"),
    "TOPIC": tuple(TOPICS),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("shell", choices=_SHELLS, help="shell to print the script for")


def run(options: argparse.Namespace) -> int:
    """Print the script.

    Raises:
        OciexportError: shtab, which makes the script, is not installed.
    """
    try:
        import shtab  # noqa: PLC0415 - start-up: nothing else needs it
    except ImportError as error:
        raise OciexportError(
            "completion: expected the library shtab, it is not installed", hint="pip install 'ociexport[completion]'"
        ) from error
    parser, _ = new_parser(COMMANDS)
    _complete_places(parser)
    sys.stdout.write(shtab.complete(parser, options.shell) + "\n")
    return OK


def _complete_places(parser: argparse.ArgumentParser) -> None:
    """Set what each argument completes to: files, directories or frequent values. Names in registries are unknown."""
    import shtab  # noqa: PLC0415 - start-up: see `run`

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_places(below)
        elif action.metavar in _WORDS:
            action.choices = _WORDS[action.metavar]
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined] # where shtab looks for it
        elif action.metavar in _DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
