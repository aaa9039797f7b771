"""How many files a part of the program may keep open: the system allows a process only so many."""

from __future__ import annotations

import resource

# One part may keep a quarter: layers are read, a tree is made and another one is removed at the same time.
_SHARE = 4


def keepable_files(most: int) -> int:
    """Return how many files may be kept open where ``most`` are useful: fewer if this process may open only a few.

    The limit is followed, not raised: it is the user's, and programs that this one starts inherit it.

    Spec: getrlimit(2), RLIMIT_NOFILE.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if limit == resource.RLIM_INFINITY else max(1, min(most, limit // _SHARE))
