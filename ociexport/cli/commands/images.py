"""`ociexport images`: list the images that a file names."""

from __future__ import annotations

import argparse
import sys

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.lists import add_profile_argument
from ociexport.cli.options.progress import progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.errors import counted, escaped
from ociexport.transfer.lists.entries import ImageList, ListEntry
from ociexport.transfer.lists.lines import to_line
from ociexport.transfer.lists.read import read_list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="list of images, compose file, Kubernetes YAML, SBOM, or another tool's list; a URL; - is standard input",
    )
    parser.add_argument("--why", action="store_true", help="print after each image where the file names it")
    add_profile_argument(parser)
    add_json_argument(parser)
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the images as a list that ``--list`` takes; maybes are comments at its end."""
    progress = progress_from(options)
    registry = registry_options_from(options)
    found = read_list(options.file, profiles=options.profile, registry=registry, progress=progress)
    for line in found.warnings:
        progress.warn(escaped(line))
    if options.json:
        print_json("images", _to_json(found))
        return OK
    for entry in found.sure:
        sys.stdout.write(_line_of(entry, why=options.why))
    if found.maybes:
        sys.stdout.write("# maybe images:\n")
    for entry in found.maybes:
        sys.stdout.write(f"# {_line_of(entry, why=options.why)}")
    what = f"{counted(len(found.sure), 'image')}, {counted(len(found.maybes), 'maybe')}"
    progress.say(f"{escaped(found.file)}: {', '.join(found.formats) or 'empty'}: {what}")
    return OK


def _line_of(entry: ListEntry, *, why: bool) -> str:
    reasons = f"  # {'; '.join(entry.why)}" if why else ""
    return escaped(to_line(entry) + reasons) + "\n"


def _to_json(found: ImageList) -> dict[str, object]:
    return {
        "file": found.file,
        "formats": list(found.formats),
        "images": [_entry_to_json(entry) for entry in found.sure],
        "maybes": [_entry_to_json(entry) for entry in found.maybes],
        "warnings": list(found.warnings),
    }


def _entry_to_json(entry: ListEntry) -> dict[str, object]:
    choice, selection, locked = entry.platforms, entry.selection, entry.locked
    return {
        "image": entry.image,
        "platforms": None if choice is None else [str(platform) for platform in choice.platforms] or ["all"],
        "selection": None
        if selection is None
        else {
            "allowed": list(selection.allowed),
            "denied": list(selection.denied),
            "semver": selection.semver,
            "newest": selection.newest,
        },
        "why": list(entry.why),
        **({"digest": str(locked.digest)} if locked is not None else {}),
    }
