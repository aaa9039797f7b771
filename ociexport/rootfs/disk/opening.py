"""A file of a tree opened by its path, links resolved within the root as in a chroot: by descriptor, link by link.

The kernel's openat2 could do it in one call where it is there; for two files a run, one way that works everywhere is
better than two.

Spec: path_resolution(7).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from contextlib import closing

from ociexport.rootfs.disk.walk import Descent

# As many as Linux follows (path_resolution(7)).
_MAX_LINKS_FOLLOWED = 40
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_regular_file(root_fd: int, path: bytes) -> int:
    """Return a descriptor of the regular file at ``path`` in the tree at ``root_fd``; closed by the caller.

    Nothing but regular files is opened: to open a device may do anything, such as to start a watchdog. Between the look
    and the opening there is a moment, so the tree is to be nobody else's yet.

    Raises:
        OSError: there is none, it is no regular file, or there are more links on the way than Linux follows.
    """
    remaining = deque(path.split(b"/"))
    depth = links_followed = 0
    with closing(Descent(root_fd)) as place:
        while remaining:
            part = remaining.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                # As in a chroot, the root is above itself.
                if depth:
                    place.leave()
                    depth -= 1
                continue
            status = os.stat(part, dir_fd=place.fd, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                links_followed += 1
                if links_followed > _MAX_LINKS_FOLLOWED:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(part, dir_fd=place.fd)
                if target.startswith(b"/"):
                    for _ in range(depth):
                        place.leave()
                    depth = 0
                remaining.extendleft(reversed(target.split(b"/")))
            elif not remaining and stat.S_ISREG(status.st_mode):
                return os.open(part, _OPEN_FILE, dir_fd=place.fd)
            elif stat.S_ISDIR(status.st_mode):
                place.enter(part)
                depth += 1
            else:
                break
    raise OSError(errno.EINVAL, "no regular file", path)
