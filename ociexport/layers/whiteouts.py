"""Whiteouts: decides from an entry's name whether it hides entries of lower layers, and which.

`ociexport.layers.apply` then hides them in the tree; `ociexport.layers.kept_names` spares what the same layer wrote.

Spec: image-spec 1.1 layer.md, "Whiteouts", "Opaque Whiteout".
"""

from __future__ import annotations

from enum import Enum

from ociexport.errors import InvalidImageError
from ociexport.layers.paths import ImagePath
from ociexport.spec.named_tuple import NamedTuple

# Names without it are no whiteouts.
WHITEOUT_PREFIX = b".wh."
_META_PREFIX = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
# The directory in which AUFS, docker's first file system, kept files with several names.
AUFS_LINKS = ImagePath(b".wh..wh.plnk")


class WhiteoutKind(Enum):
    """What an entry with a whiteout's name means."""

    # It hides one path.
    PLAIN = "plain"
    # It hides everything in a directory.
    OPAQUE = "opaque"
    # It is a file to which hard links follow, in AUFS's directory for such files.
    AUFS_LINK = "AUFS link"
    # It is AUFS's own bookkeeping, without a meaning elsewhere.
    BOOKKEEPING = "bookkeeping"


class Whiteout(NamedTuple):
    """An entry with a whiteout's name.

    Args:
        kind: what it means.
        path: the path that it hides, or the directory whose content it hides; otherwise its own.
    """

    kind: WhiteoutKind
    path: ImagePath


def parse_whiteout(path: ImagePath, *, is_file: bool) -> Whiteout | None:
    """Return what the entry at ``path`` hides; None if it is an ordinary entry.

    Args:
        is_file: whether it is a regular file; a whiteout is one whatever its type, but files of AUFS are only files.

    Raises:
        InvalidImageError: nothing follows the prefix, or only dots.
    """
    parent, slash, name = path.rpartition(b"/")
    if name == _OPAQUE:
        return Whiteout(WhiteoutKind.OPAQUE, ImagePath(parent))
    if parent == AUFS_LINKS and is_file:
        return Whiteout(WhiteoutKind.AUFS_LINK, path)
    if any(part.startswith(_META_PREFIX) for part in path.split(b"/")):
        return Whiteout(WhiteoutKind.BOOKKEEPING, path)
    if not name.startswith(WHITEOUT_PREFIX):
        return None
    hidden = name.removeprefix(WHITEOUT_PREFIX)
    if hidden in (b"", b".", b".."):
        raise InvalidImageError("whiteout: expected a name after '.wh.', got none")
    return Whiteout(WhiteoutKind.PLAIN, ImagePath(parent + slash + hidden))
