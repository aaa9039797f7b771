"""`ociexport rm`: remove root filesystems, unwritable directories included."""

from __future__ import annotations

import argparse
import os

from ociexport.cli.exit_codes import OK
from ociexport.errors import NotFoundError, UsageError, quoted
from ociexport.tree.removal import remove_tree
from ociexport.tree.userns import can_enter_user_namespace, enter_user_namespace

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of this command."""
    parser.add_argument("rootfs", metavar="ROOTFS", nargs="+", help="directory to remove with all that is in it")


def run(options: argparse.Namespace) -> int:
    """Remove each tree by descriptor: no link is followed out of it, and a mount point in it is an error."""
    for rootfs in options.rootfs:
        _remove(rootfs)
    return OK


def _remove(rootfs: str) -> None:
    path = os.path.normpath(rootfs)
    parent, name = os.path.split(os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path)))
    if name in ("", ".", "..") or os.path.ismount(path):
        raise UsageError(f"{quoted(rootfs)}: expected a directory that can be removed, got a root or mount point")
    if not os.path.lexists(path):
        raise NotFoundError(f"{quoted(rootfs)}: not there")
    parent_fd = os.open(parent, _OPEN_DIRECTORY)
    try:
        _remove_tree(parent_fd, os.fsencode(name))
    except OSError as error:
        error.filename = os.path.join(path, os.fsdecode(error.filename or ""))
        raise
    finally:
        os.close(parent_fd)


def _remove_tree(parent_fd: int, name: bytes) -> None:
    try:
        remove_tree(parent_fd, name)
    except PermissionError:
        if not can_enter_user_namespace():
            raise
        # It may be what `unpack --userns` made, whose owners are this user's subordinate ids.
        enter_user_namespace()
        remove_tree(parent_fd, name)
