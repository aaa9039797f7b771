"""A user namespace in which an ordinary user is root, and the subordinate ids are everybody else.

Spec: user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import subprocess
from contextlib import suppress

from ociexport.errors import UsageError

_CLONE_NEWUSER = 0x10000000
_HELPERS = ("newuidmap", "newgidmap")


def can_enter_user_namespace() -> bool:
    """Whether this ordinary user has subordinate ids, and the programs that map them are there."""
    return os.geteuid() != 0 and not _missing()


def enter_user_namespace() -> None:
    """Make this process root of a new user namespace: its user is 0, the subordinate ids are 1 and up.

    Must be called before any thread is started. Files that the process makes belong, outside, to its user and to the
    subordinate ids.

    Raises:
        UsageError: there are no subordinate ids, no newuidmap, or the kernel refuses.
    """
    missing = _missing()
    if missing:
        raise UsageError(
            f"--userns: expected {missing}, got none", hint="see subuid(5), and install the package uidmap"
        )
    uid, gid = os.geteuid(), os.getegid()
    maps = [_id_map(uid, "/etc/subuid"), _id_map(gid, "/etc/subgid")]
    # The maps are written from outside, by a child that stays there and waits until there is a namespace.
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready_write)
        os._exit(_write_maps(os.getppid(), maps) if os.read(ready_read, 1) else 1)
    os.close(ready_read)
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise UsageError(f"--userns: the kernel makes no user namespace for this user: {reason}")
        os.write(ready_write, b"x")
    finally:
        os.close(ready_write)
        _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status):
        raise UsageError("--userns: newuidmap or newgidmap refused to map the subordinate ids")
    os.setresgid(0, 0, 0)
    with suppress(PermissionError):
        os.setgroups([])
    os.setresuid(0, 0, 0)


def _write_maps(pid: int, maps: list[list[str]]) -> int:
    for helper, id_map in zip(_HELPERS, maps, strict=True):
        if subprocess.run([helper, str(pid), *id_map], check=False).returncode:
            return 1
    return 0


def _missing() -> str:
    """Return the first thing that is needed and not there; empty where all is."""
    for helper in _HELPERS:
        if shutil.which(helper) is None:
            return f"the program {helper}"
    for path in ("/etc/subuid", "/etc/subgid"):
        if not _subordinate_ids(path):
            return f"an entry for this user in {path}"
    return ""


def _id_map(own_id: int, path: str) -> list[str]:
    """Return the map for newuidmap: inside, outside and count, of the user and then of each subordinate range."""
    words = ["0", str(own_id), "1"]
    inside = 1
    for first, count in _subordinate_ids(path):
        words += [str(inside), str(first), str(count)]
        inside += count
    return words


def _subordinate_ids(path: str) -> list[tuple[int, int]]:
    """Return the ranges that the file gives this user, by name or number; the group file lists users too."""
    uid = os.geteuid()
    names = {str(uid)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    ranges = []
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            parts = line.strip().split(":")
            if len(parts) == 3 and parts[0] in names and parts[1].isdigit() and parts[2].isdigit():
                ranges.append((int(parts[1]), int(parts[2])))
    return ranges
