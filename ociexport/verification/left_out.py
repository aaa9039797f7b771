"""What a thin layout or archive lacks on purpose, as its ``bundle.json`` says, and reports of that document alone.

``bundle.json`` names every image with its manifests and layers, and the size of each blob. So a report can be made
without the blobs: of what was sent last month, for example, where only that document was kept.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import Enum

from ociexport.errors import NotFoundError, quoted
from ociexport.images.companions import is_companion_tag
from ociexport.spec import mediatypes
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.storage.bundle import MAX_BUNDLE_BYTES, Bundle, BundleImage, BundleManifest, parse_bundle
from ociexport.system.content import is_meant_as_tar
from ociexport.verification.parts import Part

_HEAD_BYTES = 512


class Place(Enum):
    """Where a blob is that is not inside. The values are stable, since scripts compare them."""

    FAR_SIDE = "far-side"
    RECIPE = "recipe"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A blob that is not inside on purpose.

    Args:
        size: as declared.
        place: where it is: on the far side, made there by a recipe, or in another volume of the same set.
    """

    size: int
    place: Place


def left_out_of(bundle: Bundle | None) -> Mapping[Digest, LeftOut]:
    """Return the blobs that a bundle names and does not hold; nothing without a bundle."""
    if bundle is None:
        return {}
    found: dict[Digest, LeftOut] = {}
    if bundle.volume is not None:
        found |= {blob.digest: LeftOut(blob.size, Place.VOLUME) for blob in bundle.volume.blobs}
    found |= {recipe.layer.digest: LeftOut(recipe.layer.size, Place.RECIPE) for recipe in bundle.recipes}
    found |= {blob.digest: LeftOut(blob.size, Place.FAR_SIDE) for blob in bundle.expected}
    return found


def recipes_of(bundle: Bundle | None) -> Mapping[Digest, Digest]:
    """Return the digest of the recipe of each layer that a bundle brings as one."""
    return {recipe.layer.digest: recipe.recipe.digest for recipe in bundle.recipes} if bundle is not None else {}


def read_bundle_file(source: str) -> Bundle | None:
    """Return the ``bundle.json`` that ``source`` is the path of; None if it is no file of JSON.

    Raises:
        NotFoundError: a file of JSON is named, and missing.
        InvalidImageError: the file is JSON, and no such document.
        OSError: it can't be read.
    """
    if not os.path.isfile(source):
        if source.endswith(".json") and not os.path.lexists(source):
            raise NotFoundError(f"{quoted(source)}: expected a bundle.json, there is no such file")
        return None
    with open(source, "rb") as file:
        head = file.read(_HEAD_BYTES)
        if not head.lstrip().startswith(b"{") or is_meant_as_tar(head):
            return None
        raw = head + file.read(MAX_BUNDLE_BYTES)
    return parse_bundle(raw, where=source)


class ToldContents:
    """What a ``bundle.json`` alone says of the images in its bundle.

    Attributes:
        stored: the size of each blob and document that the bundle holds.
        images: those that are no signatures and the like, by digest.
        others: the rest.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._types = {blob.digest: blob.media_type for blob in (*bundle.documents, *bundle.blobs, *bundle.expected)}
        self._types |= {recipe.layer.digest: recipe.layer.media_type for recipe in bundle.recipes}
        self._layers = {blob.digest for blob in (*bundle.blobs, *bundle.expected) if blob.diff_id is not None}
        self._layers |= bundle.made_digests
        self.stored = {blob.digest: blob.size for blob in (*bundle.documents, *bundle.blobs)}
        self.stored |= {recipe.recipe.digest: recipe.recipe.size for recipe in bundle.recipes}
        by_digest: dict[Digest, list[BundleImage]] = {}
        for image in bundle.images:
            by_digest.setdefault(image.digest, []).append(image)
        groups = by_digest.values()
        self.images = [group for group in groups if not all(map(self._is_about_another, group))]
        self.others = [group for group in groups if all(map(self._is_about_another, group))]

    def media_type_of(self, image: BundleImage) -> str:
        """Return the media type of an image's manifest or index."""
        return self._types.get(image.digest, "")

    def reached_by(self, image: BundleImage) -> set[Digest]:
        """Return everything that an image needs, as far as it is known."""
        parts = image.manifests
        reached = {image.digest, *(one.digest for one in parts), *(one.config for one in parts)}
        reached |= {layer for one in parts for layer in one.layers}
        recipes = recipes_of(self._bundle)
        return reached | {recipes[layer] for layer in reached if layer in recipes}

    def part_of(self, one: BundleManifest) -> Part:
        """Return a manifest as a report shows it."""
        type_ = None if self._is_image(one) else self._artifact_type_of(one)
        size = self.stored.get(one.digest, 0)
        return Part(one.digest, size, one.platform, config=one.config, layers=len(one.layers), artifact_type=type_)

    def uses(self) -> Counter[Digest]:
        """Return how many images need each blob that is stored."""
        groups = (*self.images, *self.others)
        return Counter(digest for group in groups for digest in self._reached(group) if digest in self.stored)

    def _reached(self, group: Iterable[BundleImage]) -> set[Digest]:
        return {digest for image in group for digest in self.reached_by(image)}

    def _is_about_another(self, image: BundleImage) -> bool:
        """Whether an image is a signature or the like, by its tag or, without a name, by what it holds."""
        if image.name is not None:
            return is_companion_tag(image.name.rpartition(":")[2])
        return bool(image.manifests) and not any(map(self._is_image, image.manifests))

    def _is_image(self, one: BundleManifest) -> bool:
        if self._types.get(one.config, "") not in mediatypes.IMAGE_CONFIGS:
            return False
        return not one.layers or any(layer in self._layers for layer in one.layers)

    def _artifact_type_of(self, one: BundleManifest) -> str:
        types = [self._types.get(digest, "") for digest in (*one.layers[:1], one.config)]
        return next(filter(None, types), "unknown")
