"""`ociexport ls`: list the files in an image, or in each of its layers, without unpacking it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.exit_codes import OK
from ociexport.cli.options.access import access_from, add_looking_arguments, add_source_argument
from ociexport.cli.options.json import add_json_argument, print_json_list
from ociexport.cli.output.files import file_to_json, layer_to_json, named_bytes, shown_path
from ociexport.cli.output.listing import layer_lines, long_line, named_path
from ociexport.errors import UsageError
from ociexport.inspection.list_files import ListedFile, ListedLayer, list_files, list_layers
from ociexport.layers.record import ChangeKind, LayerChange
from ociexport.spec.numerals import number_up_to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    add_source_argument(parser)
    parser.add_argument(
        "path", metavar="PATH", nargs="?", default="/", help="directory or file in the image (default: /)"
    )
    parser.add_argument(
        "-l", "--long", action="store_true", help="list modes, owners, sizes and modification times (UTC) too"
    )
    parser.add_argument("-R", "--recursive", action="store_true", help="list subdirectories recursively")
    parser.add_argument("-d", "--directory", action="store_true", help="list the directory or link itself")
    parser.add_argument(
        "--layers",
        action="store_true",
        help="list the entries of each layer, with whiteouts; PATH must be as in the layers",
    )
    parser.add_argument("--layer", metavar="N", type=_number, help="list one layer only; 1 is the lowest")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("-0", "--null", action="store_true", help="print unescaped paths, each followed by a NUL byte")
    add_json_argument(shown)
    add_looking_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line for each path; a layer is verified before anything from it is printed."""
    if options.layers or options.layer is not None:
        leave_out_configured(options, "null", "recursive", "directory")
        if options.null or options.recursive or options.directory:
            raise UsageError(
                "ls: --layers excludes --null, --recursive and --directory",
                hint="all entries of a layer are listed; for scripts use --json",
            )
        return _print_layers(options)
    if options.null:
        leave_out_configured(options, "long")
    if options.null and options.long:
        raise UsageError("ls: --null excludes --long", hint="--json has both")
    access = access_from(options)
    files = list_files(
        options.source, options.path, recursive=options.recursive, itself=options.directory, access=access
    )
    if options.json:
        items = ({**file_to_json(file), "layer": file.layer} for file in files)
        print_json_list("ls", {"source": options.source}, "files", items)
    elif options.null:
        sys.stdout.buffer.writelines(named_path(file) + b"\0" for file in files)
    else:
        sys.stdout.writelines(f"{line}\n" for line in _lines(files, long=options.long))
    return OK


def _number(text: str) -> int:
    number = number_up_to(text, 10**9)
    if number is None:
        raise argparse.ArgumentTypeError("expected the number of a layer, as inspect shows it")
    return number


def _lines(files: tuple[ListedFile, ...], *, long: bool) -> Iterator[str]:
    for file in files:
        yield long_line(file) if long else shown_path(named_path(file))


def _print_layers(options: argparse.Namespace) -> int:
    layers = list_layers(options.source, options.path, number=options.layer, access=access_from(options))
    if options.json:
        print_json_list("ls", {"source": options.source}, "layers", map(_layer_to_json, layers))
        return OK
    for layer in layers:
        sys.stdout.writelines(f"{line}\n" for line in layer_lines(layer, long=options.long))
    return OK


def _layer_to_json(listed: ListedLayer) -> dict[str, object]:
    return {**layer_to_json(listed.origin), "entries": [_change_to_json(change) for change in listed.changes]}


def _change_to_json(change: LayerChange) -> dict[str, object]:
    path = b"/" + change.path
    if change.entry is not None:
        return file_to_json(ListedFile.of(path, change.entry, 0))
    members: dict[str, object] = {**named_bytes("path", path), "type": change.kind.value}
    if change.kind is ChangeKind.HARD_LINK:
        members |= named_bytes("linkTarget", b"/" + change.target)
    return members
