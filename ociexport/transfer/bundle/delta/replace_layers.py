"""with_recipes(): the new layers of thin images replaced by recipes, where a recipe is smaller.

For each layer: its likely predecessors are found, a recipe is made, and the compression is searched by trial. A layer
whose bytes can be made again keeps its digest. Any other one becomes a plain tar on the far side, if that is allowed:
the manifests and indexes that name it are then written anew, and docker's image ID stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from io import FileIO

from ociexport.errors import InvalidImageError, LimitExceededError, NotFoundError, locating
from ociexport.images.prepare import PreparedImage, PreparedManifest
from ociexport.images.source import BlobOpener, ImageName, innermost, servers_of
from ociexport.images.wanted_blobs import BlobToFetch, open_stream
from ociexport.spec import mediatypes
from ociexport.spec.config import pair_layers
from ociexport.spec.descriptor import Descriptor, Platform
from ociexport.spec.digest import Digest
from ociexport.spec.lazy_dataclass import dataclass
from ociexport.spec.named_tuple import NamedTuple
from ociexport.storage.bundle_recipes import BundleRecipe, RecipeBase
from ociexport.system.progress.protocol import Progress, format_bytes
from ociexport.system.temporary_files import append_whole, open_temporary_file
from ociexport.transfer.bundle.delta.bases import BaseLayer, Bases, HaveBytes, open_bases
from ociexport.transfer.bundle.delta.make import TarFile, make_recipe
from ociexport.transfer.bundle.delta.predecessor import Predecessors
from ociexport.transfer.bundle.delta.recipe import MEDIA_TYPE, Recipe
from ociexport.transfer.bundle.delta.recompress import PLAIN, Compression, find_compression
from ociexport.transfer.bundle.delta.spool import FileSection, SpooledBlobs, chunks_of, spool_blob, spool_tar
from ociexport.transfer.decompress import plain_media_type, with_plain_layers

# A trial of a compression ends at the first byte that differs, so small pieces save time.
_TRIAL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class DeltaOptions:
    """How recipes are made.

    Args:
        have: where the bytes of older layers are.
        allow_recompressed: whether a layer may become a plain tar, which changes the manifest's digest.
    """

    have: HaveBytes
    allow_recompressed: bool = False


@dataclass(frozen=True, slots=True)
class Recipes:
    """The recipes of some images; closed with `close`.

    Args:
        made: what travels.
        refused: layers that travel whole since they can't be made again with their digest, and the sizes that their
            recipes would have.
        changed: the published digests of manifests and indexes that were written anew, by the new digests.
        blobs: opens the recipes.
    """

    made: tuple[BundleRecipe, ...]
    refused: Mapping[Digest, int]
    changed: Mapping[Digest, Digest]
    blobs: SpooledBlobs

    def close(self) -> None:
        """Close the temporary file."""
        self.blobs.close()


class _NewLayer(NamedTuple):
    """A layer that travels.

    Args:
        name: of its image.
        position: in its image, from 0.
    """

    blob: BlobToFetch
    diff_id: Digest
    name: ImageName
    platform: Platform | None
    position: int


class _TooLargeError(LimitExceededError):
    """The recipe is larger than the layer; never leaves this module."""


def with_recipes(
    images: Sequence[PreparedImage], options: DeltaOptions, progress: Progress
) -> tuple[tuple[PreparedImage, ...], Recipes]:
    """Return ``images`` with recipes in place of new layers, and these recipes; the caller closes them.

    Args:
        images: with only the blobs that travel.

    Raises:
        NotFoundError, RegistryError: a layer or a HAVE can't be read.
        InvalidImageError: a new layer does not match its digest or diff_id.
        TemporaryFileError: there is no room for the tars.
    """
    with ExitStack() as stack:
        blobs = SpooledBlobs()
        on_error = stack.enter_context(ExitStack())
        on_error.callback(blobs.close)
        bases = stack.enter_context(open_bases(options.have, progress))
        maker = _Maker(bases, options, blobs, progress)
        stack.callback(maker.close)
        layers = list(_new_layers(images)) if bases.images else []
        with progress.phase("comparing", sum(layer.blob.descriptor.size for layer in layers)):
            for layer in layers:
                maker.make(layer)
        written = tuple(maker.replaced(image) for image in images)
        on_error.pop_all()
        return written, Recipes(tuple(maker.made.values()), maker.refused, maker.changed, blobs)


def _new_layers(images: Sequence[PreparedImage]) -> Iterator[_NewLayer]:
    """Yield each layer that travels once; blobs of artifacts are no layers."""
    seen: set[Digest] = set()
    for image in images:
        blobs = {blob.descriptor.digest: blob for blob in image.blobs}
        for one in image.manifests:
            yield from _new_layers_of(image, one, blobs, seen)


def _new_layers_of(
    image: PreparedImage, one: PreparedManifest, blobs: Mapping[Digest, BlobToFetch], seen: set[Digest]
) -> Iterator[_NewLayer]:
    for position, layer in enumerate(pair_layers(one.manifest, one.config) if one.config is not None else ()):
        digest = layer.descriptor.digest
        blob = blobs.get(digest)
        if blob is None or blob.content is not None or digest in seen:
            continue
        if mediatypes.is_layer(layer.descriptor.media_type):
            seen.add(digest)
            yield _NewLayer(blob, layer.diff_id, image.name, one.platform, position)


class _Maker:
    """Makes recipes, and holds what came of it.

    Attributes:
        made: by the published digest of the layer.
        refused: see `Recipes`.
        changed: see `Recipes`.
    """

    def __init__(self, bases: Bases, options: DeltaOptions, blobs: SpooledBlobs, progress: Progress) -> None:
        self._bases = bases
        self._options = options
        self._blobs = blobs
        self._progress = progress
        self._predecessors = Predecessors(bases.images, progress)
        self._fetched: set[Digest] = set()
        self.made: dict[Digest, BundleRecipe] = {}
        self.refused: dict[Digest, int] = {}
        self.changed: dict[Digest, Digest] = {}

    def close(self) -> None:
        """Close the tars of older layers."""
        self._predecessors.close()

    def make(self, layer: _NewLayer) -> None:
        """Make the recipe of a layer, if there is one that is smaller than the layer."""
        blob = layer.blob
        descriptor = blob.descriptor
        with (
            self._progress.task(blob.title, descriptor.size, digest=descriptor.digest) as task,
            closing(spool_blob(open_stream(blob, 0), descriptor, blob.label)) as stored,
            closing(_spool_new_tar(stored.fileno(), layer)) as tar,
        ):
            recipe = self._made_from_predecessors(layer, TarFile(tar.fileno(), layer.diff_id))
            if recipe is not None:
                self._decide(layer, recipe, _compression_of(stored.fileno(), tar.fileno(), layer))
            if descriptor.digest not in self.made and servers_of(innermost(blob.source)):
                self._blobs.add(descriptor.media_type, chunks_of(stored.fileno()))  # so that it is fetched once
                self._fetched.add(descriptor.digest)
            task.advance(descriptor.size)

    def _made_from_predecessors(self, layer: _NewLayer, tar: TarFile) -> tuple[Recipe, Descriptor] | None:
        """Return a recipe and its blob; None if there is none that is smaller than the layer."""
        found = self._predecessors.find(tar.fd, layer.diff_id, layer.name, layer.platform, layer.position)
        bases = self._tars_of(found)
        if not bases:
            return None
        left = layer.blob.descriptor.size

        def write(batch: bytes) -> None:
            nonlocal left
            left -= len(batch)
            if left <= 0:
                raise _TooLargeError("larger than the layer")
            append_whole(batches, batch)

        with closing(open_temporary_file()) as batches:
            try:
                recipe = make_recipe(tar, bases, write)
                head = recipe.encode()
            except LimitExceededError:
                return None
            if left <= len(head):
                return None
            made = self._blobs.add(MEDIA_TYPE, _joined(head, batches.fileno()))
        return recipe, made

    def _tars_of(self, layers: Sequence[BaseLayer]) -> list[TarFile]:
        bases = []
        for layer in layers:
            try:
                bases.append(self._predecessors.tar_of(layer))
            except (InvalidImageError, NotFoundError) as error:
                self._progress.warn(f"older layer {layer.descriptor.digest}: {error}; no recipe is made from it")
        return bases

    def _decide(self, layer: _NewLayer, recipe: tuple[Recipe, Descriptor], compression: Compression | None) -> None:
        """Take the recipe, or note how small it would be."""
        head, made = recipe
        published = layer.blob.descriptor
        if compression is None and not self._options.allow_recompressed:
            self.refused[published.digest] = made.size
            return
        plain = Descriptor(plain_media_type(published.media_type), layer.diff_id, head.size)
        self.made[published.digest] = BundleRecipe(
            layer=published if compression is not None else plain,
            diff_id=layer.diff_id,
            compression=(compression or PLAIN).to_json(),
            recipe=made,
            bases=tuple(
                RecipeBase(
                    base.diff_id,
                    base.size,
                    self._bases.digests.get(base.diff_id, ()),
                    self._bases.since.get(base.diff_id, ()),
                )
                for base in head.bases
            ),
            published=None if compression is not None else published,
        )
        self._progress.say(
            f"{layer.blob.title}: a recipe of {format_bytes(made.size)} instead of {format_bytes(published.size)}"
        )

    def replaced(self, image: PreparedImage) -> PreparedImage:
        """Return ``image`` with the recipes among its blobs, and with the manifests that name the layers made."""
        written = with_plain_layers(image, _Recompressed(self.made, self._blobs), self._progress)
        if written is not image:
            documents = zip(image.documents, written.documents, strict=True)
            self.changed |= {new.digest: old.digest for old, new in documents if new.digest != old.digest}
        by_layer = {recipe.layer.digest: recipe for recipe in self.made.values()}
        return written._replace(blobs=tuple(self._travelling(blob, by_layer) for blob in written.blobs))

    def _travelling(self, blob: BlobToFetch, recipes: Mapping[Digest, BundleRecipe]) -> BlobToFetch:
        recipe = recipes.get(blob.descriptor.digest)
        if recipe is None:
            return blob._replace(source=self._blobs) if blob.descriptor.digest in self._fetched else blob
        label = f"recipe of {blob.label}"
        return BlobToFetch(self._blobs, recipe.recipe, label, f"recipe of {blob.title}", None)


class _Recompressed:
    """The layers that become plain tars, as `with_plain_layers` asks for them."""

    def __init__(self, made: Mapping[Digest, BundleRecipe], opener: BlobOpener) -> None:
        plain = {digest: recipe for digest, recipe in made.items() if recipe.published is not None}
        self.diff_ids = {digest: recipe.diff_id for digest, recipe in plain.items()}
        self.sizes = {recipe.diff_id: recipe.layer.size for recipe in plain.values()}
        self.layout = opener

    def is_compressed(self, digest: Digest) -> bool:
        return digest in self.diff_ids


def _spool_new_tar(stored: int, layer: _NewLayer) -> FileIO:
    size = os.fstat(stored).st_size
    with locating(layer.blob.label):
        return spool_tar(FileSection(stored, 0, size), layer.diff_id, size)


def _compression_of(stored: int, tar: int, layer: _NewLayer) -> Compression | None:
    if layer.blob.descriptor.digest == layer.diff_id:
        return PLAIN
    return find_compression(
        lambda: chunks_of(stored, _TRIAL_BYTES), lambda: chunks_of(tar, _TRIAL_BYTES), os.fstat(tar).st_size
    )


def _joined(head: bytes, batches: int) -> Iterator[bytes]:
    yield head
    yield from chunks_of(batches)
