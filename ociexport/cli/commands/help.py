"""`ociexport help`: explain a topic or a command."""

from __future__ import annotations

import argparse
import sys

from ociexport.cli.commandline import COMMANDS, new_parser
from ociexport.cli.exit_codes import OK
from ociexport.cli.spelling import closest
from ociexport.cli.topics import TOPICS
from ociexport.errors import UsageError, quoted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help=f"a command, or one of: {', '.join(TOPICS)}")


def run(options: argparse.Namespace) -> int:
    """Print the text.

    Raises:
        UsageError: the topic or command is unknown.
    """
    topic = options.topic
    if topic in TOPICS:
        sys.stdout.write(TOPICS[topic])
    elif topic is None or topic in COMMANDS:
        parser, commands = new_parser([topic] if topic is not None else [])
        sys.stdout.write(commands.get(topic, parser).format_help())
    else:
        meant = closest(topic, [*TOPICS, *COMMANDS])
        raise UsageError(
            f"help: expected a command or a topic, got {quoted(topic)}",
            hint=f"did you mean ociexport help {meant}?" if meant else f"the topics are {', '.join(TOPICS)}",
        )
    return OK
