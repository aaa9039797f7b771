"""What `ociexport pull --delta` prints about the layers that travel as recipes, and about the digests that change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ociexport.errors import counted
from ociexport.system.progress.protocol import Progress, format_bytes

if TYPE_CHECKING:
    from ociexport.transfer.result import ThinContent


def tell_recipes(images: Sequence[ThinContent], place: str, progress: Progress) -> None:
    """Report the recipes of all images that were pulled together; nothing if none were asked for."""
    deltas = [image.delta for image in images if image.delta is not None]
    if not deltas:
        return
    recipes = {recipe.layer.digest: recipe for delta in deltas for recipe in delta.recipes}.values()
    if recipes:
        whole = sum((recipe.published or recipe.layer).size for recipe in recipes)
        progress.say(
            f"{place}: {counted(len(recipes), 'layer')} as recipes, "
            f"{format_bytes(sum(recipe.recipe.size for recipe in recipes))} instead of {format_bytes(whole)}; "
            "ociexport merge makes the layers, docker and other tools can't load it before"
        )
    else:
        progress.say(f"{place}: no layer travels as a recipe")
    refused = {digest: sizes for delta in deltas for digest, sizes in delta.refused.items()}
    if refused:
        layer_bytes, recipe_bytes = map(sum, zip(*refused.values(), strict=True))
        progress.say(
            f"{place}: {counted(len(refused), 'layer')} could travel as recipes, {format_bytes(recipe_bytes)} instead "
            f"of {format_bytes(layer_bytes)}; with --allow-recompressed they do, and their digests change"
        )
    for recipe in recipes:
        if recipe.published is not None:
            progress.say(f"{place}: layer {recipe.published.digest} becomes the plain {recipe.layer.digest}")
    for old, new in {old: new for delta in deltas for old, new in delta.changed.items()}.items():
        progress.say(f"{place}: {old} becomes {new}; its image ID stays")


def recipes_to_json(thin: ThinContent) -> dict[str, object]:
    """Return what recipes brought for one image; nothing if none were asked for."""
    if thin.delta is None:
        return {}
    return {
        "recipes": [
            {
                "digest": str(recipe.layer.digest),
                "size": recipe.layer.size,
                "diffId": str(recipe.diff_id),
                "recipe": str(recipe.recipe.digest),
                "recipeSize": recipe.recipe.size,
                "publishedDigest": str((recipe.published or recipe.layer).digest),
                "publishedSize": (recipe.published or recipe.layer).size,
                "bases": [str(base.diff_id) for base in recipe.bases],
            }
            for recipe in thin.delta.recipes
        ],
        "refusedRecipes": [
            {"digest": str(digest), "size": size, "recipeSize": recipe_size}
            for digest, (size, recipe_size) in thin.delta.refused.items()
        ],
        "changedDigests": [{"published": str(old), "now": str(new)} for old, new in thin.delta.changed.items()],
    }
