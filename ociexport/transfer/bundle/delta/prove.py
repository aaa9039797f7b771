"""prove_recipes(): whether recipes make their layers from what the far side has; the layers are kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from ociexport.errors import InvalidImageError, NotFoundError
from ociexport.images.source import BlobOpener
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import ByteStream, Digest
from ociexport.storage.bundle_recipes import BundleRecipe
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.bundle.delta.bases import BaseLayer, HaveBytes, open_bases
from ociexport.transfer.bundle.delta.rebuild import verify_recipe


class _HeldLayers:
    """Opens the layers of all HAVEs by their digests."""

    def __init__(self, layers: Sequence[BaseLayer]) -> None:
        self._layers = {layer.descriptor.digest: layer for layer in layers}

    def open_blob(self, descriptor: Descriptor, offset: int = 0) -> ByteStream:
        layer = self._layers.get(descriptor.digest)
        if layer is None:
            raise NotFoundError(f"blob {descriptor.digest}: in no HAVE")
        return layer.source.open_blob(layer.descriptor, offset)


def prove_recipes(
    recipes: Sequence[BundleRecipe], bundle: BlobOpener, have: HaveBytes, progress: Progress
) -> dict[Digest, str]:
    """Return why layers can't be made, by their digests.

    A layer whose bases ``have`` tells of without giving their bytes is not tried; a line says so.

    Raises:
        TemporaryFileError: there is no room for the tars.
        NotFoundError, RegistryError, InvalidImageError: a HAVE can't be read.
    """
    problems = {}
    with open_bases(have, progress) as bases:
        layers = [layer for image in bases.images for layer in image.layers if layer is not None]
        readable = {digest for layer in layers for digest in (layer.diff_id, layer.descriptor.digest)}
        for recipe in recipes:
            if any(readable.isdisjoint(base.all_digests) for base in recipe.bases):
                progress.warn(f"layer {recipe.layer.digest}: not made, since HAVE gives no bytes of the older layers")
                continue
            try:
                verify_recipe(recipe, bundle, [_HeldLayers(layers)])
            except (InvalidImageError, NotFoundError) as error:
                problems[recipe.layer.digest] = str(error)
    return problems
