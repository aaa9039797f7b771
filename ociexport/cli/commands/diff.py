"""`ociexport diff`: list what changed in a root filesystem since it was unpacked."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing

from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.limits import add_limit_arguments, limits_from
from ociexport.cli.options.platform import add_platform_argument, platform_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments
from ociexport.cli.options.signatures import add_signature_arguments, open_signed_source
from ociexport.errors import NotFoundError, quoted, quoted_path
from ociexport.rootfs.compare import Change, compare_tree

_DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("rootfs", metavar="ROOTFS", help="root filesystem made by unpack")
    parser.add_argument("source", metavar="SRC", help="image that it was unpacked from")
    add_platform_argument(parser)
    add_json_argument(parser)
    parser.add_argument("--no-owners", dest="owners", action="store_false", help="do not compare owners")
    add_limit_arguments(parser)
    add_signature_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line for each path that differs from the image; the exit code is 0 without differences, 1 with any.

    ``A`` means added, ``D`` deleted, ``T`` of another type, ``M`` modified; for the last, the differences follow.
    """
    if not os.path.isdir(options.rootfs):
        raise NotFoundError(f"{quoted(options.rootfs)}: expected a directory, got none")
    progress = progress_from(options)
    with closing(open_signed_source(options, progress)) as source:
        changes = compare_tree(
            options.rootfs,
            source,
            platform=platform_from(options),
            limits=limits_from(options),
            owners=options.owners,
            progress=progress,
        )
    if options.json:
        print_json("diff", {"changes": [_to_json(change) for change in changes]})
    else:
        for change in changes:
            what = f"  ({', '.join(change.what)})" if change.what else ""
            sys.stdout.write(f"{change.kind} {quoted_path(change.path)[1:-1]}{what}\n")
    return _DIFFERENT if changes else 0


def _to_json(change: Change) -> dict[str, object]:
    path = change.path.decode("utf-8", "backslashreplace")
    return {"path": path, "kind": change.kind, "what": list(change.what)}
