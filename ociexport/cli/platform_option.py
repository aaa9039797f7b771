"""The option ``--platform``, the same for every command that has it."""

from __future__ import annotations

import argparse
import os

from ociexport.documents import Platform
from ociexport.platforms import host_platform, parse_platform


def add_platform_argument(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the option."""
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="of several platforms the one to take (default: DOCKER_DEFAULT_PLATFORM, or this machine's)",
    )


def platform_from(options: argparse.Namespace) -> Platform:
    """Return the platform that the command line or the environment asks for."""
    text = options.platform or os.environ.get("DOCKER_DEFAULT_PLATFORM")
    return parse_platform(text) if text else host_platform()
