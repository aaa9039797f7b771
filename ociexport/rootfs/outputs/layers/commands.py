"""The commands that show the layers of an image as one tree: mount, bubblewrap, systemd-nspawn, and a mount stack.

- mount(8) gives all options to the kernel in one page. An image with many layers is mounted by short names, relative to
  their directory. util-linux 2.39 and later would give the list of layers by fsconfig(2), which takes 255 bytes at most
  (util-linux issue 2287), so a longer list is mounted with ``LIBMOUNT_FORCE_MOUNT2=always``.
- bubblewrap 0.11 and later has overlays, and mounts them with ``userxattr`` always.
- systemd-nspawn mounts them without; so it takes layers that root made. Files written in the container are in a
  temporary directory.
- An erofs file is first mounted on a directory beside the layers.
- systemd 260 and later has mount stacks: directories with names that end in ``.mstack``.

Spec: Linux, Documentation/filesystems/overlayfs.rst; mount(8), bwrap(1), systemd-nspawn(1), systemd.mstack(7).
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ociexport.spec.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from ociexport.rootfs.outputs.layers.unpack import LayersResult

# Where the commands mount the tree.
MOUNT_POINT = "/mnt"
# A page has room for other options too.
_MAX_OPTIONS_BYTES = 3900
_MAX_FSCONFIG_BYTES = 255
_SHORT_CHARACTERS = 16
# Commas separate options, colons separate layers, and backslashes escape both, to different readers.
_PLAIN_PATH = re.compile(r"[^,:\\\"\s]+")


@dataclass(frozen=True, slots=True)
class LayerCommands:
    """Commands for a shell.

    Args:
        lower: the directories, highest first, as in overlayfs's option ``lowerdir``.
        mount: mounts the tree on `MOUNT_POINT`, and before that each erofs file by itself; an ordinary user's command
            makes a user namespace with a shell.
        bwrap: runs a shell in the tree; None where bubblewrap would show another tree.
        nspawn: the same for systemd-nspawn.
        mstack: name in a mount stack → path of the layer, lowest first.
    """

    lower: tuple[str, ...]
    mount: str
    bwrap: str | None
    nspawn: str | None
    mstack: Mapping[str, str]


def layer_commands(result: LayersResult) -> LayerCommands:
    """Return the commands for layers that are directories; what they need beside the layers is made."""
    # A layer that an image has twice shows in its highest place only, and overlayfs refuses to mount it twice.
    paths = list(dict.fromkeys(layer.path for layer in reversed(result.layers)))
    lower = [_mount_point_of(result.directory, path) for path in paths] if result.are_files else [*paths]
    while len(lower) < 2:
        # overlayfs takes no single layer without a writable one.
        lower.append(_made(result.directory, "empty" if not lower else f"empty{len(lower)}"))
    return LayerCommands(
        lower=tuple(lower),
        mount=" && ".join([*_erofs_mounts(paths, lower), _mount_command(result, lower)]),
        bwrap=_bwrap_command(lower) if result.may_use_userxattr and not result.are_files else None,
        nspawn=None if result.uses_user_xattrs or result.are_files else _nspawn_command(result.directory, lower),
        mstack=_mount_stack(paths, ".raw") if result.are_files else _mount_stack(lower, ""),
    )


def _mount_stack(paths: Sequence[str], suffix: str) -> dict[str, str]:
    digits = len(str(len(paths) - 1))
    return {f"layer@{number:0{digits}}{suffix}": path for number, path in enumerate(reversed(paths))}


def _erofs_mounts(paths: Sequence[str], mount_points: Sequence[str]) -> list[str]:
    return [
        shlex.join(["mount", "-t", "erofs", "-o", "ro,loop", path, mount_point])
        for path, mount_point in zip(paths, mount_points, strict=False)
        if path != mount_point
    ]


def _mount_point_of(directory: str, path: str) -> str:
    return _made(_made(directory, "fs"), os.path.basename(path).removesuffix(".erofs"))


def _mount_command(result: LayersResult, lower: Sequence[str]) -> str:
    directory, names = None, list(lower)
    if not all(map(_PLAIN_PATH.fullmatch, names)) or _size_of(names) > _MAX_OPTIONS_BYTES:
        directory, names = result.directory, [os.path.relpath(name, result.directory) for name in names]
    if _size_of(names) > _MAX_OPTIONS_BYTES:
        names = [_short_name(result.directory, name) for name in names]
    words = ["mount", "-t", "overlay", "overlay", "-o"]
    words += [f"{'userxattr,' if result.uses_user_xattrs else ''}lowerdir={':'.join(names)}", MOUNT_POINT]
    before = []
    if directory is not None:
        before += ["-C", directory]
    if _size_of(names) > _MAX_FSCONFIG_BYTES:
        before.append("LIBMOUNT_FORCE_MOUNT2=always")
    command = shlex.join(["env", *before, *words] if before else words)
    if result.uses_user_xattrs and os.geteuid() != 0:
        return f"unshare --map-root-user --mount sh -c {shlex.quote(f'{command} && exec sh')}"
    return command


def _bwrap_command(lower: Sequence[str]) -> str:
    sources = [word for path in reversed(lower) for word in ("--overlay-src", path)]
    return shlex.join(["bwrap", *sources, "--tmp-overlay", "/", "--dev", "/dev", "--proc", "/proc", "sh"])


def _nspawn_command(directory: str, lower: Sequence[str]) -> str:
    # It takes only a directory with /usr for a root, before it mounts the tree over it.
    root = _made(directory, "nspawn")
    _made(root, "usr")
    paths = ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in reversed(lower))
    return shlex.join(["systemd-nspawn", f"--directory={root}", f"--overlay={paths}::/", "sh"])


def _size_of(names: Sequence[str]) -> int:
    return sum(len(os.fsencode(name)) + 1 for name in names)


def _made(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    with suppress(FileExistsError):
        os.mkdir(path, 0o755)
    return path


def _short_name(directory: str, name: str) -> str:
    """Return a link to a layer, relative to the directory."""
    short = os.path.join("l", hashlib.sha256(os.fsencode(name)).hexdigest()[:_SHORT_CHARACTERS])
    _made(directory, "l")
    with suppress(FileExistsError):
        os.symlink(os.path.join("..", name), os.path.join(directory, short))
    return short
