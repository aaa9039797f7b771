"""`ociexport prune`: remove the images of a layout that are not kept, and what only they need."""

from __future__ import annotations

import argparse
import sys

from ociexport.cli.configuration import leave_out_configured
from ociexport.cli.exit_codes import OK
from ociexport.cli.options.counts import count_from
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.lists import add_profile_argument
from ociexport.cli.options.progress import progress_from
from ociexport.errors import UsageError, counted, escaped, printable
from ociexport.system.progress.protocol import Progress, format_bytes
from ociexport.verification.keep import Keep, KeepNewest
from ociexport.verification.prune import PrunedName, PruneResult, prune


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("layout", metavar="LAYOUT", help="directory of an OCI layout")
    parser.add_argument(
        "--keep",
        metavar="FILE|URL|-",
        action="append",
        default=[],
        help="keep the images that this list names: a list of any format, see ociexport images, a lock file, or names "
        "with * for any characters, one on a line; may be repeated",
    )
    parser.add_argument(
        "--keep-newest",
        metavar="N",
        type=count_from(1),
        help="keep the N images of each repository that were created last",
    )
    add_profile_argument(parser)
    parser.add_argument("--yes", action="store_true", help="remove; without it, only print what would be removed")
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print each name that is removed from the layout, and the path of each removed file."""
    progress = progress_from(options)
    result = prune(options.layout, _keep_from(options, progress), is_confirmed=options.yes)
    for note in result.notes:
        progress.warn(note)
    if options.json:
        print_json("prune", {"layout": options.layout, "dryRun": not options.yes, **_to_json(result)})
    else:
        for name in result.dropped:
            sys.stdout.write(f"{printable(name.name)}  {name.digest}\n")
        for file in result.garbage.dropped:
            sys.stdout.write(f"{escaped(file.path)}\n")
    progress.say(f"{escaped(options.layout)}: {_summary(result, is_done=options.yes)}")
    return OK


def _keep_from(options: argparse.Namespace, progress: Progress) -> Keep:
    if options.keep and options.keep_newest is not None:
        leave_out_configured(options, "keep", "keep_newest")
    if (not options.keep) == (options.keep_newest is None):
        raise UsageError(
            f"prune: expected one of --keep LIST and --keep-newest N, got {'both' if options.keep else 'none'}",
            hint="for example ociexport prune ./layout --keep-newest 3",
        )
    if options.keep_newest is not None:
        return KeepNewest(options.keep_newest)
    from ociexport.cli.keep_list import read_keep_list  # noqa: PLC0415 - start-up: --keep-newest reads no list

    return read_keep_list(options, progress)


def _summary(result: PruneResult, *, is_done: bool) -> str:
    garbage = result.garbage
    kept = f"{counted(len(result.kept), 'name')} and {counted(garbage.kept, 'blob')} kept"
    if not result.dropped and not garbage.dropped:
        return f"nothing to remove, {kept}"
    what = f"{counted(len(result.dropped), 'name')} and {counted(len(garbage.dropped), 'file')}"
    shared = garbage.size - garbage.freed
    stays = f"; {format_bytes(shared)} of it stay on the disk under other names" if shared else ""
    done = "removed" if is_done else "would be removed"
    advice = "" if is_done else "; --yes removes them"
    return f"{what} {done}, {format_bytes(garbage.size)}{stays}; {kept}{advice}"


def _to_json(result: PruneResult) -> dict[str, object]:
    garbage = result.garbage
    return {
        "droppedNames": list(map(_name_to_json, result.dropped)),
        "keptNames": list(map(_name_to_json, result.kept)),
        "dropped": [{"path": file.path, "size": file.size} for file in garbage.dropped],
        "droppedBytes": garbage.size,
        "freedBytes": garbage.freed,
        "keptBlobs": garbage.kept,
        "notes": list(result.notes),
    }


def _name_to_json(name: PrunedName) -> dict[str, object]:
    return {"name": name.name, "digest": str(name.digest)}
