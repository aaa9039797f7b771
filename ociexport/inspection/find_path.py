"""Finding a path that the user gives in an image's tree."""

from __future__ import annotations

import os

from ociexport.errors import InvalidImageError, NotFoundError, UsageError, quoted_path
from ociexport.layers.memory_tree import MemoryDirectory, Node
from ociexport.layers.partial_tree import PartialTree, UnreadLayerError

# Threshold for difflib's ratio: a letter too many or too few.
_NEAR = 0.72
# For a hint, only this many names of a directory are compared.
_MAX_NAMES = 2_000


def parse_path(path: str | bytes) -> bytes:
    """Return a path from the user as bytes, the form of paths in images.

    Raises:
        UsageError: the path is empty or contains a NUL.
    """
    encoded = os.fsencode(path)
    if not encoded or b"\0" in encoded:
        raise UsageError(f"path {quoted_path(encoded)}: expected a path in the image")
    return encoded


def shown_path(path: bytes) -> bytes:
    """Return ``path`` with a leading slash, and without empty and ``.`` parts; links are not resolved."""
    return b"/" + b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))


def find(tree: PartialTree, path: bytes, *, follow: bool) -> Node:
    """Return the node at ``path``, links resolved within the root.

    Args:
        follow: whether a link at the end of the path is resolved too.

    Raises:
        NotFoundError: the image has no such path, or its links form a loop.
        UnreadLayerError: a layer that was not read may contain the path.
    """
    try:
        node = tree.find(path, follow=follow)
    except InvalidImageError as error:
        raise NotFoundError(str(error), hint="the symbolic links form a loop") from error
    if node is None:
        raise NotFoundError(f"{quoted_path(path)}: no such path in the image", hint=_hint(tree, path))
    if isinstance(node, MemoryDirectory):
        tree.verify_is_described(node)
    return node


def _hint(tree: PartialTree, path: bytes) -> str | None:
    """Return a hint that names the broken link in ``path``, or the name closest in spelling; None if there is neither.

    No further layer is read for a hint.
    """
    try:
        return _explain_missing(tree, path)
    except (UnreadLayerError, InvalidImageError):
        return None


def _explain_missing(tree: PartialTree, path: bytes) -> str | None:
    directory: Node = tree.root
    there = b""
    for part in filter(None, path.split(b"/")):
        if not isinstance(directory, MemoryDirectory):
            return f"{quoted_path(there)} is not a directory"
        following = tree.find(there + b"/" + part, follow=True)
        if following is None:
            link = tree.find(there + b"/" + part, follow=False)
            if link is not None:
                target = quoted_path(link.described.link_name)
                return f"{quoted_path(there + b'/' + part)} is a link to {target}, which does not exist"
            names = {os.fsdecode(name): name for name in list(directory.children)[:_MAX_NAMES]}
            from difflib import get_close_matches  # noqa: PLC0415 - start-up: only a missing path needs it

            near = get_close_matches(os.fsdecode(part), names, n=1, cutoff=_NEAR)
            return f"did you mean {quoted_path(there + b'/' + names[near[0]])}?" if near else None
        directory, there = following, there + b"/" + part
    return None
