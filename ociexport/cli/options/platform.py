"""The option ``--platform``, the same for every command that has it."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from ociexport.cli.configuration import leave_out_configured
from ociexport.errors import UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.spec.descriptor import Platform
from ociexport.spec.platforms import host_platform, parse_platform

# crane's word for --all.
_ALL = "all"


def add_platform_argument(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the option."""
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="of several platforms the one to take (default: DOCKER_DEFAULT_PLATFORM, or this machine's)",
    )


def platform_from(options: argparse.Namespace) -> Platform:
    """Return the platform that the command line or the environment asks for."""
    return parse_platform(options.platform) if options.platform else _default_platform()


def add_platforms_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of a command that takes several platforms."""
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        action="append",
        default=[],
        help="the platforms to take; may be repeated (default: DOCKER_DEFAULT_PLATFORM, or this machine's)",
    )
    parser.add_argument(
        "-a", "--all", action="store_true", help="take all platforms, and attestations: the index as it was published"
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="keep the published index although it names platforms that are not taken",
    )


def choice_from(options: argparse.Namespace) -> PlatformChoice:
    """Return the platforms that the command line or the environment asks for.

    Raises:
        UsageError: one is no platform, or --all stands beside others.
    """
    choice = named_choice_from(options)
    if choice is None:
        return PlatformChoice((_default_platform(),), keeps_index=options.sparse)
    return replace(choice, keeps_index=options.sparse and not choice.takes_all)


def named_choice_from(options: argparse.Namespace) -> PlatformChoice | None:
    """Return the platforms that ``--platform`` and ``--all`` ask for; None where they are not given.

    Raises:
        UsageError: one is no platform, or --all stands beside others.
    """
    words = [word for text in options.platform for word in text.split(",")]
    if options.all and words:
        # What is given for this command counts more than what is meant for all.
        if len(configured := {"platform", "all"} & getattr(options, "configured", {}).keys()) == 1:
            leave_out_configured(options, *configured)
        words = [word for text in options.platform for word in text.split(",")]
    takes_all = options.all or _ALL in words
    if takes_all and set(words) - {_ALL}:
        raise UsageError("--platform: expected no platform beside --all, got one", hint="leave out one of the two")
    if takes_all:
        return PlatformChoice()
    return PlatformChoice(tuple(dict.fromkeys(map(parse_platform, words)))) if words else None


def _default_platform() -> Platform:
    text = os.environ.get("DOCKER_DEFAULT_PLATFORM")
    return parse_platform(text) if text else host_platform()
