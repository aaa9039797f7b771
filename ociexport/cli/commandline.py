"""Parses the command line into options, loading only the module of the command that it names.

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

# Each command's line of help. Its module is ociexport.cli.commands.<name>, with underscores for dashes.
COMMANDS = {
    "pull": "fetch images into an OCI layout, or into an archive for docker load",
    "push": "send images to a registry, each blob once",
    "copy": "copy an image from any source to a registry, a layout, an archive or a directory",
    "unpack": "unpack an image into a new root filesystem",
    "inspect": "show an image's config, layers, platforms and annotations",
    "tags": "list the tags of a repository",
    "images": "list the images that a file names: a compose file, Kubernetes YAML, an SBOM, a list",
    "lock": "print the digests of the images of a list, for pull --locked",
    "ls": "list the files in an image, or in each of its layers",
    "cat": "print files from an image",
    "which-layer": "show which layer a path in an image came from, and which layers changed it",
    "verify": "check a layout, an archive or a registry image for problems",
    "merge": "unite updates, layouts and archives in one layout",
    "report": "show what a layout or an archive holds: images, sizes, signatures, age, changes",
    "gc": "remove the blobs of a layout that nothing refers to",
    "prune": "remove the images of a layout that are not kept, and what only they need",
    "serve": "serve an OCI layout as a read-only registry",
    "rm": "remove a root filesystem, including unwritable directories",
    "diff": "list what changed in a root filesystem since it was unpacked",
    "treehash": "print one digest of a whole directory tree",
    "login": "check credentials with a registry, and store them",
    "logout": "remove the stored credentials for a registry",
    "auth": "explain which credentials an image would be pulled with",
    "completion": "print a completion script for a shell",
    "help": "explain a topic or a command",
}

# One example for each command, as a user would type it.
EXAMPLES = {
    "pull": "ociexport pull debian:12 --out ./layout",
    "push": "ociexport push ./layout registry.example:5000/mirror",
    "copy": "ociexport copy ./layout:12 docker://registry.example/debian:12",
    "unpack": "ociexport unpack debian:12 ./rootfs",
    "inspect": "ociexport inspect debian:12",
    "tags": "ociexport tags debian",
    "images": "ociexport images compose.yaml --why",
    "lock": "ociexport lock images.txt >images.lock",
    "ls": "ociexport ls debian:12 /etc --long",
    "cat": "ociexport cat debian:12 /etc/os-release",
    "which-layer": "ociexport which-layer debian:12 /etc/os-release",
    "verify": "ociexport verify ./layout",
    "merge": "ociexport merge ./far update.tar",
    "report": "ociexport report ./layout --html >report.html",
    "gc": "ociexport gc ./layout --dry-run",
    "prune": "ociexport prune ./layout --keep-newest 3",
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
        UsageError: the command or an option is unknown, or the configuration is wrong.
    """
    if words[:1] == ["--"]:  # only ends the options, and the command is not an option
        words = words[1:]
    words = _command_first(words)
    asks_for_version = words[:1] == ["--version"]
    name = next((word for word in words if not word.startswith("-") and not asks_for_version), None)
    if name is not None and name not in COMMANDS:
        refuse_command(name, COMMANDS)
    parser, commands = new_parser([name] if name is not None else [])
    if name is not None:
        before = apply_configuration(name, commands[name], COMMANDS)
        commands[name].verify_options(words)
        given = commands[name].attributes_given(words)
        commands[name].set_defaults(configured={option: before[option] for option in before.keys() - given})
    options, unknown = parser.parse_known_args(words)
    if unknown:
        commands.get(name or "", parser).refuse_unknown(unknown)
    return options


def _command_first(words: list[str]) -> list[str]:
    """Return ``words`` with options that precede the command's name moved behind it.

    Other tools have their global options there.
    """
    places = [place for place, word in enumerate(words) if word in COMMANDS]
    while len(places) > 1 and _is_value(words, places[0], [words[later] for later in places[1:]]):
        del places[0]
    place = places[0] if places else 0
    before = words[:place]
    if not before or not before[0].startswith("-") or before[0] in ("--", "--version"):
        return words
    return [words[place], *before, *words[place + 1 :]]


def _is_value(words: list[str], place: int, commands: list[str]) -> bool:
    """Whether the word at ``place`` is the value of the option before it: ``--authfile login pull debian``.

    Args:
        place: of a word that is also a command's name.
        commands: the commands that may be the real one.
    """
    option = words[place - 1] if place else ""
    return option.startswith("-") and any(new_parser([name])[1][name].takes_value(option) for name in commands)


def new_parser(loaded: Collection[str]) -> tuple[CommandParser, dict[str, CommandParser]]:
    """Return the main parser, and the parsers of its commands by name.

    Args:
        loaded: the commands to make, with their options. If empty, all commands are made, without options, for the
            list in ``--help``.

    Raises:
        ImportError: never, if ``loaded`` holds only names of commands.
    """
    parser = CommandParser(
        prog="ociexport",
        description="Container images on disk, verified, with no daemon.",
        epilog="ociexport help TOPIC explains references, platforms, sources, paths, credentials, configuration and "
        "exit codes.",
    )
    parser.add_argument("--version", action="version", version=f"ociexport {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    commands = {}
    for name, summary in COMMANDS.items():
        if loaded and name not in loaded:
            continue  # start-up: a parser takes as long to make as a few options
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
