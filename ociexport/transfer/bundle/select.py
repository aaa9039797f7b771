"""Which blobs of images may be left out, since the far side has them.

``docker``: of each image, the longest leading run of layers that the far side has. docker finds a layer only by the
chain of all layers below it. ``registry`` and ``layout``: any blob that it has, by digest.

Manifests, indexes and configs always travel, so the far side can prove what it has.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING

from ociexport.images.holdings import HeldLayer, Holdings, held_by_docker
from ociexport.images.prepare import PreparedImage, PreparedManifest
from ociexport.images.wanted_blobs import BlobToFetch
from ociexport.spec.config import pair_layers
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass, replace
from ociexport.transfer.result import DeltaContent, PullResult, ThinContent, WrittenVolume

if TYPE_CHECKING:
    from ociexport.transfer.bundle.delta.replace_layers import DeltaOptions, Recipes

DOCKER, REGISTRY, LAYOUT = "docker", "registry", "layout"


@dataclass(frozen=True, slots=True)
class ThinOptions:
    """How much of an image the far side has.

    Args:
        since: what it has; empty for volumes of whole images.
        rule: `DOCKER`, `REGISTRY` or `LAYOUT`.
        seconds: the time in ``bundle.json``, since 1970; None for none.
        delta: how recipes of new layers are made; None to copy whole layers.
    """

    since: tuple[Holdings, ...]
    rule: str = LAYOUT
    seconds: int | None = None
    delta: DeltaOptions | None = None


@dataclass(frozen=True, slots=True)
class ExpectedBlob:
    """A blob that is left out.

    Args:
        since: names of the HAVEs that have it.
    """

    blob: BlobToFetch
    since: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Images with only the blobs that are new to the far side, and the blobs that were left out; closed with `close`.

    Args:
        recipes: that are among the blobs in place of layers; None if none were asked for.
    """

    images: tuple[PreparedImage, ...]
    expected: tuple[ExpectedBlob, ...]
    recipes: Recipes | None = None

    def close(self) -> None:
        """Close the file of the recipes."""
        if self.recipes is not None:
            self.recipes.close()

    def result_of(
        self, result: PullResult, image: PreparedImage, volumes: tuple[WrittenVolume, ...] = ()
    ) -> PullResult:
        """Return ``result`` with what is new in ``image``, one of the images, and what was left out of it."""
        configs = {one.manifest.config.digest for one in image.manifests}
        needed = {layer.digest for one in image.manifests for layer in one.manifest.layers}
        expected = [one.blob.descriptor for one in self.expected]
        return replace(
            result,
            thin=ThinContent(
                tuple(blob.descriptor for blob in image.blobs if blob.descriptor.digest not in configs),
                tuple(descriptor for descriptor in expected if descriptor.digest in needed),
                volumes,
                self._delta_of(image, needed) if self.recipes is not None else None,
            ),
        )

    def _delta_of(self, image: PreparedImage, needed: Container[Digest]) -> DeltaContent:
        assert self.recipes is not None  # noqa: S101 - asked before
        sizes = {blob.descriptor.digest: blob.descriptor.size for blob in image.blobs}
        return DeltaContent(
            tuple(recipe for recipe in self.recipes.made if recipe.layer.digest in needed),
            {digest: (sizes[digest], size) for digest, size in self.recipes.refused.items() if digest in sizes},
            {
                old: document.digest
                for document in image.documents
                if (old := self.recipes.changed.get(document.digest)) is not None
            },
        )


def select_new(images: Sequence[PreparedImage], thin: ThinOptions) -> Selection:
    """Return ``images`` without the blobs that the far side has.

    A blob that several images or layers use stays if one of them needs it.
    """
    blobs = {blob.descriptor.digest: blob for image in images for blob in image.blobs}
    configs = {one.manifest.config.digest for image in images for one in image.manifests}
    if thin.rule == DOCKER:
        manifests = [one for image in images for one in image.manifests]
        artifacts = {layer.digest for one in manifests if one.config is None for layer in one.manifest.layers}
        had = held_by_docker(map(_layers_of, manifests), thin.since)
        since = {digest: names for digest, names in had.items() if digest not in artifacts}
    else:
        since = {digest: _names(one for one in thin.since if one.has_blob(digest)) for digest in blobs}
    expected = {
        digest: ExpectedBlob(blob, since[digest])
        for digest, blob in blobs.items()
        if digest not in configs and since.get(digest)
    }
    return Selection(
        tuple(
            image._replace(blobs=tuple(blob for blob in image.blobs if blob.descriptor.digest not in expected))
            for image in images
        ),
        tuple(expected.values()),
    )


def _layers_of(one: PreparedManifest) -> list[HeldLayer]:
    """Return the layers of an image with their diff_ids; none of an artifact, which docker does not read."""
    if one.config is None:
        return []
    return [HeldLayer(layer.descriptor.digest, layer.diff_id) for layer in pair_layers(one.manifest, one.config)]


def _names(holdings: Iterable[Holdings]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.name for one in holdings))
