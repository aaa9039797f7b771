"""Paths on the host: which links are followed, and whether a path is inside a tree that an image filled.

Another user's link may lead anywhere, and so may an image's link. The kernel refuses to follow some links of other
users (proc_sys_fs(5), "protected_symlinks"), but can't stop a program that reads links itself, as `os.path.realpath`
does.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress

from ociexport.errors import UsageError, quoted

# As many as the kernel follows (path_resolution(7)).
_MAX_LINKS = 40
# With this ending, a path to a link names the directory that the link leads to.
_DIRECTORY_ENDING = re.compile(r"(/\.?)+\Z")
_STICKY_FOR_ALL = stat.S_ISVTX | stat.S_IWOTH


def real_path(path: str) -> str:
    """Return ``path`` without links, resolved as the kernel does; its last parts need not exist.

    Raises:
        UsageError: its last part is another user's link, or another user's link in a world-writable directory is on
            its way.
        OSError: there are too many links.
    """
    return _steps(path)[-1]


def real_target(path: str) -> str:
    """Return the real path of a directory that is made if it is absent; its last part may be a link to a directory.

    Raises:
        UsageError: its last part is a link that leads to nothing, or as for `real_path`.
        OSError: there are too many links.
    """
    place = real_path(path)
    if os.path.islink(_DIRECTORY_ENDING.sub("", path)) and not os.path.lexists(place):
        raise UsageError(
            f"{quoted(path)}: expected a directory or no file, got a link to {quoted(place)}, which does not exist",
            hint="name the directory that is to be made, or remove the link",
        )
    return place


def real_place(path: str) -> tuple[str, str]:
    """Return the directory that contains ``path``, without links, and the name in it, which may be a link.

    Raises:
        UsageError: a link on the way is another user's; see `real_path`.
        IsADirectoryError: ``path`` ends in no name, as ``/`` and ``..``.
    """
    return os.path.split(_place_steps(path)[-1])


def verify_outside(path: str, tree: str, option: str, *, is_directory: bool = False, bundle: str | None = None) -> None:
    """Return if neither ``path`` nor a link on its way is in ``tree``, where an image could redirect it.

    Args:
        path: of a file, or of a directory for files.
        tree: real path of the root filesystem, or of the existing one that it replaces.
        option: the option that ``path`` was given with.
        bundle: real path of the bundle that contains ``tree``; files directly in it are not the image's.

    Raises:
        UsageError: ``path`` or a link on its way is in ``tree``.
    """
    *links, place = _steps(path) if is_directory else _place_steps(path)
    outer = bundle or tree
    # The bundle is made anew: it contains only the tree, no other directory and no link.
    is_fine = bundle is not None and place != tree and bundle in (os.path.dirname(place), place if is_directory else "")
    if any(is_within(link, outer) for link in links) or (is_within(place, outer) and not is_fine):
        raise UsageError(
            f"{option} {quoted(path)}: expected a place outside ROOTFS, got one in it",
            hint="in ROOTFS the image's own links and devices would decide what is written to",
        )


def is_within(place: str, tree: str) -> bool:
    """Whether ``place`` is ``tree`` or inside it, also under another name: by a bind mount, or in another case.

    Args:
        place: a path without links.
        tree: the same.
    """
    if f"{place}/".startswith(f"{tree.rstrip('/')}/"):
        return True
    try:
        status = os.stat(tree)
    except OSError:
        return False
    while True:
        with suppress(OSError):
            if os.path.samestat(os.lstat(place), status):
                return True
        if place == os.path.dirname(place):
            return False
        place = os.path.dirname(place)


def is_of_this_user(status: os.stat_result) -> bool:
    """Whether a link or a stream belongs to this user or to root, whom every user must trust."""
    return status.st_uid in (0, os.geteuid())


def _place_steps(path: str) -> list[str]:
    directory, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    *links, parent = _steps(directory or ".")
    return [*links, os.path.join(parent, name)]


def _steps(path: str) -> list[str]:
    """Return the paths of the links that are followed on the way, and as the last item the real path."""
    links: list[str] = []
    place = "/" if os.path.isabs(path) else os.getcwd()
    rest = path.split("/")[::-1]
    while rest:
        name = rest.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = os.path.dirname(place)
            continue
        child = os.path.join(place, name)
        try:
            status = os.lstat(child)
        except OSError:  # a missing part has no links; opening the path reports it
            place = child
            continue
        if not stat.S_ISLNK(status.st_mode):
            place = child
            continue
        _verify_followed(path, child, status, is_last=not any(rest))
        links.append(child)
        if len(links) > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(child)
        if target.startswith("/"):
            place = "/"
        rest += target.split("/")[::-1]
    return [*links, place]


def _verify_followed(path: str, link: str, status: os.stat_result, *, is_last: bool) -> None:
    if is_of_this_user(status):
        return
    directory = os.stat(os.path.dirname(link))
    is_for_all = directory.st_mode & _STICKY_FOR_ALL == _STICKY_FOR_ALL
    if is_last or (is_for_all and directory.st_uid != status.st_uid):
        raise UsageError(
            f"{quoted(path)}: expected no link of another user, got {quoted(link)} of user {status.st_uid}",
            hint="name the directory that it leads to, if it is the right one",
        )
