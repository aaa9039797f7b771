"""Names in /proc of what is open, where Linux takes names only: for modes and attributes of what can't be opened.

Spec: proc_pid_fd(5).
"""

from __future__ import annotations

import errno
import os

_DESCRIPTORS = b"/proc/self/fd"


def name_of(fd: int) -> bytes:
    """Return a name of what is open, be it with O_PATH.

    Raises:
        OSError: there is no /proc, as in a chroot where nobody mounted it.
    """
    if not os.path.isdir(_DESCRIPTORS):
        raise OSError(errno.ENOSYS, "devices, pipes and links with attributes need /proc, which is not mounted")
    return b"%b/%d" % (_DESCRIPTORS, fd)


def name_in(directory_fd: int, name: bytes) -> bytes:
    """Return a name of what is called ``name`` in an open directory; whoever uses it does not follow a link there.

    Raises:
        OSError: as `name_of` does.
    """
    return b"%b/%b" % (name_of(directory_fd), name)
