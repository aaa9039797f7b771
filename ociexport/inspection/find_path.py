"""What a path that people give means in a tree of names."""

from __future__ import annotations

import os
from difflib import get_close_matches

from ociexport.errors import InvalidImageError, NotFoundError, UsageError, quoted_path
from ociexport.layers.memory_tree import MemoryDirectory, Node
from ociexport.layers.partial_tree import PartialTree, UnreadLayerError

# Of difflib's ratio: a letter too many or too few.
_NEAR = 0.72
# More names are not looked through for a hint.
_MAX_NAMES = 2_000


def parse_path(path: str | bytes) -> bytes:
    """Return a path as people give it, as the bytes that images have.

    Raises:
        UsageError: it is empty, or holds a NUL.
    """
    encoded = os.fsencode(path)
    if not encoded or b"\0" in encoded:
        raise UsageError(f"path {quoted_path(encoded)}: expected the path of something in the image")
    return encoded


def find(tree: PartialTree, path: bytes, *, follow: bool) -> Node:
    """Return what is at ``path``, links resolved within the root.

    Args:
        follow: whether a link at its very end is resolved too.

    Raises:
        NotFoundError: nothing is there.
        UnreadLayerError: the layers below may have something.
    """
    try:
        node = tree.find(path, follow=follow)
    except InvalidImageError as error:
        raise NotFoundError(str(error), hint="links lead in a circle there") from error
    if node is None:
        raise NotFoundError(f"{quoted_path(path)}: there is no such path in the image", hint=_hint(tree, path))
    if isinstance(node, MemoryDirectory):
        tree.verify_is_described(node)
    return node


def _hint(tree: PartialTree, path: bytes) -> str | None:
    """Say which link in ``path`` leads nowhere, or what is called nearly as what is missing; None for neither.

    A hint is not worth another layer: what was read must do.
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
            return f"{quoted_path(there)} is no directory"
        following = tree.find(there + b"/" + part, follow=True)
        if following is None:
            link = tree.find(there + b"/" + part, follow=False)
            if link is not None:
                target = quoted_path(link.described.link_name)
                return f"{quoted_path(there + b'/' + part)} is a link to {target}, which is not there"
            names = {os.fsdecode(name): name for name in list(directory.children)[:_MAX_NAMES]}
            near = get_close_matches(os.fsdecode(part), names, n=1, cutoff=_NEAR)
            return f"did you mean {quoted_path(there + b'/' + names[near[0]])}?" if near else None
        directory, there = following, there + b"/" + part
    return None
