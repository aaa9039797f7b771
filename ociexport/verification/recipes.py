"""The recipes of a bundle: whether they are there, and whether the far side has the older layers that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from ociexport.errors import counted, printable
from ociexport.images.holdings import Holdings
from ociexport.images.source import BlobOpener
from ociexport.spec.digest import Digest
from ociexport.storage.bundle import Bundle
from ociexport.storage.bundle_recipes import BundleRecipe, RecipeBase
from ociexport.storage.layout.documents import BUNDLE_FILE
from ociexport.verification.blobs import BlobState, BlobToCheck
from ociexport.verification.findings import Findings, Kind
from ociexport.verification.walk import Walk

# Makes the layers of recipes from what the far side has, and keeps none; returns why a layer can't be made, by its
# digest, and nothing for those that can.
RecipeProver: TypeAlias = Callable[[Sequence[BundleRecipe], BlobOpener], Mapping[Digest, str]]


def recipes_to_check(bundle: Bundle | None, open_blob: Callable[[Digest], BlobOpener]) -> list[BlobToCheck]:
    """Return the blobs of all recipes."""
    blobs = {one.recipe.digest: one.recipe for one in (bundle.recipes if bundle is not None else ())}
    return [
        BlobToCheck(digest, partial(open_blob(digest).open_blob, descriptor), (descriptor.size,))
        for digest, descriptor in blobs.items()
    ]


def made_layers(walk: Walk, states: Mapping[Digest, BlobState], bundle: Bundle | None) -> dict[Digest, BundleRecipe]:
    """Return the recipes of the layers that are absent since they are made on the far side, by the layers' digests."""
    return {
        one.layer.digest: one
        for one in (bundle.recipes if bundle is not None else ())
        if one.layer.digest in walk.blobs and states[one.layer.digest].kind is Kind.MISSING
    }


def bases_of(recipes: Mapping[Digest, BundleRecipe]) -> frozenset[Digest]:
    """Return all digests and diff_ids of the older layers that ``recipes`` need."""
    return frozenset(digest for one in recipes.values() for base in one.bases for digest in base.all_digests)


def add_recipe_findings(
    bundle: Bundle,
    made: Mapping[Digest, BundleRecipe],
    walk: Walk,
    states: Mapping[Digest, BlobState],
    *,
    held: Sequence[Holdings] | None,
    findings: Findings,
) -> dict[Digest, BundleRecipe]:
    """Note each layer that a recipe makes; a recipe that is damaged, or lacks a base in ``held``, is a problem.

    Returns:
        the recipes without a problem, by the layers' digests.
    """
    good = {}
    for one in bundle.recipes:
        digest = one.layer.digest
        if digest not in walk.blobs:
            findings.add(Kind.DOCUMENT, f"{BUNDLE_FILE}: recipes: {digest}", "no image needs it", digest=digest)
            continue
        place = walk.blobs[digest][0].place
        if walk.blobs[digest][0].descriptor.size != one.layer.size:
            expected = counted(walk.blobs[digest][0].descriptor.size, "byte")
            message = f"size mismatch: expected {expected}, got {one.layer.size}"
            findings.add(Kind.SIZE, f"{BUNDLE_FILE}: recipes: {digest}", message, digest=digest)
            continue
        state = states[one.recipe.digest]
        if state.kind is not None:
            findings.add(state.kind, f"{place}: recipe {one.recipe.digest}", state.message, digest=one.recipe.digest)
        elif digest in made and any(there.has_blob(digest) for there in held or ()):
            findings.add(Kind.ABSENT, place, "on the far side already", is_wrong=False, digest=digest)
        elif digest in made and _has_bases(one, place, held, findings):
            good[digest] = one
            there = "" if held is None else ", and its older layers are there"
            message = f"made on the far side, from a recipe of {counted(one.recipe.size, 'byte')}{there}"
            findings.add(Kind.ABSENT, place, message, is_wrong=False, digest=digest)
    return good


def add_proof_findings(
    recipes: Mapping[Digest, BundleRecipe], problems: Mapping[Digest, str], walk: Walk, findings: Findings
) -> None:
    """Report the layers that can't be made."""
    for digest in recipes:
        if digest in problems:
            findings.add(Kind.DIGEST, walk.blobs[digest][0].place, problems[digest], digest=digest)


def _has_bases(recipe: BundleRecipe, place: str, held: Sequence[Holdings] | None, findings: Findings) -> bool:
    missing = [base for base in recipe.bases if held is not None and not any(_has_base(one, base) for one in held)]
    for base in missing:
        holders = f"; {' or '.join(map(printable, base.since))} should have it" if base.since else ""
        message = f"not there, and the recipe needs it{holders}"
        findings.add(Kind.MISSING, f"{place}: base {base.diff_id}", message, digest=recipe.layer.digest)
    return not missing


def _has_base(held: Holdings, base: RecipeBase) -> bool:
    return any(map(held.has_blob, base.all_digests)) or _has_diff_id(held, base.diff_id)


def _has_diff_id(held: Holdings, diff_id: Digest) -> bool:
    return any(layer.diff_id == diff_id for chain in held.chains for layer in chain)
