"""Paths on the host: whose links are followed, and whether a place is in a tree that an image filled.

Another user's link leads where that user wants, and an image's link where the image wants. The kernel refuses some of
the former (proc_sys_fs(5), "protected_symlinks"), but not to a program that reads links itself, as `os.path.realpath`.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from ociexport.errors import UsageError, quoted

# As many as the kernel follows (path_resolution(7)).
_MAX_LINKS = 40
_STICKY_FOR_ALL = stat.S_ISVTX | stat.S_IWOTH


def real_path(path: str) -> str:
    """Return ``path`` without links, as the kernel would follow them; its end need not be there.

    Raises:
        UsageError: its last part is a link of another user, or a link on its way is one in a directory for all.
        OSError: there are too many links.
    """
    return _steps(path)[-1]


def real_place(path: str) -> tuple[str, str]:
    """Return the directory that ``path`` is in, without links, and its name there, which may be that of a link.

    Raises:
        UsageError: a link on the way is another user's; see `real_path`.
        IsADirectoryError: it has no name of its own.
    """
    return os.path.split(_place_steps(path)[-1])


def verify_outside(path: str, tree: str, option: str, *, is_directory: bool = False, bundle: str | None = None) -> None:
    """Return if no image decides where ``path`` is: it is not in ``tree``, nor is a link on its way.

    Args:
        path: of a file, or of a directory for files.
        tree: real path of the root filesystem, or of the one that gives way to it.
        option: that names ``path``.
        bundle: real path of the bundle that ``tree`` is in; files directly in it are none of the image's.

    Raises:
        UsageError: something is.
    """
    *links, place = _steps(path) if is_directory else _place_steps(path)
    outer = bundle or tree
    # The bundle is made anew: there is nothing in it but the tree, no directory and no link.
    is_fine = bundle is not None and place != tree and bundle in (os.path.dirname(place), place if is_directory else "")
    if any(is_within(link, outer) for link in links) or (is_within(place, outer) and not is_fine):
        raise UsageError(
            f"{option} {quoted(path)}: expected a place outside ROOTFS, got one in it",
            hint="in ROOTFS the image's own links and devices would decide what is written to",
        )


def is_within(place: str, tree: str) -> bool:
    """Whether ``place`` is ``tree`` or in it, also by another name: of a bind mount, or where case is folded.

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
    """Whether a link or a stream is this user's, or root's, whom all have to trust."""
    return status.st_uid in (0, os.geteuid())


def _place_steps(path: str) -> list[str]:
    directory, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    *links, parent = _steps(directory or ".")
    return [*links, os.path.join(parent, name)]


def _steps(path: str) -> list[str]:
    """Return the places of the links that are followed on the way, and at last the real path."""
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
        except OSError:  # what is not there has no links; who opens it finds out
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
