"""The command line's words as options; only the named command's module is loaded.

A command's module has ``add_arguments(parser)`` and ``run(options) -> int``.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Collection

from ociexport.cli.configuration import apply_configuration
from ociexport.cli.parser import CommandParser
from ociexport.cli.spelling import refuse_command
from ociexport.system.version import __version__

# name: one line of help. The module is ociexport.cli.commands.<name>, with underscores for dashes.
COMMANDS = {
    "pull": "fetch images into an OCI layout, or an archive for docker load",
    "unpack": "apply an image's layers to a new root filesystem",
    "inspect": "say what an image is: config, layers, platforms, annotations",
    "tags": "list the tags of a repository",
    "ls": "list what is in an image, or in each of its layers",
    "cat": "write the content of files in an image",
    "which-layer": "say which layer of an image a path came from, and which touched it",
    "verify": "say all that is wrong with a layout, an archive or an image in a registry",
    "gc": "drop the blobs of a layout that nothing in it names",
    "serve": "serve an OCI layout as a read-only registry",
    "rm": "remove a root filesystem, unwritable directories included",
    "diff": "say what changed in a root filesystem since it was unpacked",
    "treehash": "print one digest of a whole tree",
    "login": "try credentials at a registry, and keep them",
    "logout": "forget the credentials for a registry",
    "auth": "explain which credentials an image would be pulled with",
    "completion": "print a script that completes words in a shell",
    "help": "explain a topic, or a command",
}

# One for each command, as people would type it.
EXAMPLES = {
    "pull": "ociexport pull debian:12 --out ./layout",
    "unpack": "ociexport unpack debian:12 ./rootfs",
    "inspect": "ociexport inspect debian:12",
    "tags": "ociexport tags debian",
    "ls": "ociexport ls debian:12 /etc --long",
    "cat": "ociexport cat debian:12 /etc/os-release",
    "which-layer": "ociexport which-layer debian:12 /etc/os-release",
    "verify": "ociexport verify ./layout",
    "gc": "ociexport gc ./layout --dry-run",
    "serve": "ociexport serve ./layout --addr 127.0.0.1:5000",
    "rm": "ociexport rm ./rootfs",
    "diff": "ociexport diff ./rootfs debian:12",
    "treehash": "ociexport treehash ./rootfs",
    "login": "ociexport login registry.example -u alice --password-stdin <password.txt",
    "logout": "ociexport logout registry.example",
    "auth": "ociexport auth explain registry.example/team/app:1",
    "completion": "ociexport completion bash >~/.local/share/bash-completion/completions/ociexport",
    "help": "ociexport help sources",
}


def parse_command_line(words: list[str]) -> argparse.Namespace:
    """Return the options, with the command's ``run``; only the named command's module is loaded.

    Raises:
        UsageError: there is no such command or option, or the configuration is wrong.
    """
    if words[:1] == ["--"]:  # what follows is no option, and a command is none anyway
        words = words[1:]
    words = _command_first(words)
    is_about_us = words[:1] == ["--version"]
    wanted = next((word for word in words if not word.startswith("-") and not is_about_us), None)
    if wanted is not None and wanted not in COMMANDS:
        refuse_command(wanted, COMMANDS)
    parser, commands = new_parser([wanted] if wanted is not None else [])
    if wanted is not None:
        before = apply_configuration(wanted, commands[wanted], COMMANDS)
        commands[wanted].verify_options(words)
        given = commands[wanted].attributes_given(words)
        commands[wanted].set_defaults(configured={name: before[name] for name in before.keys() - given})
    options, unknown = parser.parse_known_args(words)
    if unknown:
        commands.get(wanted or "", parser).refuse_unknown(unknown)
    return options


def _command_first(words: list[str]) -> list[str]:
    """Return ``words`` with the options before a command's name behind it, where other tools have those for all."""
    places = [place for place, word in enumerate(words) if word in COMMANDS]
    while len(places) > 1 and _is_value(words, places[0], [words[later] for later in places[1:]]):
        del places[0]
    place = places[0] if places else 0
    before = words[:place]
    if not before or not before[0].startswith("-") or before[0] in ("--", "--version"):
        return words
    return [words[place], *before, *words[place + 1 :]]


def _is_value(words: list[str], place: int, commands: list[str]) -> bool:
    """Whether what looks like a command is the value of an option before it: ``--authfile login pull debian``.

    Args:
        commands: one of them may be the real one.
    """
    option = words[place - 1] if place else ""
    return option.startswith("-") and any(new_parser([name])[1][name].takes_value(option) for name in commands)


def new_parser(loaded: Collection[str]) -> tuple[CommandParser, dict[str, CommandParser]]:
    """Return the parser, and those of its commands.

    Args:
        loaded: those that have their options; the others are only made, for a list of them, where there are none.

    Raises:
        ImportError: never, if ``loaded`` are commands.
    """
    parser = CommandParser(
        prog="ociexport",
        description="Container images on disk, verified, with no daemon.",
        epilog="ociexport help TOPIC explains references, platforms, sources, paths, credentials, configuration, exit "
        "codes.",
    )
    parser.add_argument("--version", action="version", version=f"ociexport {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    commands = {}
    for name, summary in COMMANDS.items():
        if loaded and name not in loaded:
            continue  # each parser takes as long as a few options
        command = subparsers.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", example=EXAMPLES[name]
        )
        commands[name] = command
        if name in loaded:
            module = importlib.import_module(f"ociexport.cli.commands.{name.replace('-', '_')}")
            command.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
            module.add_arguments(command)
            command.add_help_all()
            command.set_defaults(run=module.run, command=name)
    return parser, commands
