"""The options about lists of images."""

from __future__ import annotations

import argparse


def add_profile_argument(parser: argparse._ActionsContainer) -> None:
    """Add the option to a command that reads compose files."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        action="append",
        default=[],
        help="take services of a compose file with this profile too; * takes all; may be repeated",
    )
