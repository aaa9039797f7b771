"""What a recipe makes on the far side: the bytes of a layer, from the blobs of older layers that are there.

The layer goes into a layout as any other blob does, or nowhere, to prove that it can be made.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing

from ociexport.errors import InvalidImageError, NotFoundError, SizeMismatchError, counted, locating
from ociexport.images.source import BlobOpener
from ociexport.spec.descriptor import Descriptor
from ociexport.spec.digest import CHUNK_BYTES, Verifier, VerifyingReader
from ociexport.spec.json_fields import JsonObject
from ociexport.storage.bundle_recipes import BundleRecipe, RecipeBase
from ociexport.storage.layout.layout import ImageLayout
from ociexport.system.compression import verify_ratio
from ociexport.system.progress.protocol import Progress
from ociexport.transfer.bundle.delta.apply import apply_recipe
from ociexport.transfer.bundle.delta.recipe import Base, Recipe, read_recipe
from ociexport.transfer.bundle.delta.recompress import Compression, parse_compression
from ociexport.transfer.bundle.delta.spool import spool_tar, verify_diff_id


class BaseError(InvalidImageError):
    """A base of a recipe is missing or differs.

    Args:
        base: in ``bundle.json``.
    """

    def __init__(self, message: str, base: RecipeBase) -> None:
        super().__init__(message, where=f"base {base.diff_id}")
        self.since = base.since


def rebuild_layer(recipe: BundleRecipe, bundle: BlobOpener, layout: ImageLayout, progress: Progress) -> None:
    """Write the layer that ``recipe`` makes into ``layout``, which is in use and has the bases.

    Args:
        bundle: opens the recipe.

    Raises:
        BaseError: a base is missing, or none of the blobs that should hold it does.
        InvalidImageError, NotFoundError: the recipe is damaged, or makes other bytes; nothing was written.
        OSError: the disk or file system.
    """
    layer = recipe.layer
    with (
        closing(layer_chunks(recipe, bundle, [layout])) as chunks,
        progress.task(f"layer {layer.digest.short} from its recipe", layer.size, digest=layer.digest) as task,
        layout.new_blob(layer) as writer,
    ):
        if writer.is_complete:
            return
        writer.restart()
        for chunk in chunks:
            writer.write(chunk)
            task.advance(len(chunk))


def verify_recipe(recipe: BundleRecipe, bundle: BlobOpener, bases: Sequence[BlobOpener]) -> None:
    """Return if ``recipe`` makes its layer; the layer is written nowhere.

    Raises:
        as `rebuild_layer`.
    """
    verifier = Verifier(recipe.layer.digest, recipe.layer.size, subject="")
    for chunk in layer_chunks(recipe, bundle, bases):
        verifier.update(chunk)
    verifier.verify()


def layer_chunks(recipe: BundleRecipe, bundle: BlobOpener, bases: Sequence[BlobOpener]) -> Generator[bytes]:
    """Yield the bytes of the layer that ``recipe`` makes; the caller verifies its digest.

    1. The recipe's head is read, and compared with what ``bundle.json`` says.
    2. The bases are inflated into temporary files, and their diff_ids are verified.
    3. The tar is made, its diff_id verified at the end, and compressed. A plain layer's digest is its diff_id.

    Raises:
        as `rebuild_layer`.
    """
    where = f"recipe {recipe.recipe.digest}"
    compression = parse_compression(JsonObject(recipe.compression, "bundle.json: compression"))
    with ExitStack() as stack:
        reader = stack.enter_context(
            VerifyingReader(bundle.open_blob(recipe.recipe), recipe.recipe.digest, recipe.recipe.size, subject=where)
        )
        head = read_recipe(reader, where=where)  # 1
        _verify_head(head, recipe, compression, where)
        known = {base.diff_id: base for base in recipe.bases}
        tars = [_open_base(base, known[base.diff_id], bases, stack) for base in head.bases]  # 2
        tar = _in_large_chunks(apply_recipe(head, reader, tars, where=where))
        if recipe.layer.digest != recipe.diff_id:
            tar = _verified(tar, Verifier(head.diff_id, head.size, subject=""))
        yield from compression.compress(tar, head.size)  # 3


def _verified(chunks: Iterator[bytes], verifier: Verifier) -> Iterator[bytes]:
    for chunk in chunks:
        verifier.update(chunk)
        yield chunk
    verify_diff_id(verifier)


def _in_large_chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in chunks that are worth a call: a recipe copies many small files."""
    chunk = bytearray()
    for piece in pieces:
        chunk += piece
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def _verify_head(head: Recipe, recipe: BundleRecipe, compression: Compression, where: str) -> None:
    if head.diff_id != recipe.diff_id:
        raise InvalidImageError(
            f"diffId: expected {recipe.diff_id}, as bundle.json says, got {head.diff_id}", where=where
        )
    if compression.name == "none" and head.size != recipe.layer.size:
        raise SizeMismatchError(f"size: expected {recipe.layer.size}, got {head.size}", where=where)
    with locating(where):
        verify_ratio(head.size, recipe.layer.size)
        compression.verify_fits(head.size)
    known = {base.diff_id for base in recipe.bases}
    for base in head.bases:
        if base.diff_id not in known:
            raise InvalidImageError(f"expected a base that bundle.json names, got {base.diff_id}", where=where)


def _open_base(base: Base, known: RecipeBase, openers: Sequence[BlobOpener], stack: ExitStack) -> int:
    """Return a file with the tar of a base, verified, which ``stack`` closes."""
    failure: InvalidImageError | None = None
    for opener in openers:
        for digest in known.all_digests:
            try:
                blob = opener.open_blob(Descriptor("", digest, known.size))
                tar = stack.enter_context(closing(spool_tar(blob, known.diff_id, known.size)))
            except NotFoundError:
                continue
            except InvalidImageError as error:
                failure = failure or error
                continue
            if tar.tell() != base.size:
                raise BaseError(f"expected {counted(base.size, 'byte')}, as the recipe says, got {tar.tell()}", known)
            return tar.fileno()
    raise BaseError(failure.message if failure is not None else "not there", known) from failure
