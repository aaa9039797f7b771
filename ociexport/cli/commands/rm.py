"""`ociexport rm`: remove root filesystems, including unwritable directories."""

from __future__ import annotations

import argparse
import os

from ociexport.cli.exit_codes import OK
from ociexport.cli.options.json import add_json_argument, print_json
from ociexport.errors import NotFoundError, UsageError, quoted
from ociexport.rootfs.disk.removal import remove_tree, verify_no_mounts
from ociexport.rootfs.disk.userns import can_enter_user_namespace, enter_user_namespace
from ociexport.system.host_paths import real_path

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to ``parser``."""
    parser.add_argument("rootfs", metavar="ROOTFS", nargs="+", help="directory to remove, with everything in it")
    add_json_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Remove the trees; if one of them must not be removed, none is.

    They are removed through descriptors, so no link leads out of them.
    """
    places = [_verified_place(rootfs) for rootfs in options.rootfs]
    for rootfs, (parent, name) in zip(options.rootfs, places, strict=True):
        _remove(rootfs, parent, name)
    if options.json:
        print_json("rm", {"removed": options.rootfs})
    return OK


def _verified_place(rootfs: str) -> tuple[str, str]:
    """Return the directory that contains ``rootfs``, without links, and its name there, if it may be removed.

    Raises:
        UsageError: it can't be removed by name, or has mounts below it.
        NotFoundError: it does not exist.
    """
    path = rootfs.rstrip("/")
    parent, name = real_path(f"{os.path.dirname(path) or '.'}/."), os.path.basename(path)
    if name in ("", ".", ".."):
        raise UsageError(
            f"{quoted(rootfs)}: expected a directory that can be removed, got one without a name of its own"
        )
    try:
        os.lstat(os.path.join(parent, name))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{quoted(rootfs)}: not there") from error
    verify_no_mounts(os.path.join(parent, name))
    return parent, name


def _remove(rootfs: str, parent: str, name: str) -> None:
    parent_fd = os.open(parent, _OPEN_DIRECTORY)
    try:
        _remove_tree(parent_fd, os.fsencode(name))
    except OSError as error:
        if isinstance(error.filename, str | bytes):
            error.filename = os.path.join(os.path.dirname(rootfs.rstrip("/")), os.fsdecode(error.filename))
        raise
    finally:
        os.close(parent_fd)


def _remove_tree(parent_fd: int, name: bytes) -> None:
    try:
        remove_tree(parent_fd, name)
    except PermissionError as error:
        if not can_enter_user_namespace():
            raise
        # `unpack --userns` may have made the tree; then its files belong to this user's subordinate ids.
        try:
            enter_user_namespace()
        except UsageError:
            raise error from None
        remove_tree(parent_fd, name)
