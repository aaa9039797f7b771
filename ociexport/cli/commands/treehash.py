"""`ociexport treehash`: print one digest of a whole directory tree."""

from __future__ import annotations

import argparse
import sys

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.errors import NotFoundError, quoted
from ociexport.rootfs.treehash import hash_tree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("rootfs", metavar="ROOTFS", help="directory to hash, with everything in it")
    parser.add_argument("--mtimes", action="store_true", help="include modification times in the digest")
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Print a digest over the type, mode, owner, size, content, links, xattrs and device of every file in the tree."""
    try:
        digest = hash_tree(options.rootfs, mtimes=options.mtimes)
    except FileNotFoundError as error:
        raise NotFoundError(f"{quoted(options.rootfs)}: expected a directory, got none") from error
    if options.json:
        print_json("treehash", {"digest": str(digest)})
    else:
        sys.stdout.write(f"{digest}\n")
    return OK
