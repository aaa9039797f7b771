"""`ociexport tags`: list the tags of a repository, or the names in a layout or archive."""

from __future__ import annotations

import argparse
import sys

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.progress import progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.errors import escaped
from ociexport.transfer.sources.list_names import list_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument(
        "repository", metavar="REPOSITORY", help="repository without a tag (alpine), or layout or archive (./layout)"
    )
    add_json_argument(parser)
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print one tag per line, in the order of the registry; after an error, none is printed."""
    progress = progress_from(options)
    names = list_names(options.repository, options=registry_options_from(options), progress=progress)
    if options.json:
        print_json("tags", {"repository": options.repository, "tags": list(names)})
        return OK
    if not names:
        progress.say(f"{escaped(options.repository)}: no tags")
    for name in names:
        # A registry may send any characters; an escaped name stays on its line.
        sys.stdout.write(f"{escaped(name)}\n")
    return OK
