"""The options about lists of images: ``--list`` and those beside it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from ociexport.errors import UsageError

DEFAULT_FAILED = "failed.txt"


def add_list_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of a command that works on a list, and return their group."""
    group = parser.add_argument_group("lists of images")
    group.add_argument(
        "--list",
        metavar="FILE|URL|-",
        action="append",
        default=[],
        help="take the images that this list names, see ociexport images; one that fails does not end the list; "
        "may be repeated",
    )
    group.add_argument("--maybes", action="store_true", help="take what only reads like an image too")
    group.add_argument(
        "--failed",
        metavar="FILE",
        default=DEFAULT_FAILED,
        help=f"where the images that fail are listed, for the next --list (default: {DEFAULT_FAILED})",
    )
    add_profile_argument(group)
    return group


def add_locked_argument(group: argparse._ArgumentGroup) -> None:
    """Add the option of a command that takes a lock file for a list."""
    group.add_argument(
        "--locked",
        metavar="LOCK",
        action="append",
        default=[],
        help="pull what this file of ociexport lock says, and ask for no tag; may be repeated",
    )


def add_profile_argument(parser: argparse._ActionsContainer) -> None:
    """Add the option to a command that reads compose files."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        action="append",
        default=[],
        help="take services of a compose file with this profile too; * takes all; may be repeated",
    )


def verify_reads_input_once(words: Iterable[str], option: str = "-") -> None:
    """Return if at most one of ``words`` is standard input, which can be read once.

    Args:
        option: that all of them are given to; the default is for words of several options.

    Raises:
        UsageError: several are.
    """
    if sum(word in ("-", "oci-archive:-", "docker-archive:-") for word in words) > 1:
        raise UsageError(f"{option}: expected standard input once, got it twice", hint="name a file for one of them")
