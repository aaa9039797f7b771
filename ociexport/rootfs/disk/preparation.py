"""What comes before and around the writing of a tree: room, features of the file system, reasons for losses, errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ociexport.errors import OciexportError
from ociexport.layers.losses import Losses
from ociexport.rootfs.disk.preflight import NO_OWNERS, explain_full_disk, missing_features, scarce_inodes, verify_room
from ociexport.rootfs.disk.rights import is_in_user_namespace
from ociexport.spec.config import Layer
from ociexport.system.progress.protocol import Progress


def losses_of(*, is_rootless: bool) -> Losses:
    """Return counts for a new tree, with the reasons that apply to this process."""
    if is_rootless:
        return Losses(
            owners_reason="a rootless unpacking changes no owners", devices_reason="a rootless unpacking makes none"
        )
    losses = Losses()
    if os.geteuid() == 0:
        losses.owners_reason = "owners can't be changed here"
        if not is_in_user_namespace():
            losses.devices_reason = "they can't be made here"
    return losses


def look_before(
    fd: int,
    layers: tuple[Layer, ...],
    target: str,
    progress: Progress,
    *,
    sets_owners: bool,
    is_rootless: bool,
    with_xattrs: bool,
) -> None:
    """Refuse layers that can't fit, and warn of features that the file system lacks, before anything is written."""
    if layers:
        verify_room(fd, layers, target)
        for line in scarce_inodes(fd, layers):
            progress.warn(f"{target}: {line}")
    if not sets_owners and os.geteuid() == 0 and not is_rootless:
        progress.warn(f"{target}: {NO_OWNERS}")
    for line in missing_features(fd, with_xattrs=with_xattrs, as_root=sets_owners):
        progress.warn(f"{target}: {line}")


@contextmanager
def naming_target(target: str, fd: int) -> Iterator[None]:
    """Add a path to errors of the disk, since those from descriptors have none, and the reason for a full disk."""
    try:
        yield
    except OSError as error:
        # A name in bytes is in the tree. Any other is elsewhere: a blob of a layout, a file for events. An error
        # without an errno comes from a caller's callback and not from a system call.
        if isinstance(error, OciexportError) or error.errno is None or isinstance(error.filename, str):
            raise
        error.filename = os.path.join(target, os.fsdecode(error.filename or b""))
        explain_full_disk(fd, error)
        raise
