"""The command line's words as options; only the named command's module is loaded.

A command's module has ``add_arguments(parser)`` and ``run(options) -> int``.
"""

from __future__ import annotations

import argparse
import importlib
from typing import NoReturn

import ociexport
from ociexport.errors import UsageError

# name: one line of help. The module is ociexport.cli.<name>, with underscores for dashes.
COMMANDS = {
    "pull": "fetch images into an OCI layout, or an archive for docker load",
    "unpack": "apply an image's layers to a new root filesystem",
    "inspect": "say what an image is: config, layers, platforms, annotations",
    "tags": "list the tags of a repository",
    "serve": "serve an OCI layout as a read-only registry",
    "rm": "remove a root filesystem, unwritable directories included",
    "diff": "say what changed in a root filesystem since it was unpacked",
    "treehash": "print one digest of a whole tree",
    "login": "try credentials at a registry, and keep them",
    "logout": "forget the credentials for a registry",
    "auth": "explain which credentials an image would be pulled with",
}


class _Parser(argparse.ArgumentParser):
    """Tells what it can't parse as all errors are told: in one line, and a hint."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


def parse_command_line(words: list[str]) -> argparse.Namespace:
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
            module = importlib.import_module(f"ociexport.cli.{name.replace('-', '_')}")
            command.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser.parse_args(words)
