"""The names of unfinished files and directories, until they take their final name.

==============================  ===================================================================================
``NAME.partial``                a file that the next try resumes; files that belong to it have a further suffix
``.NAME.partial``               a file that is never resumed; a leftover is removed by the next process that writes NAME
``.NAME.partial-RANDOM``        the same, while another process writes the same file
``NAME.partial-RANDOM``         a root filesystem that is being built
==============================  ===================================================================================

Unfinished blobs of a layout have a directory of their own instead, ``.ociexport/partial``; see `storage.layout.blobs`.
These names are on users' disks: a version that changes one no longer finds the files that an older version left.
"""

from __future__ import annotations

import hashlib
import os

PARTIAL_SUFFIX = ".partial"
# Between the name of a root filesystem and the random digits of the one that is being built.
STAGED_MARK = f"{PARTIAL_SUFFIX}-"
# A name has at most 255 bytes: 240, PARTIAL_SUFFIX, and seven bytes for a further suffix of a caller.
_MAX_RESUMED_NAME_BYTES = 240
_KEPT_BYTES = 200


def partial_name(path: str) -> str:
    """Return the path of a file that is resumed, until it is complete: always the same one, in the same directory.

    A caller may add a further suffix of at most seven bytes for files that belong to it.
    """
    directory, name = os.path.split(path)
    encoded = os.fsencode(name)
    if len(encoded) > _MAX_RESUMED_NAME_BYTES:
        # Some file systems refuse a part of a character, which has at most four bytes in UTF-8.
        end = next((end for end in range(_KEPT_BYTES, _KEPT_BYTES - 4, -1) if encoded[end] & 0xC0 != 0x80), _KEPT_BYTES)
        name = f"{os.fsdecode(encoded[:end])}-{hashlib.sha256(encoded).hexdigest()[:12]}"
    return os.path.join(directory, f"{name}{PARTIAL_SUFFIX}")


def hidden_name(name: str) -> str:
    """Return the name of a file that is not resumed, until it is complete; ``name`` has no directory."""
    return f".{os.fsdecode(os.fsencode(name)[:_KEPT_BYTES])}{PARTIAL_SUFFIX}"


def random_name(partial: str) -> str:
    """Return a name to use when another process may be using ``partial``."""
    return f"{partial}-{os.urandom(6).hex()}"
