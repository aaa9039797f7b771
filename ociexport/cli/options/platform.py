"""The options ``--platform``, ``--all`` and ``--sparse``."""

from __future__ import annotations

import argparse
import os

from ociexport.cli.configuration import leave_out_configured
from ociexport.errors import UsageError
from ociexport.images.choose import PlatformChoice
from ociexport.spec.descriptor import Platform
from ociexport.spec.lazy_dataclass import replace
from ociexport.spec.platforms import host_platform, parse_platform

# crane's word for --all.
_ALL = "all"
_METAVAR = "OS/ARCH[/VARIANT]"


def add_platform_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that selects one platform."""
    parser.add_argument(
        "--platform",
        metavar=_METAVAR,
        help="platform to select from an index (default: DOCKER_DEFAULT_PLATFORM, or this machine's)",
    )


def platform_from(options: argparse.Namespace) -> Platform:
    """Return the platform that the command line or the environment requests."""
    return parse_platform(options.platform) if options.platform else _default_platform()


def add_platforms_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that copies one or more platforms."""
    add_several_platforms_arguments(
        parser,
        "platforms to copy; may be repeated (default: DOCKER_DEFAULT_PLATFORM, or this machine's)",
        "copy every platform and attestation, keeping the published index unchanged",
    )
    parser.add_argument(
        "--sparse",
        action="store_true",
        help="keep the published index unchanged even if it lists platforms that are not copied",
    )


def add_several_platforms_arguments(parser: argparse.ArgumentParser, which: str, all_of_them: str) -> None:
    """Add a repeatable ``--platform`` with the help ``which``, and ``--all`` with the help ``all_of_them``."""
    parser.add_argument("--platform", metavar=_METAVAR, action="append", default=[], help=which)
    parser.add_argument("-a", "--all", action="store_true", help=all_of_them)


def choice_from(options: argparse.Namespace) -> PlatformChoice:
    """Return the platforms that the command line or the environment requests.

    Raises:
        UsageError: a platform is invalid, or --all is combined with others.
    """
    choice = named_choice_from(options)
    if choice is None:
        return PlatformChoice((_default_platform(),), keeps_index=options.sparse)
    return replace(choice, keeps_index=options.sparse and not choice.takes_all)


def named_choice_from(options: argparse.Namespace) -> PlatformChoice | None:
    """Return the platforms that ``--platform`` and ``--all`` request; None without these options.

    Raises:
        UsageError: a platform is invalid, or --all is combined with others.
    """
    words = [word for text in options.platform for word in text.split(",")]
    if options.all and words:
        # The option from the command line takes precedence over the one from the configuration.
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
