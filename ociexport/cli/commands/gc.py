"""`ociexport gc`: remove the blobs of a layout that nothing refers to, and files left by interrupted runs."""

from __future__ import annotations

import argparse
import sys

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.progress import progress_from
from ociexport.errors import counted, escaped
from ociexport.system.progress.protocol import format_bytes
from ociexport.verification.garbage import GarbageResult, collect_garbage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("layout", metavar="LAYOUT", help="directory of an OCI layout")
    parser.add_argument("--dry-run", action="store_true", help="list what would be removed, and change nothing")
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print the path of each removed file, relative to the layout."""
    result = collect_garbage(options.layout, dry_run=options.dry_run)
    if options.json:
        print_json("gc", {"layout": options.layout, "dryRun": options.dry_run, **_to_json(result)})
    else:
        for file in result.dropped:
            sys.stdout.write(f"{escaped(file.path)}\n")
    progress_from(options).say(f"{escaped(options.layout)}: {_summary(result, dry_run=options.dry_run)}")
    return OK


def _summary(result: GarbageResult, *, dry_run: bool) -> str:
    if not result.dropped:
        return f"nothing to remove, {counted(result.kept, 'blob')} kept"
    files = counted(len(result.dropped), "file")
    done = "would be removed" if dry_run else "removed"
    shared = result.size - result.freed
    stays = f"; {format_bytes(shared)} of it stay on the disk under other names" if shared else ""
    return f"{files} {done}, {format_bytes(result.size)}{stays}; {counted(result.kept, 'blob')} kept"


def _to_json(result: GarbageResult) -> dict[str, object]:
    return {
        "dropped": [{"path": file.path, "size": file.size} for file in result.dropped],
        "droppedBytes": result.size,
        "freedBytes": result.freed,
        "keptBlobs": result.kept,
    }
