"""Applies layers in order to trees of names in memory, to see whether each image can be unpacked.

Layers that several images share, from the lowest on, are applied once, since equal layers give an equal tree (image-
spec
1.1 config.md, "Layer ChainID").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from ociexport.errors import LimitExceededError, quoted
from ociexport.images.resolve import artifact_kind
from ociexport.layers.limits import Limits, NameBudget
from ociexport.layers.memory_tree import MemoryTree
from ociexport.layers.record import LayerOutline
from ociexport.spec.config import Layer, pair_layers
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, field
from ociexport.spec.manifest import Manifest
from ociexport.verification.blobs import BlobState
from ociexport.verification.findings import Findings, Kind
from ociexport.verification.layers import ExaminedLayer, Problem, Problems
from ociexport.verification.walk import WalkedImage

_LayerKey: TypeAlias = tuple[Digest, Digest]


@dataclass(slots=True)
class _Step:
    """A layer on top of certain lower layers.

    Args:
        outline: the layer's changes.
        entries: number of entries in this layer and all lower ones.
        tar_bytes: their bytes, including disk space beyond the tar's own.
        metadata_bytes: their attributes and long names.
        problems: found when it was applied to the lower layers.
        is_applied: whether it was applied.
    """

    outline: LayerOutline
    entries: int
    tar_bytes: int
    metadata_bytes: int
    problems: tuple[Problem, ...] = ()
    is_applied: bool = False
    following: dict[_LayerKey, _Step] = field(default_factory=dict)


def diff_ids_by_layer(images: Sequence[WalkedImage]) -> dict[Digest, frozenset[Digest]]:
    """Return the layers of ``images``, with the diff_ids that images declare for each."""
    said: dict[Digest, frozenset[Digest]] = {}
    for image in images:
        for layer in pair_layers(image.manifest, image.config):
            digest = layer.descriptor.digest
            said[digest] = said.get(digest, frozenset()) | {layer.diff_id}
    return said


def add_layer_findings(
    images: Sequence[WalkedImage], states: Mapping[Digest, BlobState], limits: Limits, findings: Findings
) -> None:
    """Apply the layers of all images, and report each problem where it first occurs.

    Memory: the names of one tree, and of one more tree for each layer where images diverge. ``limits`` bounds the sum.
    """
    lowest: dict[_LayerKey, _Step] = {}
    chains = [_steps_of(image, states, lowest) for image in images]
    _apply_all(lowest, limits)
    told: set[object] = set()
    for image, steps in zip(images, chains, strict=True):
        _add_findings(image, steps, states, told, findings)


def add_artifact_notes(artifacts: Sequence[tuple[str, Manifest]], findings: Findings) -> None:
    """Note manifests of which only the blobs' digests can be checked."""
    for place, manifest in artifacts:
        message = f"an artifact of type {quoted(artifact_kind(manifest))}, which has no layers to apply"
        findings.add(Kind.MEDIA_TYPE, place, message, is_wrong=False, digest=manifest.digest)


def _steps_of(image: WalkedImage, states: Mapping[Digest, BlobState], lowest: dict[_LayerKey, _Step]) -> list[_Step]:
    """Return the steps of an image, up to the first layer that cannot be applied. Images share equal steps."""
    steps: list[_Step] = []
    following, entries, tar_bytes, metadata_bytes = lowest, 0, 0, 0
    for layer in pair_layers(image.manifest, image.config):
        examined = _examined(layer, states)
        if examined is None or examined.outline is None:
            break
        entries += examined.entries
        tar_bytes += examined.tar_bytes + examined.block_bytes
        metadata_bytes += examined.metadata_bytes
        key = (layer.descriptor.digest, layer.diff_id)
        steps.append(following.setdefault(key, _Step(examined.outline, entries, tar_bytes, metadata_bytes)))
        following = steps[-1].following
    return steps


def _examined(layer: Layer, states: Mapping[Digest, BlobState]) -> ExaminedLayer | None:
    state = states.get(layer.descriptor.digest)
    return state.layer if state is not None else None


def _apply_all(lowest: Mapping[_LayerKey, _Step], limits: Limits) -> None:
    """Apply each step once, depth first.

    The last step that follows another takes over its tree; the others get copies. A step that exceeds a limit is
    abandoned together with those that follow it.
    """
    budget = NameBudget(limits)
    waiting: list[tuple[_Step, MemoryTree, bool]] = []
    _enter(lowest, MemoryTree(budget, max_depth=limits.max_depth, max_steps=limits.max_steps), waiting)
    while waiting:
        step, beneath, is_last = waiting.pop()
        problems = Problems()
        try:
            tree = beneath if is_last else beneath.copy()
        except LimitExceededError as error:
            problems.add(error)
        else:
            try:
                limits.verify_totals(step.entries, step.tar_bytes)
                limits.verify_metadata(step.metadata_bytes)
                step.outline.apply_to(tree, problems.add)
                step.is_applied = True
                _enter(step.following, tree, waiting)
            except LimitExceededError as error:
                problems.add(error)
                tree.release()
        step.problems = tuple(problems)


def _enter(
    following: Mapping[_LayerKey, _Step], tree: MemoryTree, waiting: list[tuple[_Step, MemoryTree, bool]]
) -> None:
    """Schedule the ``following`` steps on ``tree``, which is released if there are none."""
    # The list is used as a stack.
    waiting += [(step, tree, number == 0) for number, step in enumerate(following.values())]
    if not following:
        tree.release()


def _add_findings(
    image: WalkedImage,
    steps: Sequence[_Step],
    states: Mapping[Digest, BlobState],
    told: set[object],
    findings: Findings,
) -> None:
    """Report the problems of an image's layers, except those ``told`` for another image."""
    layers = pair_layers(image.manifest, image.config)
    for number, layer in enumerate(layers):
        digest = layer.descriptor.digest
        found = list(_problems_of(layer, states, told))
        if number < len(steps) and id(steps[number]) not in told:
            told.add(id(steps[number]))
            found += steps[number].problems
        for problem in found:
            place = f"{image.place}: {layer}{': ' if problem.place else ''}{problem.place}"
            findings.add(problem.kind, place, problem.message, digest=digest)
    applied = sum(step.is_applied for step in steps)
    if applied + 1 < len(layers):
        first = layers[applied]
        message = f"not applied, nor the layers above it ({len(layers) - applied - 1} more)"
        findings.add(Kind.LAYERS, f"{image.place}: {first}", message, is_wrong=False, digest=first.descriptor.digest)


def _problems_of(layer: Layer, states: Mapping[Digest, BlobState], told: set[object]) -> Iterator[Problem]:
    """Yield the problems of a layer that do not depend on lower layers."""
    examined = _examined(layer, states)
    if examined is None:
        return
    diff_id = layer.diff_id
    got = examined.diff_ids.get(diff_id.algorithm, diff_id)
    if got != diff_id and (layer.descriptor.digest, diff_id) not in told:
        told.add((layer.descriptor.digest, diff_id))
        yield Problem(Kind.DIFF_ID, "", f"diff_id mismatch: expected {diff_id}, got {got}")
    if layer.descriptor.digest not in told:
        told.add(layer.descriptor.digest)
        yield from examined.problems
