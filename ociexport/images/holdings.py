"""Holdings: what the far side of an air gap has, as one HAVE tells it.

Registries, podman and containerd look a layer up by its digest. docker looks it up by its chain: by its diff_id and
those of all layers below it, so there the order of the layers counts.

Spec: image-spec 1.1 config.md, "Layer ChainID".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ociexport.spec.digest import Digest


class HeldLayer(NamedTuple):
    """One layer of an image that the far side has; the digest or the diff_id may be unknown, not both."""

    digest: Digest | None
    diff_id: Digest | None

    def is_same_as(self, other: HeldLayer) -> bool:
        """Whether both are the same layer, by their diff_ids or by their digests."""
        if self.diff_id is not None and self.diff_id == other.diff_id:
            return True
        return self.digest is not None and self.digest == other.digest


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
    had: dict[Digest, tuple[str, ...]] = {}
    needed: set[Digest | None] = set()
    for layers in images:
        holders = _leading_holders(since, layers)
        needed |= {layer.digest for layer in layers[len(holders) :]}
        for layer, names in zip(layers, holders, strict=False):
            if layer.digest is not None:
                had[layer.digest] = tuple(dict.fromkeys((*had.get(layer.digest, ()), *names)))
    return {digest: names for digest, names in had.items() if digest not in needed}


def _leading_holders(since: Sequence[Holdings], layers: Sequence[HeldLayer]) -> list[tuple[str, ...]]:
    """Return, for each leading layer that docker has, from the lowest on, the names of the holdings that have it."""
    runs = [(one, max((_common_run(chain, layers) for chain in one.chains), default=0)) for one in since]
    holders: list[tuple[str, ...]] = []
    for place, layer in enumerate(layers):
        names = [one.name for one, run in runs if run > place or not one.loose.isdisjoint(layer)]
        if not names:
            break
        holders.append(tuple(dict.fromkeys(names)))
    return holders


def _common_run(chain: Sequence[HeldLayer], layers: Sequence[HeldLayer]) -> int:
    run = 0
    for held, layer in zip(chain, layers, strict=False):
        if not held.is_same_as(layer):
            break
        run += 1
    return run
