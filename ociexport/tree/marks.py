"""What the current layer wrote, which its whiteouts spare wherever they stand in the tar.

Spec: image-spec 1.1 layer.md, "Whiteouts": they apply to lower layers only.
"""

from __future__ import annotations


class MarkedDirectory:
    """A directory of a tree that layers are applied to, and the names that the current layer wrote in it.

    Args:
        name: in its parent.
        parent: None for the root.
    """

    __slots__ = ("_layer", "_written", "name", "parent")

    def __init__(self, name: bytes, parent: MarkedDirectory | None) -> None:
        self.name = name
        self.parent = parent
        self._layer = 0
        self._written: set[bytes] = set()

    def mark(self, name: bytes, layer: int) -> None:
        """Remember that ``layer`` wrote ``name`` here, and so that it needs all directories above."""
        node: MarkedDirectory = self
        while node._layer != layer:
            node._layer = layer
            node._written = {name}
            if node.parent is None:
                return
            node, name = node.parent, node.name
        node._written.add(name)

    def is_written(self, name: bytes, layer: int) -> bool:
        """Whether ``layer`` wrote ``name`` here."""
        return self._layer == layer and name in self._written
