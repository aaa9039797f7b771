"""Mounts the layers that `unpack --layers-dir` made, as root or as an ordinary user in a user namespace."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ociexport.rootfs.outputs.layers.commands import layer_commands
from ociexport.rootfs.outputs.layers.unpack import LayersResult
from ociexport.rootfs.treehash import hash_tree

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_SET_DUMPABLE = 4


@contextmanager
def overlay(lower: Sequence[str | Path], *options: str) -> Iterator[Path]:
    """Mount directories, the highest first, and give the mount point."""
    with tempfile.TemporaryDirectory() as name:
        chosen = ",".join([*options, f"lowerdir={':'.join(map(str, lower))}"])
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", chosen, name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def overlay_hash(result: LayersResult, *options: str) -> str:
    """Return the digest of the tree that overlayfs makes of an image's layers."""
    with overlay(layer_commands(result).lower, *options) as root:
        return str(hash_tree(root, mtimes=True))


def enter_namespace() -> None:
    """Make this process root of a user namespace with the ids of its user only, and with mounts of its own."""
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    # A process that has changed its user may not write its own files in /proc otherwise (proc(5)).
    libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def mount_overlay(lower: Sequence[str], target: Path) -> None:
    """Mount directories, the highest first, as an ordinary user does who is root of a user namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"userxattr,lowerdir={':'.join(lower)}".encode()
    if libc.mount(b"overlay", os.fsencode(target), b"overlay", 0, options):
        raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}")
