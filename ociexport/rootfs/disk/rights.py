"""Whether this process may give files to other users, tried once on the file system in question.

uid 0 alone does not say it: a container may lack CAP_CHOWN or CAP_FOWNER (capabilities(7)), a user namespace may have
one user only, as ``unshare -r`` makes it; and a network file system may take root for nobody.
"""

from __future__ import annotations

import errno
import os

from ociexport.spec.numerals import number_in

_PROBE = b"probe"
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# Errors that refuse a change of owner, as opposed to those of a full or broken disk: no right, an id that the user
# namespace does not have, a file system without owners.
_REFUSALS = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EOVERFLOW}
)
_MAX_ID = 2**32 - 1


def may_set_owners(fd: int, owner: tuple[int, int] | None = None) -> bool:
    """Whether a new file in the directory ``fd`` can be given to another user, and then still get its mode and times.

    Args:
        fd: open; no other process uses the directory. The file is removed again.
        owner: uid and gid that the file is given; None for any other ids that this user namespace has.
    """
    if os.geteuid() != 0:
        return False
    uid, gid = owner or (_other_id("/proc/self/uid_map"), _other_id("/proc/self/gid_map"))
    probe_fd = os.open(_PROBE, _CREATE_FILE, 0o600, dir_fd=fd)
    try:
        os.fchown(probe_fd, uid, gid)
        # Only its owner and CAP_FOWNER may change these.
        os.fchmod(probe_fd, 0o640)
        os.utime(probe_fd, ns=(0, 0))
    except OSError as error:
        # Another error comes again with the first file that is given away, and is reported there.
        return error.errno not in _REFUSALS
    finally:
        os.close(probe_fd)
        os.unlink(_PROBE, dir_fd=fd)
    return True


def is_in_user_namespace() -> bool:
    """Whether ids differ from those outside (user_namespaces(7), "User and group ID mappings")."""
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return file.read().split() != [b"0", b"0", b"4294967295"]
    except FileNotFoundError:
        return False


def _other_id(path: str) -> int:
    """Return the lowest id other than 0 that a map of this user namespace has; 1 if it has none, or is unknown.

    Spec: user_namespaces(7), "User and group ID mappings".
    """
    try:
        with open(path, encoding="utf-8") as file:
            ranges = [[number_in(word, _MAX_ID) for word in line.split()] for line in file]
    except OSError:
        return 1
    found = [max(first, 1) for first, _, count in ranges if first is not None and count and first + count > 1]
    return min(found, default=1)
