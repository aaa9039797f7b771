"""`ociexport diff`: what changed in a root filesystem since it was unpacked."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing

from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.cli.options.platform import add_platform_argument, platform_from
from ociexport.cli.options.progress import add_progress_arguments, progress_from
from ociexport.cli.options.registry import add_registry_arguments, registry_options_from
from ociexport.cli.options.signatures import add_signature_arguments, signature_policy_from, signed_source
from ociexport.errors import NotFoundError, quoted, quoted_path
from ociexport.layers.limits import Limits
from ociexport.rootfs.compare import Change, compare_tree
from ociexport.transfer.sources.open import open_source

_DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    parser.add_argument("rootfs", metavar="ROOTFS", help="directory that was unpacked")
    parser.add_argument("source", metavar="SRC", help="the image that it was unpacked from")
    add_platform_argument(parser)
    add_json_argument(parser)
    parser.add_argument("--no-owners", dest="owners", action="store_false", help="do not compare owners")
    add_signature_arguments(parser)
    add_progress_arguments(parser)
    add_registry_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print a line for each path that is not as in the image; exit code 0 where all are, 1 where not.

    ``A`` is added, ``D`` deleted, ``T`` of another type, ``M`` modified; of the last, what differs stands behind it.
    """
    if not os.path.isdir(options.rootfs):
        raise NotFoundError(f"{quoted(options.rootfs)}: expected a directory, got none")
    progress = progress_from(options)
    policy = signature_policy_from(options)
    opened = open_source(options.source, options=registry_options_from(options), progress=progress)
    with closing(signed_source(opened, policy)) as source:
        changes = compare_tree(
            options.rootfs,
            source,
            platform=platform_from(options),
            limits=Limits(),
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
