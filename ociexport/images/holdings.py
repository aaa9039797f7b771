"""Holdings: what the far side of an air gap has, as one HAVE tells it.

Registries, podman and containerd look a layer up by its digest. docker looks it up by its chain: by its diff_id and
those of all layers below it, so there the order of the layers counts.

Spec: image-spec 1.1 config.md, "Layer ChainID".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeAlias

from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.named_tuple import NamedTuple


class HeldLayer(NamedTuple):
    """One layer of an image that the far side has; the digest or the diff_id may be unknown, not both."""

    digest: Digest | None
    diff_id: Digest | None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one HAVE tells of the far side.

    Args:
        name: of the HAVE, for messages.
        blobs: digests of blobs.
        chains: the layers of each image, lowest first, as far as they are there without a gap.
        loose: digests or diff_ids, without their kind and order.
        names: by image name, the digests that the name had there, the present one first.
    """

    name: str
    blobs: frozenset[Digest] = frozenset()
    chains: tuple[tuple[HeldLayer, ...], ...] = ()
    loose: frozenset[Digest] = frozenset()
    names: Mapping[str, tuple[Digest, ...]] = field(default_factory=dict, hash=False)

    def has_blob(self, digest: Digest) -> bool:
        """Whether a store that goes by digest has this blob."""
        return digest in self.blobs or digest in self.loose


def held_by_docker(images: Iterable[Sequence[HeldLayer]], since: Sequence[Holdings]) -> dict[Digest, tuple[str, ...]]:
    """Return the layers that docker needs in no place of any image, with the names of the holdings that have them.

    Args:
        images: the layers of each image, lowest first, with their digests.
    """
    chains = [(one, _Chains(one.chains)) for one in since]
    had: dict[Digest, tuple[str, ...]] = {}
    needed: set[Digest | None] = set()
    for layers in images:
        holders = _leading_holders(chains, layers)
        needed |= {layer.digest for layer in layers[len(holders) :]}
        for layer, names in zip(layers, holders, strict=False):
            if layer.digest is not None:
                had[layer.digest] = tuple(dict.fromkeys((*had.get(layer.digest, ()), *names)))
    return {digest: names for digest, names in had.items() if digest not in needed}


def _leading_holders(since: Sequence[tuple[Holdings, _Chains]], layers: Sequence[HeldLayer]) -> list[tuple[str, ...]]:
    """Return, for each leading layer that docker has, from the lowest on, the names of the holdings that have it."""
    runs = [(one, chains.run_of(layers)) for one, chains in since]
    holders: list[tuple[str, ...]] = []
    for place, layer in enumerate(layers):
        names = [one.name for one, run in runs if run > place or not one.loose.isdisjoint(layer)]
        if not names:
            break
        holders.append(tuple(dict.fromkeys(names)))
    return holders


class _Chains:
    """The chains of many images, as two trees: of diff_ids and of digests, either of which may be unknown."""

    def __init__(self, chains: Iterable[Sequence[HeldLayer]]) -> None:
        self._trees: tuple[_Tree, _Tree] = {}, {}
        for chain in chains:
            for tree, ids in zip(self._trees, _ids_of(chain), strict=True):
                for one in takewhile(lambda one: one is not None, ids):
                    tree = tree.setdefault(one, {})  # noqa: PLW2901 - down the tree

    def run_of(self, layers: Sequence[HeldLayer]) -> int:
        """Return how many of ``layers``, from the lowest on, one of the chains begins with."""
        return max(_run_in(tree, ids) for tree, ids in zip(self._trees, _ids_of(layers), strict=True))


_Tree: TypeAlias = dict[Digest | None, Any]


def _ids_of(layers: Sequence[HeldLayer]) -> tuple[list[Digest | None], list[Digest | None]]:
    return [layer.diff_id for layer in layers], [layer.digest for layer in layers]


def _run_in(tree: _Tree, ids: Sequence[Digest | None]) -> int:
    for run, one in enumerate(ids):
        if one not in tree:
            return run
        tree = tree[one]
    return len(ids)
