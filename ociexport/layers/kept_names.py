"""The names that the current layer wrote, which its own whiteouts spare, wherever these are in the tar.

Spec: image-spec 1.1 layer.md, "Whiteouts": they apply to lower layers only.
"""

from __future__ import annotations

# Shared by all directories that no layer has written into; never added to.
_NOTHING: set[bytes] = set()


class MarkedDirectory:
    """A directory of a tree that layers are applied to, and the names that the current layer wrote in it.

    Args:
        name: name in its parent.
        parent: the directory above; None for the root.

    Attributes:
        depth: number of directories above; 0 for the root.
    """

    __slots__ = ("_hidden_layer", "_layer", "_written", "depth", "name", "parent")

    def __init__(self, name: bytes, parent: MarkedDirectory | None) -> None:
        self.name = name
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self._layer = 0
        self._hidden_layer = 0
        self._written = _NOTHING

    def mark(self, name: bytes, layer: int) -> None:
        """Record that ``layer`` wrote ``name`` here, and therefore needs all directories above."""
        node: MarkedDirectory = self
        while node._layer != layer:
            node._layer = layer
            node._written = {name}
            if node.parent is None:
                return
            node, name = node.parent, node.name
        node._written.add(name)

    def may_hold_lower(self, layer: int) -> bool:
        """Whether entries from layers below ``layer`` may be here, which the caller then removes.

        Returns True once for each layer, so many opaque whiteouts in one layer cost no more than one.
        """
        if self._hidden_layer == layer:
            return False
        self._hidden_layer = layer
        return True

    def is_written(self, name: bytes, layer: int) -> bool:
        """Whether ``layer`` wrote ``name`` here."""
        return self._layer == layer and name in self._written
